"""The terms of a limit or a budget as a request body gives them, checked strictly. Pure.

Knows which numbers make sense; whose things are meant, and whether they exist, is the caller's
business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer, known
from meuse.core.nouns import METERS
from meuse.meter.limits import BUDGET_METERS, PERIODS, RATE_US

SUBJECTS = ("tenant", "project", "key", "model")
MOST = 2**53 - 1
_MOST_BURST = 10**9
_FINEST_US = 10  # between two requests: a microsecond more or less is then at most a tenth


def parse_limit(body: Mapping[str, Any]) -> dict[str, Any]:
    """{requests, per, burst?} or {concurrency} → the fields of a `Limit` beside its subjects."""
    if "concurrency" in body:
        known(body, {*SUBJECTS, "concurrency"})
        amount = integer("concurrency", body["concurrency"], 1, 100_000)
        return {"kind": "concurrency", "amount": amount}
    known(body, {*SUBJECTS, "requests", "per", "burst"})
    if "requests" not in body:
        raise invalid("requests", "a limit is missing", "Send {requests, per} or {concurrency}.")
    per = choice("per", body.get("per"), tuple(RATE_US))
    requests = integer("requests", body["requests"], 1, RATE_US[per] // _FINEST_US)
    burst = requests
    if body.get("burst") is not None:
        burst = integer("burst", body["burst"], 1, _MOST_BURST)
    return {"kind": "rate", "amount": requests, "period": per, "burst": burst}


def parse_budget(body: Mapping[str, Any]) -> dict[str, Any]:
    """{meter, limit, period, hard?} → the fields of a `Limit` beside its subjects."""
    meter = body.get("meter")
    if meter == "cost":
        raise invalid("meter", "budgets of money are not offered yet", _METERS_TOLD)
    if meter in METERS and meter not in BUDGET_METERS:
        raise invalid("meter", f"{meter} is known only when the work is done", _METERS_TOLD)
    known(body, {*SUBJECTS, "meter", "limit", "period", "hard"})
    hard = body.get("hard", True)
    if not isinstance(hard, bool):
        raise invalid("hard", f"{hard!r} is not true or false")
    return {
        "kind": "budget",
        "meter": choice("meter", meter, BUDGET_METERS),
        "amount": integer("limit", body.get("limit"), 0, MOST),
        "period": choice("period", body.get("period"), PERIODS),
        "hard": hard,
    }


_METERS_TOLD = f"Use one of: {', '.join(BUDGET_METERS)}."
