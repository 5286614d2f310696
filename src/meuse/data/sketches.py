"""Figures of a column that need little memory, whatever the number of rows.

Values become 64-bit hashes, the same in every run. Distinct ones are counted exactly up to a
bound and by HyperLogLog beyond (Flajolet et al., 2007, with 2¹⁴ registers: a standard error of
0.8 %). Means and variances are merged block by block (Chan, Golub and LeVeque, 1983). Knows
pyarrow and numpy; knows no datasets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
NULL = np.uint64(0x9E3779B97F4A7C15)
"""The hash of a missing value."""
_BITS = 14
_REGISTERS = 1 << _BITS
COUNTED = 10_000
"""Values that are counted by themselves, before the rare ones are let go."""
_KEPT = 1000
MAX_TEXT = 256
"""Longer texts (bytes) are not counted by value."""


def mix(values: Hashes) -> Hashes:
    """The finalizer of SplitMix64 (Steele, Lea and Flood, 2014): close values far apart."""
    x = values + NULL
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: Hashes = x ^ (x >> np.uint64(31))
    return mixed


def hashed(values: pa.Array[Any]) -> Hashes:
    """A hash of each value [n]; equal values, equal hashes. Missing is `NULL`."""
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        filled = values.fill_null(0).to_numpy(zero_copy_only=False)
        if filled.dtype.kind == "f":
            filled = filled + 0.0  # one zero only
        found = mix(np.ascontiguousarray(filled).view(np.uint64))
    else:
        if pa.types.is_fixed_size_binary(kind):
            values = values.cast(pa.binary())
        coded = pc.dictionary_encode(values)
        words = np.fromiter(
            (_hash(word) for word in coded.dictionary.to_pylist()), np.uint64, len(coded.dictionary)
        )
        if len(words) == 0:
            words = np.zeros(1, np.uint64)
        found = words[coded.indices.fill_null(0).to_numpy(zero_copy_only=False)]
    if values.null_count:
        found[values.is_null().to_numpy(zero_copy_only=False)] = NULL
    return found


def _hash(word: str | bytes) -> int:
    data = word.encode() if isinstance(word, str) else word
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


class Distinct:
    """How many different hashes were added."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._seen: Hashes = np.empty(0, np.uint64)
        self._registers: NDArray[np.uint8] | None = None

    @property
    def exact(self) -> bool:
        return self._registers is None

    def add(self, hashes: Hashes) -> None:
        if self._registers is not None:
            _register(self._registers, hashes)
            return
        self._seen = np.union1d(self._seen, hashes)
        if len(self._seen) > self._bound:
            self._registers = np.zeros(_REGISTERS, np.uint8)
            _register(self._registers, self._seen)
            self._seen = np.empty(0, np.uint64)

    def count(self) -> int:
        if self._registers is None:
            return len(self._seen)
        empty = int((self._registers == 0).sum())
        total = float(np.exp2(-self._registers.astype(np.float64)).sum())
        found = 0.7213 / (1 + 1.079 / _REGISTERS) * _REGISTERS**2 / total
        if empty and found <= 2.5 * _REGISTERS:
            found = _REGISTERS * math.log(_REGISTERS / empty)
        return round(found)


def _register(registers: NDArray[np.uint8], hashes: Hashes) -> None:
    spread = mix(hashes)
    index = (spread >> np.uint64(64 - _BITS)).astype(np.int64)
    rest = (spread << np.uint64(_BITS)) >> np.uint64(11)  # 53 bits: exact as a float
    _, length = np.frexp(rest.astype(np.float64))
    np.maximum.at(registers, index, (54 - length).astype(np.uint8))


@dataclass(slots=True)
class Moments:
    """Count, mean and variance of finite numbers, and how many were infinite."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """The sum of squared distances from the mean."""
    low: float = math.inf
    high: float = -math.inf
    infinite: int = 0
    zeros: int = 0
    negative: int = 0

    def add(self, numbers: NDArray[np.float64]) -> None:
        """`numbers` have no NaN."""
        finite = numbers[np.isfinite(numbers)]
        self.infinite += len(numbers) - len(finite)
        if len(finite) == 0:
            return
        count = self.count + len(finite)
        with np.errstate(over="ignore", invalid="ignore"):
            mean = float(finite.mean())
            squares = float(np.square(finite - mean).sum())
            delta = mean - self.mean
            self.squares += squares + delta * delta * self.count * len(finite) / count
            self.mean += delta * len(finite) / count
        self.count = count
        self.low, self.high = min(self.low, finite.min()), max(self.high, finite.max())
        self.zeros += int((finite == 0).sum())
        self.negative += int((finite < 0).sum())

    @property
    def std(self) -> float:
        """Of the sample (n - 1)."""
        return math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0


@dataclass(slots=True)
class Counter:
    """How often each value comes. Beyond `COUNTED` values the rare ones are let go: counts are
    then at least what they say (`exact` false)."""

    counts: dict[Any, int] = field(default_factory=dict)
    exact: bool = True
    given_up: bool = False
    long: int = 0
    """Texts that were too long to be counted."""

    def add(self, values: pa.Array[Any]) -> None:
        """`values` have no null."""
        if self.given_up:
            return
        if pa.types.is_string(values.type):
            short = values.filter(pc.less_equal(pc.binary_length(values), MAX_TEXT))
            self.long += len(values) - len(short)
            values = short
        found = pc.value_counts(values)
        keys, numbers = found.field("values"), found.field("counts").to_numpy()
        if len(keys) > COUNTED:
            kept = np.sort(np.argpartition(numbers, -_KEPT)[-_KEPT:])
            keys, numbers, self.exact = keys.take(pa.array(kept)), numbers[kept], False
        for key, number in zip(keys.to_pylist(), numbers.tolist(), strict=True):
            self.counts[key] = self.counts.get(key, 0) + number
        if len(self.counts) > COUNTED:
            self.exact = False
            self.counts = dict(self.top(_KEPT))
        if not self.exact and max(self.counts.values(), default=0) < 3:
            self.given_up, self.counts = True, {}

    def top(self, most: int) -> list[tuple[Any, int]]:
        """The most frequent first, equals by value."""
        ordered = sorted(self.counts.items(), key=lambda item: (-item[1], str(item[0])))
        return ordered[:most]
