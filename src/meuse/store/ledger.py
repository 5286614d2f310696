"""The ledger in money.db: entries that stay, the sums of their legs, wallets and their grants.

Knows SQL and no rule of money. Writers take the turn that all writers of money.db take.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from meuse.core.clock import Clock, now_ms
from meuse.core.errors import Code, MeuseError, not_found
from meuse.core.ids import new_id
from meuse.core.ledger import Entry, Grant, Leg, Posted, Wallet, class_of
from meuse.core.nouns import DEFAULT_PROJECT
from meuse.store import ledger_tables as t
from meuse.store.database import Database, upsert
from meuse.store.invoice_tables import Invoice
from meuse.store.money_ingest import raise_alarms, tell, to_json
from meuse.store.money_tables import Alarm
from meuse.store.turns import take_turn

_IDS_PER_QUERY = 1_000
NOT_ISSUED = ("draft", "void")
"""States in which an invoice asks for nothing."""


class SqlBooks:
    """The ledger inside a transaction that has taken the turn of money.db's writers."""

    def __init__(self, connection: sa.Connection, clock: Clock = now_ms) -> None:
        self._connection = connection
        self._clock = clock

    def post(self, entry: Entry) -> Posted:
        """Keep an entry. One of the same reference and fingerprint is returned as it is kept.

        Raises `conflict` when the reference is that of an entry with another fingerprint.
        """
        kept = self.posted(entry.tenant, entry.reference)
        if kept is not None:
            if kept.fingerprint != entry.fingerprint:
                raise MeuseError(
                    Code.CONFLICT,
                    f"{entry.reference!r} is the reference of {kept.id}, booked for something else",
                    field="reference",
                    hint="Another booking needs a reference of its own.",
                )
            return kept
        posted = Posted(
            new_id("entry"), self._next(t.entries.c.seq), self._clock(), entry.fingerprint, entry
        )
        self._connection.execute(
            sa.insert(t.entries).values(
                id=posted.id,
                seq=posted.seq,
                tenant_id=entry.tenant,
                project_id=DEFAULT_PROJECT,
                currency=entry.currency,
                kind=entry.kind,
                reference=entry.reference,
                subject=entry.subject,
                fingerprint=posted.fingerprint,
                detail=to_json({"asked": entry.asked, **entry.detail}),
                effective_ms=entry.effective_ms,
                created_ms=posted.created_ms,
            )
        )
        accounts = self._accounts(entry)
        moved = [(accounts[leg.account], leg.amount) for leg in entry.legs]
        self._connection.execute(
            sa.insert(t.legs),
            [
                {"entry": posted.id, "account": account, "line": line, "amount": amount}
                for line, (account, amount) in enumerate(moved)
            ],
        )
        cached = [{"account": a, "kind": entry.kind, "amount": n} for a, n in moved]
        upsert(self._connection, t.sums, cached, add=("amount",))
        return posted

    def posted(self, tenant: str, reference: str) -> Posted | None:
        e = t.entries.c
        found = _entries(self._connection, e.tenant_id == tenant, e.reference == reference)
        return found[0] if found else None

    def about(self, tenant: str, subject: str) -> list[Posted]:
        """A tenant's entries about something, oldest first."""
        e = t.entries.c
        return _entries(self._connection, e.tenant_id == tenant, e.subject == subject)

    def balances(self, tenant: str, currency: str) -> dict[str, int]:
        """The sum of each account that is not zero, by its name."""
        found: dict[str, int] = {}
        for (_kind, name), amount in self.turnover(tenant, currency).items():
            found[name] = found.get(name, 0) + amount
        return {name: amount for name, amount in found.items() if amount}

    def turnover(
        self, tenant: str, currency: str, classes: Sequence[str] = ()
    ) -> dict[tuple[str, str], int]:
        """(kind of entry, account) → what such entries moved there; of all classes without any."""
        a = t.accounts.c
        query = (
            sa.select(t.sums.c.kind, a.name, t.sums.c.amount)
            .join(t.accounts, a.account == t.sums.c.account)
            .where(a.tenant_id == tenant, a.currency == currency)
            .order_by(a.account, t.sums.c.kind)
        )
        if classes:
            query = query.where(a["class"].in_(classes))
        rows = self._connection.execute(query)
        return {(kind, name): int(amount) for kind, name, amount in rows}

    def wallet(self, tenant: str, currency: str) -> Wallet | None:
        w = t.wallets.c
        found = _wallets(self._connection, w.tenant_id == tenant, w.currency == currency)
        return found[0] if found else None

    def wallet_by_id(self, wallet_id: str, tenant: str | None = None) -> Wallet:
        """Raises `not_found`, also for another tenant's; None takes all."""
        w = t.wallets.c
        found = [] if "\0" in wallet_id else _wallets(self._connection, w.id == wallet_id)
        if not found or tenant not in (None, found[0].tenant):
            raise not_found("wallet", wallet_id)
        return found[0]

    def add_wallet(self, wallet: Wallet) -> None:
        self._connection.execute(
            sa.insert(t.wallets).values(
                id=wallet.id,
                tenant_id=wallet.tenant,
                project_id=DEFAULT_PROJECT,
                currency=wallet.currency,
                created_ms=wallet.created_ms,
            )
        )

    def grants(self, wallet_id: str) -> list[Grant]:
        """All of a wallet, in the order in which they were made."""
        query = sa.select(t.grants).where(t.grants.c.wallet == wallet_id)
        rows = self._connection.execute(query.order_by(t.grants.c.number)).mappings()
        return [Grant(**row) for row in rows]

    def add_grant(self, grant: Grant) -> None:
        """Its number is the next one, whatever it says."""
        values = {column.name: getattr(grant, column.name) for column in t.grants.c}
        values["number"] = self._next(t.grants.c.number)
        self._connection.execute(sa.insert(t.grants).values(values))

    def lapsed(self, now_ms: int) -> list[Wallet]:
        """Wallets with a grant that has expired and has something left."""
        g, w, a = t.grants.c, t.wallets.c, t.accounts.c
        left = (
            sa.select(g.wallet)
            .join(t.wallets, w.id == g.wallet)
            .join(
                t.accounts,
                sa.and_(
                    a.tenant_id == w.tenant_id,
                    a.currency == w.currency,
                    a.name == "credit:" + g.id,
                ),
            )
            .join(t.sums, t.sums.c.account == a.account)
            .where(g.expires_ms <= now_ms)
            .group_by(g.wallet, g.id)
            .having(sa.func.sum(t.sums.c.amount) != 0)
        )
        return _wallets(self._connection, w.id.in_(left))

    def invoiced(self, tenant: str) -> list[tuple[int, int]]:
        """The periods that have an issued invoice: [from, to) in Unix ms, ascending."""
        i = t.invoices.c
        query = sa.select(i.period_start_ms, i.period_end_ms).where(
            i.tenant_id == tenant, i.status.not_in(NOT_ISSUED)
        )
        query = query.order_by(i.period_start_ms, i.period_end_ms)
        return [(start, end) for start, end in self._connection.execute(query)]

    def is_invoiced(self, tenant: str, moment_ms: int) -> bool:
        """Whether it lies in a period that has an issued invoice."""
        i = t.invoices.c
        query = sa.select(i.id).where(
            i.tenant_id == tenant,
            i.period_start_ms <= moment_ms,
            i.period_end_ms > moment_ms,
            i.status.not_in(NOT_ISSUED),
        )
        return self._connection.execute(query.limit(1)).one_or_none() is not None

    def _next(self, column: sa.ColumnElement[int]) -> int:
        """One more than the highest: whoever posts has the turn."""
        highest = self._connection.execute(sa.select(sa.func.max(column))).scalar_one()
        return 1 if highest is None else highest + 1

    def _accounts(self, entry: Entry) -> dict[str, int]:
        """The numbers of the entry's accounts; those that are new are opened."""
        a = t.accounts.c
        names = [leg.account for leg in entry.legs]
        query = sa.select(a.name, a.account).where(
            a.tenant_id == entry.tenant, a.currency == entry.currency, a.name.in_(names)
        )
        known = {row.name: row.account for row in self._connection.execute(query)}
        following = self._next(a.account)
        for name in names:
            if name not in known:
                self._connection.execute(
                    sa.insert(t.accounts).values(
                        {
                            "account": following,
                            "tenant_id": entry.tenant,
                            "project_id": DEFAULT_PROJECT,
                            "currency": entry.currency,
                            "class": class_of(name),
                            "name": name,
                        }
                    )
                )
                known[name] = following
                following += 1
        return known


