"""What a GGUF file says of itself, read strictly: a header that lies is refused.

Everything that the header claims is checked against the file before it is believed: counts
against the bytes that are left, sizes of tensors against their types, places against each other.
Knows the format, versions 2 and 3, little-endian; knows no model. Layout: the specification in
ggml's repository (docs/gguf.md); block sizes of the tensor types: the package gguf.
"""

from __future__ import annotations

import itertools
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from meuse.core.errors import Code, MeuseError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MOST_KEYS = 4096
MOST_TENSORS = 65_536
MOST_KEY_BYTES = 512
MOST_TEXT_BYTES = 4 << 20
MOST_ITEMS = 1 << 22
"""Of one array: vocabularies have some hundred thousand."""
KEPT_ITEMS = 4096
"""Longer arrays of numbers, and all of texts, are checked and only counted."""
MOST_DIMENSIONS = 4
MOST_ELEMENTS = 1 << 42
ALIGNMENT = 32

_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B",
    10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_BOOL, _STRING, _ARRAY = 7, 8, 9

Scalar: TypeAlias = int | float | bool | str


@dataclass(frozen=True, slots=True)
class Array:
    """An array of the header. `items` are there for short ones of numbers only."""

    count: int
    items: tuple[Scalar, ...] = ()


@dataclass(frozen=True, slots=True)
class Tensor:
    """`start` and `size` are bytes of the file; `shape` has the innermost dimension first."""

    name: str
    type: str
    shape: tuple[int, ...]
    start: int
    size: int

    @property
    def elements(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count


@dataclass(frozen=True, slots=True)
class Gguf:
    version: int
    fields: dict[str, Scalar | Array]
    tensors: tuple[Tensor, ...]

    @property
    def parameters(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)


def read(path: Path) -> Gguf:
    """The header of a file, checked against the file. Raises `invalid_data` that says where."""
    with path.open("rb") as file:
        if path.stat().st_size < 24:
            raise _refused(0, "the file is too short for a header")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            return _Reader(view).read()


def _refused(at: int, what: str) -> MeuseError:
    return MeuseError(
        Code.INVALID_DATA,
        f"not a sound GGUF file: byte {at:,}: {what}",
        field="model",
        hint="Fetch the file again, or ask whoever made it.",
    )


class _Reader:
    """Goes through the file once, from the front."""

    def __init__(self, view: mmap.mmap) -> None:
        self._view = view
        self._at = 0
        self._end = len(view)

    def read(self) -> Gguf:
        if self._view[:4] != MAGIC:
            raise _refused(0, f"it begins with {bytes(self._view[:4])!r}, not with {MAGIC!r}")
        self._at = 4
        version = self._number("<I")
        if version not in VERSIONS:
            known = " and ".join(map(str, VERSIONS))
            raise _refused(4, f"version {version} is not known; {known} are, little-endian")
        tensors = self._count("tensors", MOST_TENSORS, 8 + 4 + 8 + 4 + 8)
        keys = self._count("keys", MOST_KEYS, 8 + 4 + 1)
        fields: dict[str, Scalar | Array] = {}
        for _ in range(keys):
            self._field(fields)
        alignment = fields.get("general.alignment", ALIGNMENT)
        if not isinstance(alignment, int) or not 8 <= alignment <= 65_536 or alignment % 8:
            raise _refused(self._at, f"general.alignment is {alignment!r}")
        described = [self._tensor(alignment) for _ in range(tensors)]
        start = -(-self._at // alignment) * alignment
        return Gguf(version, fields, self._placed(described, start))

    def _take(self, size: int, what: str) -> bytes:
        if size > self._end - self._at:
            raise _refused(
                self._at, f"{what} of {size:,} bytes; the file has {self._end - self._at:,} more"
            )
        found = self._view[self._at : self._at + size]
        self._at += size
        return found

    def _number(self, form: str) -> int:
        (value,) = struct.unpack(form, self._take(struct.calcsize(form), "a number"))
        return int(value)

    def _count(self, what: str, most: int, least_bytes: int) -> int:
        """How many follow, when the file has room for so many."""
        at, count = self._at, self._number("<Q")
        if count > most:
            raise _refused(at, f"{count:,} {what}; at most {most:,} are read")
        if count * least_bytes > self._end - self._at:
            raise _refused(at, f"{count:,} {what} do not fit into the file")
        return count

    def _text(self, what: str, most: int) -> str:
        at, size = self._at, self._number("<Q")
        if size > most:
            raise _refused(at, f"{what} of {size:,} bytes; at most {most:,} are read")
        try:
            return self._take(size, what).decode()
        except UnicodeDecodeError as error:
            raise _refused(at, f"{what} is not UTF-8: {error.reason}") from None

    def _field(self, fields: dict[str, Scalar | Array]) -> None:
        at = self._at
        key = self._text("a key", MOST_KEY_BYTES)
        if not key or key in fields:
            raise _refused(at, f"the key {key!r} is {'there twice' if key else 'empty'}")
        kind = self._number("<I")
        fields[key] = self._array(key) if kind == _ARRAY else self._scalar(kind, key)

    def _scalar(self, kind: int, key: str) -> Scalar:
        at = self._at
        if kind == _STRING:
            return self._text(f"the value of {key!r}", MOST_TEXT_BYTES)
        if kind not in _SCALARS:
            raise _refused(at, f"the value of {key!r} has type {kind}, which is not known")
        form = _SCALARS[kind]
        (value,) = struct.unpack(form, self._take(struct.calcsize(form), f"the value of {key!r}"))
        if kind != _BOOL:
            found: int | float = value
            return found
        if value not in (0, 1):
            raise _refused(at, f"the value of {key!r} is {value}, neither true nor false")
        return bool(value)

    def _array(self, key: str) -> Array:
        at, kind = self._at, self._number("<I")
        if kind == _STRING:
            count = self._count(f"items of {key!r}", MOST_ITEMS, 8)
            for _ in range(count):
                size = self._number("<Q")
                if size > MOST_TEXT_BYTES:
                    raise _refused(self._at - 8, f"an item of {key!r} of {size:,} bytes")
                self._take(size, f"an item of {key!r}")
            return Array(count)
        if kind not in _SCALARS:
            raise _refused(at, f"the array {key!r} has items of type {kind}, which are not read")
        form = _SCALARS[kind]
        count = self._count(f"items of {key!r}", MOST_ITEMS, struct.calcsize(form))
        content = self._take(count * struct.calcsize(form), f"the array {key!r}")
        if count > KEPT_ITEMS:
            return Array(count)
        return Array(count, struct.unpack(f"<{count}{form[1]}", content))

    def _tensor(self, alignment: int) -> tuple[int, Tensor]:
        """(where it is described, the tensor); its `start` is still relative to the data."""
        at = self._at
        name = self._text("the name of a tensor", MOST_KEY_BYTES)
        dimensions = self._number("<I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise _refused(at, f"the tensor {name!r} has {dimensions:,} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        kind, offset = self._number("<I"), self._number("<Q")
        elements = 1
        for length in shape:
            elements *= length
            if not 0 < elements <= MOST_ELEMENTS:
                raise _refused(at, f"the tensor {name!r} has the shape {list(shape)}")
        type_, block, block_bytes = _type_of(kind, name, at)
        if shape[0] % block:
            raise _refused(at, f"a row of {name!r}, {shape[0]:,}, is no multiple of {block}")
        if offset % alignment:
            raise _refused(at, f"the data of {name!r} begin at {offset:,}: not aligned")
        return at, Tensor(name, type_, shape, offset, elements // block * block_bytes)

    def _placed(self, described: list[tuple[int, Tensor]], start: int) -> tuple[Tensor, ...]:
        """The tensors with their places in the file, which nobody shares."""
        tensors, names = [], set()
        for at, tensor in described:
            if not tensor.name or tensor.name in names:
                raise _refused(at, f"two tensors are called {tensor.name!r}")
            names.add(tensor.name)
            begin = start + tensor.start
            if begin + tensor.size > self._end:
                raise _refused(
                    at,
                    f"the data of {tensor.name!r} end at byte {begin + tensor.size:,} "
                    f"of {self._end:,}",
                )
            tensors.append(Tensor(tensor.name, tensor.type, tensor.shape, begin, tensor.size))
        order = sorted(tensors, key=lambda tensor: tensor.start)
        for before, after in itertools.pairwise(order):
            if before.start + before.size > after.start:
                raise _refused(
                    after.start, f"the data of {before.name!r} and {after.name!r} overlap"
                )
        return tuple(tensors)


def _type_of(kind: int, name: str, at: int) -> tuple[str, int, int]:
    """(name, elements of a block, its bytes) of a tensor type."""
    try:
        from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    except ModuleNotFoundError:
        raise MeuseError(
            Code.UNAVAILABLE,
            "GGUF files are read with the package gguf, which is not installed",
            field="model",
            hint="pip install 'meuse[llm]'",
        ) from None
    try:
        found = GGMLQuantizationType(kind)
        block, size = GGML_QUANT_SIZES[found]
    except (ValueError, KeyError):
        raise _refused(at, f"the tensor {name!r} has type {kind}, which is not known") from None
    return found.name, block, size
