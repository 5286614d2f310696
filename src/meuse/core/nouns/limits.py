"""What is counted, and the bounds of it."""

from __future__ import annotations

from dataclasses import dataclass

from meuse.core.nouns.who import Scope

METERS = (
    "requests", "rows", "prompt_tokens", "cached_tokens", "completion_tokens", "images",
    "audio_ms", "compute_ms", "replica_ms", "training_tokens", "training_ms",
    "storage_byte_hours", "egress_bytes", "cache_hits",
)  # fmt: skip
"""The closed list of meters; every quantity is an integer in the unit that the name says."""


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule that a request must keep to be admitted, as the gateway knows it.

    It is about the requests that match every subject given: whose they are (`tenant`,
    `project`, `key`) and which deployment they call (`model`, "owner/name"). `kind` says what
    the rest means: `rate`: `amount` requests per `period` (second, minute, hour), at most
    `burst` at once; `concurrency`: `amount` requests in flight; `budget`: `amount` units of
    `meter` per `period` (minute, day, month, total; UTC), refused beyond it when `hard`.
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
    """What a budget's present period holds: used for good, and reserved by requests in flight."""

    used: int
    reserved: int
    resets_ms: int | None
