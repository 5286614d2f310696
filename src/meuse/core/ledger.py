"""The nouns of double-entry money: legs, entries, wallets and grants, as frozen records.

Amounts are integers of 10⁻⁶ of the currency. A debit is positive, a credit negative: what a
tenant owes or paid is above zero, what is owed to it (prepaid credit) and what was earned below.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

GrantKind = Literal["granted", "purchased"]
GRANT_KINDS: tuple[GrantKind, ...] = ("granted", "purchased")


@dataclass(frozen=True, slots=True)
class Leg:
    """`amount` on an account of the entry's tenant, in the entry's currency; never zero."""

    account: str
    amount: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A transfer between accounts of one tenant in one currency: its legs add up to zero.

    `reference` is what it is known by: of a tenant's entries, one alone has it. `subject` is what
    it is about (the id of an invoice, a wallet, a hold). `asked` is what was asked for where the
    legs follow from what there was at the time (which grants have been spent): a repetition asks
    for the same, and would come to other legs. `effective_ms` is when it counts; it may be
    booked later. Raises ValueError when the legs are no transfer.
    """

    tenant: str
    currency: str
    kind: str
    reference: str
    subject: str
    legs: tuple[Leg, ...]
    effective_ms: int
    asked: Mapping[str, Any] | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        accounts = [leg.account for leg in self.legs]
        if len(accounts) < 2 or len(set(accounts)) < len(accounts):
            raise ValueError(f"{self.reference}: an entry has two legs or more, one per account")
        if not all(self.legs[i].amount for i in range(len(self.legs))):
            raise ValueError(f"{self.reference}: a leg of nothing")
        total = sum(leg.amount for leg in self.legs)
        if total:
            raise ValueError(f"{self.reference}: the legs add up to {total}")

    @property
    def fingerprint(self) -> str:
        """The same for the same entry, asked for again."""
        return fingerprint(self.kind, self.currency, self.asked or dict(sums(self.legs)))


@dataclass(frozen=True, slots=True)
class Posted:
    """An entry as it is kept. `seq` rises with each entry of the ledger."""

    id: str
    seq: int
    created_ms: int
    fingerprint: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Wallet:
    """A tenant's prepaid credit in one currency."""

    id: str
    tenant: str
    currency: str
    created_ms: int


@dataclass(frozen=True, slots=True)
class Grant:
    """A part of a wallet: `amount` as it was put in, to be spent until `expires_ms` (None: ever).

    Of lower `priority` it is spent earlier. `number` rises with each grant of the ledger.
    """

    id: str
    wallet: str
    kind: GrantKind
    amount: int
    priority: int
    expires_ms: int | None
    reference: str
    created_ms: int
    number: int = 0

    def has_expired(self, at_ms: int) -> bool:
        return self.expires_ms is not None and self.expires_ms <= at_ms


def fingerprint(kind: str, currency: str, content: Mapping[str, Any]) -> str:
    """A digest of what an entry is for."""
    text = json.dumps([kind, currency, dict(content)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sums(legs: tuple[Leg, ...]) -> dict[str, int]:
    """What the legs come to by account."""
    found: dict[str, int] = {}
    for leg in legs:
        found[leg.account] = found.get(leg.account, 0) + leg.amount
    return found


def class_of(account: str) -> str:
    """The kind of an account: `credit` of `credit:grant-018…`."""
    return account.partition(":")[0]


def own_reference(wallet: Wallet, reference: str) -> str:
    """A caller's reference, apart from those that the ledger makes and those of other wallets."""
    return f"{wallet.id}/{reference}"


def shown_reference(entry: Entry) -> str:
    """As the caller gave it."""
    head, _, own = entry.reference.partition("/")
    return own if head.startswith("wallet-") else entry.reference
