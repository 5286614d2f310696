"""Which of several models none beats. Pure."""

from __future__ import annotations

from collections.abc import Sequence

Costs = Sequence[float]
"""What a model costs, in the same order for all; lower is better for each."""


def dominates(a: Costs, b: Costs) -> bool:
    """Whether `a` costs no more than `b` in anything, and less in something."""
    return all(x <= y for x, y in zip(a, b, strict=True)) and tuple(a) != tuple(b)


def front(points: Sequence[Costs]) -> list[int]:
    """The places of those that no other dominates, in order."""
    return [
        place
        for place, point in enumerate(points)
        if not any(dominates(other, point) for other in points)
    ]


def spread(order: Sequence[int], keep: int) -> list[int]:
    """At most `keep` of places in order: the first, the last, and evenly between them."""
    if len(order) <= keep:
        return list(order)
    if keep == 1:
        return [order[0]]
    last = len(order) - 1
    return [order[round(i * last / (keep - 1))] for i in range(keep)]
