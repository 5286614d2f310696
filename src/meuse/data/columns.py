"""The figures of one column, gathered row group by row group.

Knows pyarrow arrays of the canonical kinds; knows nothing of other columns.
"""

from __future__ import annotations

import io
import warnings
from collections import Counter as Tally
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image

from meuse.core.nouns import Column
from meuse.data import images
from meuse.data.sketches import NULL, Counter, Distinct, Hashes, Moments, hashed

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 20
TOP = 10
SHOWN_TEXT = 100
IMAGES_LOOKED_AT = 500
_ISO = r"^\d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?\s*(Z|[+-]\d{2}:?\d{2})?)?$"
_OTHER = (
    r"^(\d{1,2}[./-]\d{1,2}[./-](\d{2}|\d{4})|\d{4}[./]\d{1,2}[./]\d{1,2})"
    r"([T ]\d{1,2}:\d{2}(:\d{2})?)?$"
)
DATES = (_ISO, _OTHER)


class ColumnProfile:
    """`add` every row group, then ask `figures`. `sample` are the rows that are kept."""

    def __init__(self, column: Column, sample: NDArray[np.int64], bound: int) -> None:
        self.column = column
        self.name = column.name
        self._sample = sample
        self.numbers = np.full(len(sample) if column.numeric else 0, np.nan)
        """Of the sampled rows, NaN where missing (numeric columns)."""
        self.hashes: Hashes = np.full(len(sample), NULL)
        """Of the sampled rows."""
        self.distinct = Distinct(bound)
        self.counter = Counter(given_up=column.kind == "image")
        self.moments = Moments()
        self._rows = 0
        self._missing = 0
        self._ends: tuple[Any, Any] | None = None  # integers as they are: exact
        self._words = Moments()
        self._dates = 0
        self._ascends = True
        self._last: int | None = None
        self._sizes: Tally[tuple[int, int, str]] = Tally()
        self._encoded = Moments()

    def add(self, start: int, values: pa.Array[Any]) -> Hashes:
        """The hashes of these values, which stand from row `start` on."""
        self._rows += len(values)
        self._missing += values.null_count
        hashes = hashed(values)
        low, high = np.searchsorted(self._sample, (start, start + len(values)))
        picked = self._sample[low:high] - start
        self.hashes[low:high] = hashes[picked]
        present = values.drop_null() if values.null_count else values
        if len(present) == 0:
            return hashes
        there = hashes[hashes != NULL] if values.null_count else hashes
        self.distinct.add(np.unique(there))
        self.counter.add(present)
        if self.column.numeric:
            taken = values.take(pa.array(picked)).cast(pa.float64(), safe=False)
            self.numbers[low:high] = taken.to_numpy(zero_copy_only=False)
            self._numbers(present)
        elif self.column.kind == "string":
            self._texts(present)
        else:
            self._images(values, picked)
        return hashes

    def _numbers(self, present: pa.Array[Any]) -> None:
        numbers = present.to_numpy(zero_copy_only=False)
        self.moments.add(numbers.astype(np.float64))
        if self.column.kind != "integer":
            return
        least, most = int(numbers.min()), int(numbers.max())
        low, high = self._ends or (least, most)
        self._ends = min(low, least), max(high, most)
        rising = bool((numbers[1:] > numbers[:-1]).all())
        after = self._last is None or int(numbers[0]) > self._last
        self._ascends = self._ascends and rising and after
        self._last = int(numbers[-1])

    def _texts(self, present: pa.Array[Any]) -> None:
        self.moments.add(pc.utf8_length(present).to_numpy().astype(np.float64))
        words = pc.add(pc.count_substring_regex(present, r"\s+"), 1)
        self._words.add(words.to_numpy().astype(np.float64))
        matches = pc.match_substring_regex(present, DATES[0])
        for pattern in DATES[1:]:
            matches = pc.or_(matches, pc.match_substring_regex(present, pattern))
        self._dates += pc.sum(matches).as_py() or 0

    def _images(self, values: pa.Array[Any], picked: NDArray[np.int64]) -> None:
        if pa.types.is_fixed_size_binary(values.type):
            return  # raw pixels: one size, which the column tells
        room = IMAGES_LOOKED_AT - self._sizes.total()
        for value in values.take(pa.array(picked[: max(0, room)])):
            if not value.is_valid:
                continue
            data = value.as_py()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(data), formats=images.FORMATS) as image:
                    self._sizes[(image.height, image.width, str(image.format))] += 1
            self._encoded.add(np.array([len(data)], np.float64))

    def figures(self) -> dict[str, Any]:
        """As the profile has them."""
        present = self._rows - self._missing
        common: dict[str, Any] = {
            "name": self.name,
            "kind": self.column.kind,
            "missing": self._missing,
            "missing_share": self._missing / self._rows,
            "distinct": self.distinct.count(),
            "distinct_exact": self.distinct.exact,
        }
        if present and self.column.kind != "image":
            common["top"] = [
                {"value": _shown(value), "count": count, "share": count / self._rows}
                for value, count in self.counter.top(TOP)
            ]
            common["top_exact"] = self.counter.exact and not self.counter.long
        if not present:
            return common
        if self.column.numeric:
            return {**common, **self._number_figures()}
        if self.column.kind == "string":
            return {**common, **self._text_figures(present)}
        return {**common, **self._image_figures()}

    def _number_figures(self) -> dict[str, Any]:
        found, ends = self.moments, self._ends
        numbers = self.numbers[np.isfinite(self.numbers)]
        if found.count == 0:
            return {"infinite": found.infinite}
        exact = len(self._sample) == self._rows
        told: dict[str, Any] = {
            "min": ends[0] if ends else found.low,
            "max": ends[1] if ends else found.high,
            "mean": _finite(found.mean),
            "std": _finite(found.std),
            "zeros": found.zeros,
            "negative": found.negative,
            "infinite": found.infinite,
            "ascending": self._ascends and ends is not None and found.count > 1,
        }
        if len(numbers):
            with np.errstate(over="ignore", invalid="ignore"):
                quantiles = np.quantile(numbers, QUANTILES).tolist()
            told["quantiles"] = {
                f"{q:g}": _finite(value) for q, value in zip(QUANTILES, quantiles, strict=True)
            }
            told["histogram"] = _histogram(numbers)
            told["quantiles_exact"] = exact
        return told

    def _text_figures(self, present: int) -> dict[str, Any]:
        length, words = self.moments, self._words
        return {
            "length": {
                "min": int(length.low), "max": int(length.high), "mean": length.mean,
                "std": length.std,
            },
            "words": {"min": int(words.low), "max": int(words.high), "mean": words.mean},
            "date_share": self._dates / present,
        }  # fmt: skip

    def _image_figures(self) -> dict[str, Any]:
        if not self._sizes:
            height, width, channels = self.column.shape
            return {"image": {"height": height, "width": width, "channels": channels}}
        heights = [h for h, _, _ in self._sizes.elements()]
        widths = [w for _, w, _ in self._sizes.elements()]
        return {
            "image": {
                "looked_at": len(heights),
                "height": {"min": min(heights), "max": max(heights), "median": _mid(heights)},
                "width": {"min": min(widths), "max": max(widths), "median": _mid(widths)},
                "channels": self.column.shape[2] if self.column.shape else 3,
                "formats": dict(Tally(f for _, _, f in self._sizes.elements()).most_common()),
                "mean_bytes": round(self._encoded.mean),
            }
        }


def _histogram(numbers: NDArray[np.float64]) -> dict[str, Any] | None:
    low, high = float(numbers.min()), float(numbers.max())
    if not np.isfinite(high - low) or low == high:
        return None
    try:
        counts, edges = np.histogram(numbers, BINS)
    except ValueError:  # so close together that no bin has a width
        return None
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _mid(values: list[int]) -> int:
    return int(np.median(values))


def _shown(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= SHOWN_TEXT else value[: SHOWN_TEXT - 1] + "…"
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    return value