class LedgerStore:
    """The ledger in a `Database` that was migrated to the branch "money"."""

    def __init__(self, database: Database, clock: Clock = now_ms) -> None:
        self._database = database
        self._clock = clock

    @contextmanager
    def books(self) -> Iterator[SqlBooks]:
        """A transaction of its own: committed at the end of the block, or rolled back."""
        with self._database.write() as connection:
            take_turn(connection)
            yield SqlBooks(connection, self._clock)

    @contextmanager
    def glance(self) -> Iterator[SqlBooks]:
        """To look only: one moment, and no turn is taken."""
        with self._database.snapshot() as connection:
            yield SqlBooks(connection, self._clock)

    def list_wallets(self, tenant: str | None) -> list[Wallet]:
        """Of a tenant, or of all (None), in the order of their making."""
        where = () if tenant is None else (t.wallets.c.tenant_id == tenant,)
        with self._database.read() as connection:
            return _wallets(connection, *where)

    def list_entries(self, wallet: Wallet, before: int | None, limit: int) -> list[Posted]:
        """Entries that moved a wallet's credit with a `seq` below `before`, newest first."""
        e, a = t.entries.c, t.accounts.c
        touches = (
            sa.select(t.legs.c.entry)
            .join(t.accounts, a.account == t.legs.c.account)
            .where(t.legs.c.entry == e.id, a["class"].in_(("credit", "held", "captured")))
        )
        where = [e.tenant_id == wallet.tenant, e.currency == wallet.currency, touches.exists()]
        if before is not None:
            where.append(e.seq < before)
        with self._database.read() as connection:
            return _entries(connection, *where, newest=limit)

    def unbooked(self) -> list[Invoice]:
        """Issued invoices that no entry is of, oldest first."""
        i, e = t.invoices.c, t.entries.c
        booked = sa.select(e.id).where(
            e.tenant_id == i.tenant_id, e.subject == i.id, e.kind == "invoice"
        )
        columns = (i.id, i.tenant_id, i.number, i.status, i.currency, i.total, i.body)
        query = sa.select(*columns, i.period_start_ms, i.period_end_ms).where(
            i.status.not_in(NOT_ISSUED), ~booked.exists()
        )
        with self._database.read() as connection:
            rows = connection.execute(query.order_by(i.period_end_ms, i.id))
            return [Invoice(*row) for row in rows]

    def differences(self) -> list[dict[str, Any]]:
        """What should not be: entries that do not add up, sums that are not those of their legs,
        credit below zero. Empty when all is well."""
        with self._database.snapshot() as connection:
            return [*_unbalanced(connection), *_drifted(connection), *_overdrawn(connection)]

    def raise_alarms(self, alarms: Iterable[Alarm]) -> None:
        """Keep alarms, each once, and tell of the new ones in the log."""
        with self._database.write() as connection:
            take_turn(connection)
            fresh = raise_alarms(connection, alarms, self._clock())
        tell(fresh)


