"""Time as the platform sees it: UTC, integers of milliseconds, RFC 3339 at the edges."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

from meuse.core.errors import invalid

Clock = Callable[[], int]
"""Milliseconds since the Unix epoch."""

BUCKET_MS = 15 * 60 * 1000
MAX_PERIOD_MS = 2 * 366 * 86_400_000
"""Width of a usage bucket: a quarter of an hour divides every time zone's offset."""


END_MS = 253_370_764_800_000
"""The start of the year 9999: every moment below it can be written, and so can the next month."""


def now_ms() -> int:
    """The system clock, in Unix milliseconds."""
    return time.time_ns() // 1_000_000


def to_rfc3339(ms: int) -> str:
    """`1767225600000` → `2026-01-01T00:00:00.000Z`."""
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{ms % 1000:03d}Z"


def from_rfc3339(text: str, field: str) -> int:
    """Parse a date or a date-time; without a zone it is UTC. Raises `invalid_field`."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(
            field, f"{text!r} is not a date", "Use RFC 3339: 2026-11-01 or 2026-11-01T12:00:00Z."
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    ms = round(moment.timestamp() * 1000)
    if not 0 <= ms < END_MS:
        raise invalid(field, f"{text!r} is out of range", "Use a date from 1970 to 9998.")
    return ms


def bucket_start(ms: int) -> int:
    """The start of the usage bucket that holds `ms`."""
    return ms - ms % BUCKET_MS


def month_end(ms: int) -> int:
    """The end of the calendar month (UTC) that holds `ms`."""
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    after = datetime(moment.year + moment.month // 12, moment.month % 12 + 1, 1, tzinfo=UTC)
    return int(after.timestamp()) * 1000


def day_of(ms: int) -> str:
    """The UTC day of a moment, `2026-11-23`."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d")


def parse_period(period: object, field: str = "period") -> tuple[int, int]:
    """`"2026-11"` or `{"from": …, "to": …}` → [start, end) in Unix milliseconds, of two years at
    most: what is asked of a period is computed month by month."""
    if isinstance(period, dict) and set(period) == {"from", "to"}:
        start = from_rfc3339(str(period["from"]), f"{field}.from")
        end = from_rfc3339(str(period["to"]), f"{field}.to")
    elif isinstance(period, str):
        try:
            first = datetime.strptime(period, "%Y-%m").replace(tzinfo=UTC)
            after = datetime(first.year + first.month // 12, first.month % 12 + 1, 1, tzinfo=UTC)
        except ValueError:
            raise invalid(field, f"{period!r} is not a month", "Use YYYY-MM.") from None
        start, end = round(first.timestamp() * 1000), round(after.timestamp() * 1000)
    else:
        raise invalid(field, "a period is missing", 'Use "2026-11" or {"from": …, "to": …}.')
    if end <= start:
        raise invalid(field, "the period is empty", "`to` must lie after `from`.")
    if end - start > MAX_PERIOD_MS:
        raise invalid(field, "the period is longer than two years", "Ask for its years in turn.")
    return start, end
