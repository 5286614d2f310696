"""Who is told of what, by webhook."""

from __future__ import annotations

from dataclasses import dataclass

from meuse.core.nouns.who import Scope


@dataclass(frozen=True, slots=True)
class Webhook:
    """A URL that alerts go to. `sealed` is its secret, encrypted; `everyone`: it is told of the
    budgets of all tenants, not only of those that concern its own. Disabled by an answer 410."""

    id: str
    scope: Scope
    url: str
    sealed: bytes
    everyone: bool
    created_ms: int
    disabled: bool = False


@dataclass(frozen=True, slots=True)
class Alert:
    """A budget has reached `threshold` percent in a `period`: there is one of each, ever.

    `tenants` are those that it concerns; `body` is the JSON that webhooks are sent.
    """

    id: str
    budget: str
    period: str
    threshold: int
    tenants: tuple[str, ...]
    body: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """An alert on its way to a webhook. `status`: pending, delivered, failed (given up).

    `answer` is what came of the last attempt: a status number or what went wrong.
    """

    id: str
    webhook: str
    alert: str
    status: str
    attempts: int
    next_ms: int
    answer: str
    created_ms: int
    updated_ms: int