def _entries(
    connection: sa.Connection, *where: sa.ColumnElement[bool], newest: int | None = None
) -> list[Posted]:
    """Entries with their legs, oldest first; or the `newest` ones, newest first."""
    query = sa.select(t.entries).where(*where)
    e = t.entries.c
    query = query.order_by(e.seq) if newest is None else query.order_by(e.seq.desc()).limit(newest)
    rows = connection.execute(query).all()
    legs = _legs(connection, [row.id for row in rows])
    return [_posted(row, legs[row.id]) for row in rows]


def _legs(connection: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[Leg, ...]]:
    found: dict[str, tuple[Leg, ...]] = {}
    a, leg = t.accounts.c, t.legs.c
    for at in range(0, len(ids), _IDS_PER_QUERY):
        query = (
            sa.select(leg.entry, a.name, leg.amount)
            .join(t.accounts, a.account == leg.account)
            .where(leg.entry.in_(ids[at : at + _IDS_PER_QUERY]))
            .order_by(leg.entry, leg.line)
        )
        for entry, name, amount in connection.execute(query):
            found[entry] = (*found.get(entry, ()), Leg(name, amount))
    return found


def _posted(row: sa.Row[Any], legs: tuple[Leg, ...]) -> Posted:
    detail: Mapping[str, Any] = json.loads(row.detail)
    entry = Entry(
        row.tenant_id,
        row.currency,
        row.kind,
        row.reference,
        row.subject,
        legs,
        row.effective_ms,
        detail["asked"],
        {name: value for name, value in detail.items() if name != "asked"},
    )
    return Posted(row.id, row.seq, row.created_ms, row.fingerprint, entry)


