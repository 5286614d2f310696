"""When a budget is worth an alert, and what the alert says. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from meuse.core.clock import to_rfc3339
from meuse.core.ids import new_id
from meuse.core.micros import money_text
from meuse.core.nouns import COST, Alert, Limit, Spent
from meuse.core.periods import period_at

PERCENT = (50, 80, 100)
TYPE = "budget.threshold"
TEST = "webhook.test"


def reached(limit: Limit, spent: Spent, before: int = 0) -> list[int]:
    """The thresholds that what is used for good has reached, lowest first. What was used `before`
    a prepaid balance was topped up last is no part of either."""
    used, most = spent.used - before, most_of(limit, spent) - before
    return [percent for percent in PERCENT if most > 0 and used * 100 >= most * percent]


def most_of(limit: Limit, spent: Spent) -> int:
    return spent.most if limit.moves else limit.amount - limit.aside


def period_of(limit: Limit, spent: Spent, now_ms: int) -> str:
    """What a budget's alerts are counted by: one of each a period, of a prepaid one each time that
    it was topped up."""
    if limit.moves:
        return f"up to {spent.most}"
    if limit.period == "total":
        return "total"
    return to_rfc3339(period_at(limit.period, now_ms * 1000)[1] // 1000)


def alert(limit: Limit, spent: Spent, percent: int, tenants: tuple[str, ...], now_ms: int) -> Alert:
    id = new_id("msg")
    most = most_of(limit, spent)
    data: dict[str, Any] = {
        "budget": limit.id,
        "threshold": percent,
        "meter": limit.meter,
        **{name: getattr(limit, name) for name in ("tenant", "project", "key", "model")},
        **({"currency": limit.currency} if limit.meter == COST else {}),
        "limit": _amount(limit, most),
        "used": _amount(limit, spent.used),
        "remaining": _amount(limit, max(most - spent.used, 0)),
        "hard": limit.hard,
        "prepaid": limit.moves,
        "period": limit.period,
        "resets": None if spent.resets_ms is None else to_rfc3339(spent.resets_ms),
    }
    return Alert(
        id, limit.id, period_of(limit, spent, now_ms), percent, tenants,
        body(TYPE, data, now_ms), now_ms,
    )  # fmt: skip


def body(kind: str, data: Mapping[str, Any], now_ms: int) -> str:
    """The JSON of an event: as it is sent each time that it is tried, byte by byte."""
    return json.dumps(
        {"type": kind, "timestamp": to_rfc3339(now_ms), "data": data}, separators=(",", ":")
    )


def _amount(limit: Limit, units: int) -> int | str:
    return money_text(units, limit.currency) if limit.meter == COST else units
