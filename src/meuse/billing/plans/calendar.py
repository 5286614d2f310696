"""The calendar of a payer: which plan version was in force when, and the months of UTC. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import pairwise

from meuse.core.clock import BUCKET_MS
from meuse.core.plans import PlanVersion


@dataclass(frozen=True, slots=True)
class Stint:
    """A plan version in force over [start, end), in Unix milliseconds."""

    start_ms: int
    end_ms: int
    plan: PlanVersion

    @property
    def seconds(self) -> int:
        """The whole seconds that begin in it: those of adjacent stints add up."""
        return -(-self.end_ms // 1000) + -self.start_ms // 1000


@dataclass(frozen=True, slots=True)
class Month:
    """A calendar month of UTC: the period of counters, fees and bounds."""

    start_ms: int
    end_ms: int

    @property
    def seconds(self) -> int:
        return (self.end_ms - self.start_ms) // 1000


def months(start_ms: int, end_ms: int) -> list[Month]:
    """The months that [start, end) touches, in order."""
    found: list[Month] = []
    first = datetime.fromtimestamp(start_ms // 1000, UTC)
    year, month = first.year, first.month
    while not found or found[-1].end_ms < end_ms:
        begun = datetime(year, month, 1, tzinfo=UTC)
        year, month = year + month // 12, month % 12 + 1
        after = datetime(year, month, 1, tzinfo=UTC)
        found.append(Month(int(begun.timestamp()) * 1000, int(after.timestamp()) * 1000))
    return found


def windows(start_ms: int, end_ms: int, cuts: Iterable[int] = ()) -> list[tuple[int, int]]:
    """[start, end) by months, and before them what its first month had until then, in parts
    that end at `cuts`."""
    first = months(start_ms, end_ms)[0].start_ms
    inside = {cut for cut in cuts if first < cut < start_ms}
    return [
        *pairwise(sorted({first, start_ms, *inside})),
        *(
            (max(month.start_ms, start_ms), min(month.end_ms, end_ms))
            for month in months(start_ms, end_ms)
        ),
    ]


def stints(
    changes: Sequence[tuple[int, str | None]],
    versions: Callable[[str], Sequence[PlanVersion]],
    start_ms: int,
    end_ms: int,
) -> tuple[Stint, ...]:
    """Who had which plan version when, within [start, end).

    `changes` says which plan (a name, "name:version" or None) the payer had from when on,
    oldest first; `versions` gives a plan's versions, each in force from when it was made. A
    change of currency holds from the next quarter of an hour on: no invoice can say both.
    """
    found: list[Stint] = []
    for (begun, plan), (after, _) in pairwise([*changes, (end_ms, None)]):
        low, high = max(begun, start_ms), min(after, end_ms)
        if plan is not None and low < high:
            found += _of_plan(plan, versions, low, high)
    return _apart_by_currency(found)


def until(stints: Iterable[Stint], end_ms: int) -> tuple[Stint, ...]:
    """What of them lies before a moment."""
    return tuple(
        replace(stint, end_ms=min(stint.end_ms, end_ms))
        for stint in stints
        if stint.start_ms < end_ms
    )


def projected(stints: Sequence[Stint], at_ms: int, end_ms: int) -> tuple[Stint, ...]:
    """As if what is in force at a moment, up to which they tell, stayed so to the end."""
    if not stints or stints[-1].end_ms < at_ms:
        return tuple(stints)
    return (*stints[:-1], replace(stints[-1], end_ms=end_ms))


def _apart_by_currency(stints: Iterable[Stint]) -> tuple[Stint, ...]:
    found: list[Stint] = []
    for stint in stints:
        begun = stint.start_ms
        if found:
            last = found[-1]
            if last.end_ms == begun and last.plan.currency != stint.plan.currency:
                begun = -(-begun // BUCKET_MS) * BUCKET_MS
                found[-1] = replace(last, end_ms=begun)
            begun = max(begun, last.end_ms)
        if begun < stint.end_ms:
            found.append(replace(stint, start_ms=begun))
    return tuple(found)


def _of_plan(
    plan: str, versions: Callable[[str], Sequence[PlanVersion]], start: int, end: int
) -> list[Stint]:
    name, _, number = plan.partition(":")
    known = sorted(versions(name), key=lambda v: (v.created_ms, v.version))
    if number:
        return [Stint(start, end, v) for v in known if str(v.version) == number]
    begins = [*(v.created_ms for v in known), end]
    found = (
        Stint(max(start, low), min(end, high), v)
        for v, (low, high) in zip(known, pairwise(begins), strict=True)
    )
    return [stint for stint in found if stint.start_ms < stint.end_ms]
