"""Invoices in the database: numbers without gaps, what may change, what never does."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa

from billing.make_usage import DAY, HOUR, usage_record
from meuse.billing.invoice_ports import NewPayment
from meuse.billing.settling import pay
from meuse.core.errors import Code, MeuseError
from meuse.meter.record import encode
from meuse.store import invoice_tables as t
from meuse.store.database import Database
from meuse.store.money import MoneyStore
from store.test_money import Draft, migrate_to


@dataclass
class Paid:
    kind: str = "payment"
    adapter: str = "manual"
    reference: str = "bank-1"
    amount: str = "1.00"
    date: str = "2026-12-01"


@dataclass
class Credit:
    series: str = "CN-2026"
    reference: str = ""
    amount: str = "0.50"
    body: dict[str, Any] = field(default_factory=lambda: {"reason": "x"})
    book: Any = None


@dataclass
class Step:
    status: str = "issued"
    payment: Any = None
    credit: Any = None
    void_reason: str | None = None
    book: Any = None


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    database.migrate("money")
    yield database
    database.close()


@pytest.fixture
def store(database):
    return MoneyStore(database)


def issue(store, hour=0, tenant="acme", **draft):
    start = DAY + hour * HOUR
    made, _ = store.put_invoice(
        tenant, start, start + HOUR, lambda rows: Draft(final=True, **draft)
    )
    return made


def settle(store, invoice, **step):
    return store.settle(None, invoice.id, lambda account: Step(**step))[1]


def test_numbers_count_by_series(store):
    """Each year and kind by itself, from one on."""
    numbers = [issue(store, n, series=s).number for n, s in enumerate(["A-2026", "A-2027"] * 2)]
    assert numbers == ["A-2026-000001", "A-2027-000001", "A-2026-000002", "A-2027-000002"]
    account = settle(store, store.list_invoices("acme")[0], credit=Credit())
    assert account.credit_notes[0].number == "CN-2026-000001"


def test_numbers_have_no_gaps_whoever_issues(database_url, database):
    """Eight connections issue at once and every third attempt fails: 1 to n, each once."""
    databases = [Database(database_url) for _ in range(8)]
    errors: list[BaseException] = []

    def run(number: int, mine: Database) -> None:
        store = MoneyStore(mine)

        def fails(_books, _id, _number):
            raise MeuseError(Code.CONFLICT, "the ledger refuses")

        try:
            for n in range(6):
                if n % 3 == 2:
                    booked = MoneyStore(mine, books=lambda connection: connection)
                    with pytest.raises(MeuseError, match="the ledger refuses"):
                        issue(booked, n, f"t-{number}", book=fails)
                else:
                    issue(store, n, f"t-{number}")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(databases)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in databases:
        one.close()
    assert errors == []
    found = MoneyStore(database).list_invoices(None)
    assert sorted(i.number for i in found) == [f"INV-2026-{n:06d}" for n in range(1, 33)]


def test_a_number_is_taken_with_its_invoice_or_not_at_all(store, database):
    """What fails after the number was drawn leaves neither invoice nor number nor alarm."""
    booked = MoneyStore(database, books=lambda connection: "books")

    def fails(books, _id, number):
        assert (books, number) == ("books", "INV-2026-000001")
        raise MeuseError(Code.CONFLICT, "no")

    draft, _ = store.put_invoice("acme", DAY, DAY + HOUR, lambda rows: Draft())
    with pytest.raises(MeuseError, match="no"):
        issue(booked, book=fails)
    assert store.get_invoice(None, draft.id) == draft
    assert issue(store).number == "INV-2026-000001"


def test_what_the_ledger_says_stands_in_the_body(store, database):
    """An invoice that a wallet has paid is paid as it is issued; one of nothing is as well."""
    booked = MoneyStore(database, books=lambda connection: connection)
    whole = issue(booked, book=lambda *_: {"from_wallet": "1.00"})
    part = issue(booked, 1, book=lambda *_: {"from_wallet": "0.40"})
    nothing = issue(store, 2, total="0.00")
    assert [i.status for i in (whole, part, nothing)] == ["paid", "issued", "paid"]
    assert json.loads(part.body)["from_wallet"] == "0.40"
    assert json.loads(whole.body)["status"] == "paid"


def test_an_account_has_all_that_was_settled(store):
    """By id and by number, to its tenant and to administrators; in the order of time."""
    one, other = issue(store), issue(store, 5)
    settle(store, one, payment=Paid())
    account = settle(store, one, status="paid", credit=Credit(), payment=Paid(reference="b-2"))
    assert (account.invoice.status, account.next_start_ms) == ("paid", DAY + 5 * HOUR)
    assert [p.reference for p in account.payments] == ["bank-1", "b-2"]
    assert json.loads(account.credit_notes[0].body)["number"] == "CN-2026-000001"
    assert store.account("acme", one.number) == account
    found = {a.invoice.id: (len(a.payments), len(a.credit_notes)) for a in store.accounts("acme")}
    assert found == {one.id: (2, 1), other.id: (0, 0)}
    note = account.credit_notes[0]
    assert store.credit_note("acme", note.number) == store.credit_note(None, note.id) == note
    for look in (store.account, store.credit_note, store.get_invoice):
        for tenant, name in (("other", note.id), (None, "nothing")):
            with pytest.raises(MeuseError) as caught:
                look(tenant, name)
            assert caught.value.code is Code.NOT_FOUND
    same = store.settle(None, one.id, lambda account: None)
    assert same[0] is same[1]


def test_the_same_payment_cannot_be_kept_twice(store):
    """The database itself refuses a second one of a reference, and keeps nothing of the step."""
    one = issue(store)
    settle(store, one, payment=Paid())
    with pytest.raises(sa.exc.IntegrityError):
        settle(store, one, status="paid", payment=Paid(amount="2.00"))
    assert store.account(None, one.id).invoice.status == "issued"


def test_a_void_invoice_leaves_its_period(store):
    """Its number stays its own; the period is invoiced again under the next, once."""
    one = issue(store)
    gone = settle(store, one, status="void", void_reason="wrong tenant").invoice
    assert (gone.status, gone.number, gone.void_reason) == ("void", one.number, "wrong tenant")
    assert gone.voided_ms
    again, new = store.put_invoice("acme", DAY, DAY + HOUR, lambda rows: Draft(final=True))
    assert (again.number, new) == ("INV-2026-000002", True)
    assert settle(store, again, status="void", void_reason="again").invoice.number == again.number
    third = issue(store)
    assert third.number == "INV-2026-000003"
    done = store.ingest("h-0-1-0", [(r := usage_record(), encode(r))], offset=0, next_offset=1,
                        state="open")  # fmt: skip
    assert done.late == 1  # of the one that counts


def test_usage_after_a_paid_invoice_is_late(store):
    """Paid or not, what comes for its period is told of."""
    one = issue(store)
    settle(store, one, status="paid", payment=Paid())
    store.ingest("h-0-1-0", [(r := usage_record(), encode(r))], offset=0, next_offset=1,
                 state="open")  # fmt: skip
    assert store.invoiced_late() == {one.id}


@pytest.mark.parametrize(
    ("status", "change"),
    [
        ("issued", {"status": "draft"}),
        ("issued", {"total": "0.00"}),
        ("issued", {"status": "paid", "body": "{}"}),
        ("issued", {"status": "paid", "number": "INV-2026-000009"}),
        ("issued", {"status": "paid", "issued_ms": 1}),
        ("issued", {"status": "void"}),
        ("issued", {"void_reason": "x", "voided_ms": 1}),
        ("paid", {"status": "issued"}),
        ("paid", {"status": "void", "void_reason": "x", "voided_ms": 1}),
        ("void", {"status": "issued", "void_reason": None, "voided_ms": None}),
        ("void", {"void_reason": "another"}),
        ("draft", {"status": "issued"}),
        ("draft", {"status": "lost"}),
    ],
)
def test_the_database_refuses_what_the_state_table_does(store, database, status, change):
    """Whoever writes: no way back, nothing that was said is changed, no void without reason."""
    if status == "draft":
        one, _ = store.put_invoice("acme", DAY, DAY + HOUR, lambda rows: Draft())
    else:
        one = issue(store)
    if status == "paid":
        settle(store, one, status="paid", payment=Paid())
    if status == "void":
        settle(store, one, status="void", void_reason="wrong")
    before = store.account(None, one.id)
    with pytest.raises(sa.exc.DBAPIError), database.write() as connection:
        connection.execute(sa.update(t.invoices).values(**change))
    assert store.account(None, one.id) == before


@pytest.mark.parametrize("table", [t.payments, t.credit_notes])
def test_payments_and_credit_notes_stay(store, database, table):
    """No statement changes or deletes one, nor an issued invoice."""
    settle(store, issue(store), payment=Paid(), credit=Credit())
    for statement in (sa.update(table).values(amount="9"), sa.delete(table), sa.delete(t.invoices)):
        refused = pytest.raises(sa.exc.DBAPIError, match="immutable")
        with refused, database.write() as connection:
            connection.execute(statement)


def test_invoices_of_an_older_platform_are_kept(database_url):
    """They read as they did, stay immutable, and can be paid; their numbers go on beside."""
    database = Database(database_url)
    migrate_to(database, "0002")
    row = {
        "id": "inv-old", "tenant_id": "acme", "project_id": "default", "number": "INV-000001",
        "period_start_ms": DAY, "period_end_ms": DAY + HOUR, "status": "issued",
        "currency": "EUR", "total": "1.00", "body": '{"lines":[]}', "created_ms": 5,
        "updated_ms": 6,
    }  # fmt: skip
    draft = row | {"id": "inv-draft", "number": None, "status": "draft", "tenant_id": "guest"}
    old = sa.table("invoice", *(sa.column(name) for name in row))
    with database.write() as connection:
        connection.execute(sa.insert(old), [row, draft])
    database.migrate("money")
    store = MoneyStore(database)
    found = store.get_invoice("acme", "INV-000001")
    assert (found.status, found.body, found.issued_ms, found.due_on) == (
        "issued", '{"lines":[]}', 6, None,
    )  # fmt: skip
    assert store.get_invoice("guest", "inv-draft").issued_ms is None
    with pytest.raises(sa.exc.DBAPIError, match="immutable"), database.write() as connection:
        connection.execute(sa.update(t.invoices).values(total="0.00"))
    assert settle(store, found, status="paid", payment=Paid()).invoice.status == "paid"
    assert issue(store, 3).number == "INV-2026-000001"
    database.close()


def test_payments_that_come_at_once_never_exceed_what_is_due(database_url, store):
    """Eight of 0.40 for an invoice of 1.00, on connections of their own: two are taken."""
    one = issue(store)
    databases = [Database(database_url) for _ in range(8)]
    refused: list[str] = []

    def run(number: int, mine: Database) -> None:
        paid = NewPayment("payment", "manual", f"bank-{number}", "0.40", "2026-12-01")
        try:
            MoneyStore(mine).settle(None, one.id, lambda account: pay(account, paid))
        except MeuseError as error:
            refused.append(error.message)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(databases)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mine in databases:
        mine.close()
    account = store.account(None, one.id)
    assert [p.amount for p in account.payments] == ["0.40", "0.40"]
    assert len(refused) == 6
    assert all("above what is due: 0.20 EUR" in message for message in refused)
