"""What the ledger needs of the store, and the names of its accounts.

All of `Books` happens in one transaction while no other writer is there: what is read holds
until what is posted is committed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from meuse.billing.invoice_ports import Alarm
from meuse.core.errors import Code, MeuseError
from meuse.core.ledger import Entry, Grant, Leg, Posted, Wallet, fingerprint, shown_reference

CASH = "cash"
"""Money that came in, and goes out again when it is paid back."""
REVENUE = "revenue"
"""What lines of invoices accrue, to a millionth; without tax."""
TAX = "tax"
ROUNDING = "rounding"
"""Σ lines − Σ accruals, of each invoice."""
PROMOTIONS = "promotions"
"""What granted credit costs: set against revenue, never income by itself."""
BREAKAGE = "breakage"
"""Purchased credit that expired unused."""


def receivable(invoice: str) -> str:
    """What is still to be paid of an invoice; below zero, what is owed back."""
    return f"receivable:{invoice}"


def credit(grant: str) -> str:
    """What a grant has to spend (below zero: it is owed to the tenant)."""
    return f"credit:{grant}"


def held(grant: str) -> str:
    """What is set aside of a grant for work under way."""
    return f"held:{grant}"


def captured(grant: str) -> str:
    """What was taken of a grant for usage that no invoice has yet."""
    return f"captured:{grant}"


WALLET_CLASSES = ("credit", "held")
"""The classes of the accounts that a wallet's balance consists of."""


class Books(Protocol):
    """The ledger inside one transaction."""

    def post(self, entry: Entry) -> Posted:
        """Keep an entry. One of the same reference and fingerprint is returned as it is kept;
        of another fingerprint: `conflict`."""
        ...

    def posted(self, tenant: str, reference: str) -> Posted | None: ...

    def about(self, tenant: str, subject: str) -> Sequence[Posted]:
        """A tenant's entries about an invoice, a wallet or a hold; oldest first."""
        ...

    def balances(self, tenant: str, currency: str) -> Mapping[str, int]:
        """The sum of each account that is not zero, by its name."""
        ...

    def turnover(
        self, tenant: str, currency: str, classes: Sequence[str]
    ) -> Mapping[tuple[str, str], int]:
        """(kind of entry, account) → what such entries moved on accounts of these classes."""
        ...

    def wallet(self, tenant: str, currency: str) -> Wallet | None: ...

    def wallet_by_id(self, wallet_id: str, tenant: str | None = None) -> Wallet:
        """Raises `not_found`, also for another tenant's; None takes all."""
        ...

    def add_wallet(self, wallet: Wallet) -> None: ...

    def grants(self, wallet_id: str) -> Sequence[Grant]:
        """All grants of a wallet, in the order in which they were made."""
        ...

    def add_grant(self, grant: Grant) -> None: ...

    def lapsed(self, now_ms: int) -> Sequence[Wallet]:
        """Wallets with a grant that has expired and has something left."""
        ...

    def invoiced(self, tenant: str) -> Sequence[tuple[int, int]]:
        """The periods that have an issued invoice: [from, to) in Unix ms, ascending."""
        ...

    def is_invoiced(self, tenant: str, moment_ms: int) -> bool:
        """Whether it lies in a period that has an issued invoice."""
        ...


class Parties(Protocol):
    """Whose entry it is, and in which currency: a wallet, or an invoice."""

    @property
    def tenant(self) -> str: ...
    @property
    def currency(self) -> str: ...


class Invoice(Protocol):
    """An issued invoice; `body` is its JSON."""

    @property
    def id(self) -> str | None: ...
    @property
    def number(self) -> str | None: ...
    @property
    def tenant(self) -> str: ...
    @property
    def currency(self) -> str: ...
    @property
    def body(self) -> str: ...


class LedgerBooks(Protocol):
    """Where `Books` come from, and what is read of the ledger without taking a turn."""

    def books(self) -> AbstractContextManager[Books]:
        """A transaction, committed at the end of the block, rolled back on an exception."""
        ...

    def glance(self) -> AbstractContextManager[Books]:
        """To look only: one moment, and no turn is taken."""
        ...

    def list_wallets(self, tenant: str | None) -> Sequence[Wallet]: ...

    def list_entries(self, wallet: Wallet, before: int | None, limit: int) -> Sequence[Posted]:
        """Entries that moved a wallet's credit with a `seq` below `before`, newest first."""
        ...

    def unbooked(self) -> Sequence[Invoice]:
        """Issued invoices that no entry is of: those of a platform without a ledger, and those
        that come to nothing."""
        ...

    def differences(self) -> Sequence[Mapping[str, Any]]:
        """What should not be: entries that do not add up, sums that are not those of their legs,
        credit below zero. Empty when all is well."""
        ...

    def raise_alarms(self, alarms: Sequence[Alarm]) -> None: ...


def replayed(
    books: Books, tenant: str, reference: str, kind: str, currency: str, asked: Mapping[str, Any]
) -> Posted | None:
    """The entry that was booked under this reference, when it asked for the same.

    To be looked up before anything is judged by the present state: what was booked stays booked.
    Raises `conflict` when it asked for something else.
    """
    found = books.posted(tenant, reference)
    if found is not None and found.fingerprint != fingerprint(kind, currency, asked):
        raise reference_taken(found)
    return found


def reference_taken(found: Posted, field: str = "reference") -> MeuseError:
    shown = shown_reference(found.entry)
    return MeuseError(
        Code.CONFLICT,
        f"the reference {shown!r} is that of {found.id} ({found.entry.kind}), booked for "
        "something else",
        field=field,
        hint="Send what was sent with it before, or another reference for another booking.",
    )


def book(
    books: Books,
    whose: Parties,
    kind: str,
    reference: str,
    subject: str,
    legs: Mapping[str, int],
    effective_ms: int,
    asked: Mapping[str, Any],
    detail: Mapping[str, Any] | None = None,
) -> Posted:
    """Post an entry of what moves by account."""
    tenant, currency, moved = whose.tenant, whose.currency, legs_of(legs)
    return books.post(
        Entry(tenant, currency, kind, reference, subject, moved, effective_ms, asked, detail or {})
    )


def legs_of(amounts: Mapping[str, int]) -> tuple[Leg, ...]:
    """Legs in the order given, without those of nothing."""
    return tuple(Leg(account, amount) for account, amount in amounts.items() if amount)
