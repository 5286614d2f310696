"""The periods of limits: UTC minutes, days, months, and all of time. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

SECOND_US = 1_000_000
RATE_US = {"second": SECOND_US, "minute": 60 * SECOND_US, "hour": 3600 * SECOND_US}
"""What a rate may be per, in microseconds."""
PERIODS = ("minute", "day", "month", "total")
ALWAYS_US = 1 << 62
STAMP_BITS = 32  # of the period's number; minutes since 1970 fit until the year 10136

_FIXED_US = {"minute": 60 * SECOND_US, "day": 86_400 * SECOND_US}


def period_at(period: str, now_us: int) -> tuple[int, int, int]:
    """(number, start, end) of the UTC period that holds a moment, in Unix microseconds."""
    if period == "total":
        return 0, -ALWAYS_US, ALWAYS_US
    if period in _FIXED_US:
        width = _FIXED_US[period]
        number = now_us // width
        return number, number * width, (number + 1) * width
    moment = datetime.fromtimestamp(now_us // SECOND_US, UTC)
    number = moment.year * 12 + moment.month - 1
    return number, _month_us(number), _month_us(number + 1)


def end_us(period: str, stamp: int) -> int:
    """When the period of a stamp ends, in Unix microseconds; not of "total"."""
    number = stamp & ((1 << STAMP_BITS) - 1)
    return _month_us(number + 1) if period == "month" else (number + 1) * _FIXED_US[period]


def _month_us(number: int) -> int:
    return int(datetime(number // 12, number % 12 + 1, 1, tzinfo=UTC).timestamp()) * SECOND_US
