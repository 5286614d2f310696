"""How a dataset is split, as a spec that a version's lineage keeps.

Knows names and values, not data. `by` is one of
- `ratio`: at random by `ratios`, each class by itself (stratified) when there are classes;
- `stratify`: at random by `ratios`, each value of `column` by itself;
- `group`: at random, rows with one value of `column` together in one split;
- `time`: by the order of `column`: the oldest rows train, the newest test;
- `column`: as `column` says: `train`, `validation`, `test`; without validation rows a share of the
  training rows, at random, becomes them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer, known, real
from meuse.core.nouns import Column

BY = ("ratio", "stratify", "group", "time", "column")
Ratios = tuple[float, float, float]
RATIOS: Ratios = (0.7, 0.15, 0.15)
MAX_SEED = 2**31 - 1
SPLIT_COLUMN = "split"
SPLIT_WORDS = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What a folder or a cell may say, and the split that it means."""


@dataclass(frozen=True, slots=True)
class SplitSpec:
    """Enough, with the table, to make the same split again."""

    by: str = "ratio"
    column: str | None = None
    ratios: Ratios = RATIOS
    seed: int = 0

    @classmethod
    def from_dict(
        cls, given: Mapping[str, Any] | str, field: str = "split", *, seed: int = 0
    ) -> SplitSpec:
        """A checked spec of an object or its JSON text; `ratios` and `seed` (else the one given
        here) may be left out. Raises `invalid_field`."""
        if isinstance(given, str):  # a query parameter
            try:
                given = json.loads(given)
            except ValueError:
                given = str(given)
        if not isinstance(given, Mapping):
            raise invalid(field, f"{given!r} is not an object", 'Use {"by": "time", "column": …}.')
        known(given, ("by", "column", "ratios", "seed"), f"{field}.")
        by = choice(f"{field}.by", given.get("by", "ratio"), BY)
        column = given.get("column")
        if by == "ratio" and column is not None:
            raise invalid(
                f"{field}.column",
                "a split by ratio takes no column",
                "Leave it out, or use by=stratify, group, time or column.",
            )
        if by != "ratio" and not (isinstance(column, str) and column):
            raise invalid(f"{field}.column", f"a split by {by} needs a column", "Name it.")
        return cls(
            by,
            column,
            parse_ratios(given.get("ratios", RATIOS), f"{field}.ratios"),
            integer(f"{field}.seed", given.get("seed", seed), 0, MAX_SEED),
        )

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        body: dict[str, Any] = {"by": self.by, "ratios": list(self.ratios), "seed": self.seed}
        return body if self.column is None else {**body, "column": self.column}

    def check(self, columns: tuple[Column, ...], target: str, field: str = "split") -> None:
        """The column is there and may be split by. Raises `invalid_field`."""
        if self.column is None:
            return
        found = next((c for c in columns if c.name == self.column), None)
        if found is None:
            names = ", ".join(c.name for c in columns[:50])
            raise invalid(
                f"{field}.column",
                f"there is no column {self.column!r}",
                f"The columns are: {names}.",
            )
        if found.kind == "image":
            raise invalid(f"{field}.column", f"the column {self.column!r} holds images")
        if self.column == target and self.by != "stratify":
            raise invalid(
                f"{field}.column",
                f"{self.column!r} is the target",
                "Split by another column.",
            )

    @property
    def sets_aside(self) -> frozenset[str]:
        """Columns that are no features: they name a split or a group, and say nothing of a row
        that is to come."""
        return frozenset({self.column} if self.column and self.by in ("column", "group") else ())


def parse_ratios(given: Any, field: str = "ratios") -> Ratios:
    """Three positive numbers that add up to 1. Raises `invalid_field`."""
    told = "Use three positive ratios that add up to 1, like 0.7, 0.15, 0.15."
    if not isinstance(given, list | tuple) or len(given) != 3:
        raise invalid(field, f"{given!r} is not a list of three ratios", told)
    first, second, third = (real(field, ratio, told) for ratio in given)
    if min(first, second, third) <= 0 or abs(first + second + third - 1) > 1e-9:
        raise invalid(field, "three positive ratios must add up to 1", told)
    return first, second, third
