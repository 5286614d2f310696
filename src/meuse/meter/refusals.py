"""The words of limits and budgets: what is left, and when there is more. Pure."""

from __future__ import annotations

from meuse.core.clock import to_rfc3339
from meuse.core.errors import Code, MeuseError
from meuse.core.micros import money_text
from meuse.core.nouns import COST, Limit
from meuse.core.periods import SECOND_US, end_us


def too_fast(limit: Limit, wait_us: int) -> MeuseError:
    seconds = -(-wait_us // SECOND_US)
    return MeuseError(
        Code.RATE_LIMITED,
        f"more than {limit.amount} {limit.meter} a {limit.period} ({limit.id})",
        field="limit",
        hint=f"Try again in {seconds} s.",
        retry_after_s=seconds,
    )


def too_large(limit: Limit, need: int) -> MeuseError:
    """Of a rate of tokens: waiting does not help."""
    return MeuseError(
        Code.LIMIT_EXCEEDED,
        f"this request may come to {need} tokens, and at most {limit.burst or limit.amount} are "
        f"let through at once ({limit.id})",
        field="limit",
        hint="Send less, or a smaller max_tokens.",
    )


def no_place(limit: Limit) -> MeuseError:
    return MeuseError(
        Code.RATE_LIMITED,
        f"{limit.amount} requests are in flight already ({limit.id})",
        field="limit",
        hint="Wait for one to end.",
        retry_after_s=1,
    )


def no_room(limit: Limit, most: int, stamp: int, used: int, reserved: int, need: int) -> MeuseError:
    """429 when only what is in flight stands in the way, 402 when there is not enough."""
    left = max(most - used, 0)
    what = f"{_named(limit)} ({limit.id}) has {amount(limit, left)} left"
    if left >= need:
        return MeuseError(
            Code.RATE_LIMITED,
            f"{what}, {amount(limit, reserved)} of them held by requests in flight; this one "
            f"needs {_upto(limit)}{amount(limit, need)}",
            field="budget",
            hint="Try again when they have ended.",
            retry_after_s=1,
        )
    resets = "It never resets."
    if limit.moves:
        resets = "It is prepaid: top the wallet up."
    elif limit.period != "total":
        resets = f"It resets at {to_rfc3339(end_us(limit.period, stamp) // 1000)}."
    return MeuseError(
        Code.BUDGET_EXCEEDED,
        f"{what}; this request needs {_upto(limit)}{amount(limit, need)}",
        field="budget",
        hint=resets,
    )


def uncounted(limit: Limit) -> MeuseError:
    """Its counts were lost with the file, or its wallet was not told yet: never credit."""
    return MeuseError(
        Code.UNAVAILABLE,
        f"what {_named(limit)} ({limit.id}) has left is being counted anew",
        field="budget",
        hint="Try again shortly; it needs the ledger.",
        retry_after_s=1,
    )


def amount(limit: Limit, units: int) -> str:
    """Units of a budget as text: of money in its currency."""
    if limit.meter == COST:
        return f"{money_text(units, limit.currency)} {limit.currency}"
    return str(units)


def _named(limit: Limit) -> str:
    if limit.moves:
        return f"the prepaid balance in {limit.currency}"
    if limit.meter == COST:
        aside = f", {amount(limit, limit.aside)} of it set aside," if limit.aside else ""
        return f"the budget of {amount(limit, limit.amount)}{aside}"
    return f"the budget of {limit.amount} {limit.meter}"


def _upto(limit: Limit) -> str:
    return "up to " if limit.meter == COST else ""
