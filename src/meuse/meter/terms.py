"""The terms of a limit or a budget as a request body gives them, checked strictly. Pure.

Knows which numbers make sense; whose things are meant, and whether they exist, is the caller's
business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import choice, integer, known
from meuse.core.micros import UNIT, money_text
from meuse.core.money import check_currency, parse_amount
from meuse.core.nouns import COST, METERS
from meuse.core.periods import PERIODS, RATE_US
from meuse.meter.checks import TOKENS
from meuse.meter.limits import BUDGET_METERS

SUBJECTS = ("tenant", "project", "key", "model")
MOST = 2**53 - 1
_MOST_BURST = 10**9
MOST_TOKENS = 10**9
"""Of a rate."""
_FINEST_US = 10  # between two requests: a microsecond more or less is then at most a tenth


def parse_limit(body: Mapping[str, Any]) -> dict[str, Any]:
    """{requests | tokens, per, burst?} or {concurrency} → the fields of a `Limit` beside its
    subjects."""
    if "concurrency" in body:
        known(body, {*SUBJECTS, "concurrency"})
        amount = integer("concurrency", body["concurrency"], 1, 100_000)
        return {"kind": "concurrency", "amount": amount}
    meter = TOKENS if TOKENS in body else "requests"
    known(body, {*SUBJECTS, meter, "per", "burst"})
    if meter not in body:
        raise invalid(
            "requests",
            "a limit is missing",
            "Send {requests, per}, {tokens, per} or {concurrency}.",
        )
    per = choice("per", body.get("per"), tuple(RATE_US))
    most = MOST_TOKENS if meter == TOKENS else RATE_US[per] // _FINEST_US
    amount = integer(meter, body[meter], 1, most)
    burst = amount
    if body.get("burst") is not None:
        burst = integer("burst", body["burst"], 1, _MOST_BURST)
    return {"kind": "rate", "amount": amount, "period": per, "burst": burst, "meter": meter}


def parse_budget(body: Mapping[str, Any]) -> dict[str, Any]:
    """{meter, limit, period, hard?}, of money {meter: "cost", limit, currency, period, hard?} →
    the fields of a `Limit` beside its subjects."""
    meter = body.get("meter")
    if meter in METERS and meter not in BUDGET_METERS:
        raise invalid("meter", f"{meter} is known only when the work is done", _METERS_TOLD)
    money = {"currency"} if meter == COST else set()
    known(body, {*SUBJECTS, "meter", "limit", "period", "hard", *money})
    hard = body.get("hard", True)
    if not isinstance(hard, bool):
        raise invalid("hard", f"{hard!r} is not true or false")
    rule = {
        "kind": "budget",
        "meter": choice("meter", meter, BUDGET_METERS),
        "period": choice("period", body.get("period"), PERIODS),
        "hard": hard,
    }
    if meter != COST:
        return {**rule, "amount": integer("limit", body.get("limit"), 0, MOST)}
    currency = check_currency(body.get("currency"))
    return {**rule, "amount": _micros(body.get("limit"), currency), "currency": currency}


def _micros(limit: object, currency: str) -> int:
    amount = parse_amount(limit, "limit")
    if amount > MOST // UNIT:
        most = money_text(MOST, currency)
        raise invalid("limit", f"{limit!r} is too much", f"Use at most {most} {currency}.")
    micros = int(amount * UNIT)
    if micros != amount * UNIT:
        raise invalid("limit", f"{limit!r} is finer than what is counted", "Use six decimals.")
    return micros


_METERS_TOLD = f"Use one of: {', '.join(BUDGET_METERS)}."