def _wallets(connection: sa.Connection, *where: sa.ColumnElement[bool]) -> list[Wallet]:
    w = t.wallets.c
    query = sa.select(w.id, w.tenant_id, w.currency, w.created_ms).where(*where)
    rows = connection.execute(query.order_by(w.created_ms, w.id))
    return [Wallet(*row) for row in rows]


def _unbalanced(connection: sa.Connection) -> Iterator[dict[str, Any]]:
    leg = t.legs.c
    n, total = sa.func.count(leg.account), sa.func.coalesce(sa.func.sum(leg.amount), 0)
    query = (
        sa.select(t.entries.c.id, n, total)
        .outerjoin(t.legs, leg.entry == t.entries.c.id)
        .group_by(t.entries.c.id)
        .having(sa.or_(n < 2, total != 0))
    )
    for entry, count, amount in connection.execute(query):
        yield {"what": "entry", "entry": entry, "legs": count, "found": int(amount), "expected": 0}


def _drifted(connection: sa.Connection) -> Iterator[dict[str, Any]]:
    leg, e, s = t.legs.c, t.entries.c, t.sums.c
    query = (
        sa.select(leg.account, e.kind, sa.func.sum(leg.amount))
        .join(t.entries, e.id == leg.entry)
        .group_by(leg.account, e.kind)
    )
    true = {(account, kind): int(n) for account, kind, n in connection.execute(query)}
    rows = connection.execute(sa.select(s.account, s.kind, s.amount))
    kept = {(account, kind): int(n) for account, kind, n in rows}
    for account, kind in sorted(true.keys() | kept.keys()):
        legs, cached = true.get((account, kind), 0), kept.get((account, kind), 0)
        if legs != cached:
            where = {"what": "sum", "account": account, "kind": kind}
            yield where | {"found": cached, "expected": legs}


def _overdrawn(connection: sa.Connection) -> Iterator[dict[str, Any]]:
    a, leg = t.accounts.c, t.legs.c
    query = (
        sa.select(a.tenant_id, a.currency, a.name, sa.func.sum(leg.amount))
        .join(t.legs, leg.account == a.account)
        .where(a["class"].in_(("credit", "held", "captured")))
        .group_by(a.account, a.tenant_id, a.currency, a.name)
        .having(sa.func.sum(leg.amount) > 0)
    )
    for tenant, currency, name, amount in connection.execute(query):
        where = {"what": "overdrawn", "tenant": tenant, "currency": currency, "account": name}
        yield where | {"found": int(amount), "expected": 0}
