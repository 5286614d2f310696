"""What is counted, and the bounds of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from meuse.core.nouns.who import Scope

METERS = (
    "requests", "rows", "prompt_tokens", "cached_tokens", "completion_tokens", "images",
    "audio_ms", "compute_ms", "replica_ms", "training_tokens", "training_ms",
    "storage_byte_hours", "egress_bytes", "cache_hits",
)  # fmt: skip
"""The closed list of meters; every quantity is an integer in the unit that the name says."""


COST = "cost"
"""Beside meters, what budgets of money count: 10⁻⁶ of their currency."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule that a request must keep to be admitted, as the gateway knows it.

    It is about the requests that match every subject given: whose they are (`tenant`,
    `project`, `key`) and which deployment they call (`model`, "owner/name"). `kind` says what
    the rest means: `rate`: `amount` requests or tokens (`meter`) per `period` (second, minute,
    hour), at most `burst` at once; `concurrency`: `amount` requests in flight; `budget`: `amount`
    units of `meter` per `period` (minute, day, month, total; UTC), refused beyond it when `hard`.

    A budget of money (`meter` "cost") is in 10⁻⁶ of its `currency`; `aside` of it is for what a
    plan may owe beside the price of units. It counts from `since_ms` on (0: from where its host
    began to). One that `moves` has no amount of its own: the ledger writes it beside the counts.
    """

    id: str
    kind: str
    amount: int
    period: str = "total"
    meter: str = "requests"
    burst: int = 0
    hard: bool = True
    tenant: str | None = None
    project: str | None = None
    key: str | None = None
    model: str | None = None
    currency: str = ""
    aside: int = 0
    since_ms: int = 0
    moves: bool = False


@dataclass(frozen=True, slots=True)
class PriceTable:
    """What budgets of money count for a unit under one plan version.

    `prices` are by meter and by the name that a price has its model under ("*", a deployment's
    name, owner/name), in 10⁻¹⁸ of the currency as text (they may be larger than 64 bits); a meter
    that is not there costs nothing. `unrated`: [tier, meter, name] where usage of a tier meets no
    price all the same.
    """

    currency: str
    prices: dict[str, dict[str, str]]
    unrated: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class LimitRecord:
    """A limit at rest: who made it, and whether with an administrator's key (then only one
    may take it away)."""

    limit: Limit
    scope: Scope
    by_admin: bool
    created_ms: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What a budget's present period holds: used for good, and reserved by requests in flight.
    `most` is what it may hold, as its host has it."""

    used: int
    reserved: int
    resets_ms: int | None
    most: int = field(default=0, compare=False)
