"""Where names of points stand in a plot, so that they cover neither points nor each other. Pure.

Standard library only: control draws plots. Widths of texts are estimates: nothing here knows fonts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

Spot = tuple[float, float]
LETTER, LINE = 6.9, 14.0
"""Pixels of a letter's width and of a line of text at 12 px; most letters are narrower."""
_ASIDE = (12.0, 8.0, 26.0, 40.0)
_LIFTS = (-8.0, 16.0, -24.0, 32.0, -40.0, 48.0, 4.0)


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in the plot; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def touches(self, other: Box) -> bool:
        return not (
            self.right <= other.left
            or other.right <= self.left
            or self.bottom <= other.top
            or other.bottom <= self.top
        )

    def within(self, other: Box) -> bool:
        return (
            self.left >= other.left
            and self.right <= other.right
            and self.top >= other.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True, slots=True)
class Label:
    """A text and where it stands: `anchor` is `start` or `end`, y its baseline."""

    text: str
    x: float
    y: float
    anchor: str

    @property
    def box(self) -> Box:
        wide = LETTER * len(self.text)
        left = self.x if self.anchor == "start" else self.x - wide
        return Box(left, self.y - LINE + 3, left + wide, self.y + 3)


def place(names: Iterable[tuple[str, Spot]], taken: Sequence[Box], frame: Box) -> list[Label]:
    """A label beside each point, on the first spot near it that is free: not on `taken`, not
    on a label before it, within `frame`. Where none is free, the one that covers least."""
    covered, found = list(taken), []
    for text, (x, y) in names:
        tried = [
            Label(text, x + sign * aside, y + lift, anchor)
            for aside in _ASIDE
            for lift in _LIFTS
            for sign, anchor in ((1, "start"), (-1, "end"))
        ]
        inside = [label for label in tried if label.box.within(frame)] or tried[:1]
        best = min(inside, key=lambda label: sum(label.box.touches(box) for box in covered))
        covered.append(best.box)
        found.append(best)
    return found


def around(x: float, y: float, half: float) -> Box:
    """The box of a dot."""
    return Box(x - half, y - half, x + half, y + half)


def along(points: Sequence[Spot], step: float = 8.0) -> list[Box]:
    """Small boxes that cover a line through `points`."""
    found = []
    for (x0, y0), (x1, y1) in pairwise(points):
        pieces = max(1, round(max(abs(x1 - x0), abs(y1 - y0)) / step))
        found += [
            around(x0 + (x1 - x0) * i / pieces, y0 + (y1 - y0) * i / pieces, 2.0)
            for i in range(pieces + 1)
        ]
    return found
