"""The record of an evaluation: what was measured, on which rows, with how much doubt.

Knows JSON and no numpy: control reads these records, job children make them.
"""

from __future__ import annotations

from typing import Any

import msgspec

SMALL = 30
"""A slice of fewer rows is called small: its figure says little."""

Interval = tuple[float, float]


class Bin(msgspec.Struct, frozen=True):
    """A bin of the calibration table: mean confidence and share of hits of its rows."""

    low: float
    high: float
    rows: int
    confidence: float
    accuracy: float


class Slice(msgspec.Struct, frozen=True):
    """The rows where `column` has `value` (a category, a range of numbers, or missing)."""

    column: str
    value: str
    rows: int
    figure: float
    interval: Interval | None
    small: bool


class Rows(msgspec.Struct, frozen=True):
    """Which rows were judged. Two evaluations compare when they are equal.

    `positions` is the digest of the rows' numbers in the dataset, "all" for every row.
    """

    dataset: str
    dataset_digest: str
    split: str
    positions: str
    target: str
    rows: int

    def same_as(self, other: Rows) -> bool:
        """The same rows of the same bytes, under whatever name."""
        mine = (self.dataset_digest, self.positions, self.target, self.rows)
        return mine == (other.dataset_digest, other.positions, other.target, other.rows)


class Difference(msgspec.Struct, frozen=True):
    """A figure of this version minus the same of `than`, paired by row."""

    figure: str
    than: str
    difference: float
    interval: Interval | None


class Evaluation(msgspec.Struct, frozen=True, omit_defaults=False):
    """What a model scored on some rows.

    `figures` and `intervals` (95%, percentile bootstrap of `resamples`) are by name; what is
    undefined is absent. `confusion` counts rows by target (outer) and prediction; absent
    above 100 classes. `slices` tell `slice_figure`, the worst first, small ones last.
    `seconds`: what judging took, inference included. `tokens`: those that a perplexity is of.
    """

    task: str
    rows: Rows
    figures: dict[str, float]
    intervals: dict[str, Interval]
    resamples: int
    classes: list[str | int] | None = None
    confusion: list[list[int]] | None = None
    calibration: list[Bin] = []
    labels: list[dict[str, Any]] = []
    slice_figure: str = ""
    slices: list[Slice] = []
    slices_left_out: int = 0
    differences: list[Difference] = []
    engine: str = ""
    seconds: float = 0.0
    rows_per_s: float | None = None
    tokens: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON; `from_dict` gives it back."""
        body: dict[str, Any] = msgspec.to_builtins(self)
        return body

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Evaluation:
        return msgspec.convert(body, cls)
