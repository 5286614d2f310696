"""The nightly comparison: silent when all agree, loud with the numbers when one digit differs."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace
from decimal import Decimal

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from billing.accounts import Account, Invoice
from billing.make_plans import END, MONTH, TIERS
from billing.make_usage import DAY, HOUR, Directory, plan, usage_record
from billing.test_invoices import used
from billing.test_issuing import Customers, made
from billing.test_parts import HALVES, History, part
from meuse.billing import reconcile
from meuse.billing.reconciling import Reconciler, nightly
from meuse.billing.settling import credit, void
from meuse.billing.terms import Terms
from meuse.core.errors import Code, MeuseError
from meuse.core.plans import Credits, Fee, Price, Tax
from meuse.store import money_tables
from meuse.store.database import Database
from meuse.store.money import MoneyStore

NOW = END + 20 * 24 * HOUR
TERMS = plan(
    Price("rows", scheme="graduated", tiers=TIERS), Price("requests", "0.0123"),
    fees=(Fee("base", "49"),), minimum="60", maximum="5000", credits=Credits("5"),
    tax=Tax("VAT", "21"),
)  # fmt: skip
CENTS = plan(Price("rows", "0.01"))


class Books:
    """A ledger that has what it is given."""

    def __init__(self, standings=None, unbalanced=()):
        self.standings = standings or {}
        self._unbalanced = unbalanced

    def standing(self, tenant, invoice):
        return self.standings.get(invoice)

    def unbalanced(self):
        return self._unbalanced


def run(store, directory, books=None, now=NOW, **bounds):
    reconciler = Reconciler(
        store=store, plans=directory, tenants=directory, books=books, clock=lambda: now
    )
    return reconciler.run(**bounds)


def settle(store, body, decide):
    return store.settle(None, body["id"], decide)[1]


def test_all_is_well(store):
    """Tiers, fees, bounds, credits, tax; in parts, paid, credited, void: nothing differs."""
    directory = Directory(TERMS, acme="basic", guest="basic")
    used(store, *(usage_record(ts=DAY + n * HOUR, quantities={"rows": 700, "requests": n})
                  for n in range(30)))  # fmt: skip
    parts = [part(store, directory, half) for half in HALVES]
    used(store, usage_record(tenant="guest"))
    whole = made(store, directory, tenant="guest")
    settle(store, parts[0], lambda a: credit(a, {"reason": "x"}, Terms()))
    settle(store, whole, lambda a: void(a, "x"))
    again = made(store, directory, tenant="guest")
    assert again["number"] == "INV-2026-000004"
    told = run(store, directory)
    assert (told["differences"], told["unrated"], told["late"]) == ([], [], [])
    assert told["compared"] == {"invoices": 4, "tenants": 2}
    assert told["skipped"] == ["ledger", "wallets"]
    assert store.alarms() == []
    assert store.reconciliations(5) == [told]


def test_an_invoice_is_rated_again_as_of_when_it_was_issued(store):
    """A plan, a tax or a tenant's plan that changed later makes no difference; nor does
    `unrated_as`, nor a customer's own tax."""
    charge = {"name": "Acme", "tax": {"name": "VAT", "percent": "7"}}
    directory = Customers(TERMS, details=charge, acme="basic")
    used(store, usage_record(quantities={"rows": 9}), usage_record(plan_version=None))
    first = part(store, directory, HALVES[0], unrated_as="basic:1")
    assert first["taxes"][0]["percent"] == "7"
    second = plan(Price("rows", "9"), version=2, made=4 * NOW, tax=Tax("VAT", "50"))
    later = History(TERMS, second, changes=[(0, "basic"), (4 * NOW, None)])
    told = run(store, later)
    assert told["differences"] == []
    assert told["compared"]["invoices"] == 1


def test_one_digit_is_found(store, database):
    """In the rollup: the quantity, and the line that it makes; both numbers, one alarm each."""
    directory = Directory(CENTS, acme="basic")
    used(store, usage_record(quantities={"rows": 1000}), usage_record(quantities={"rows": 500}))
    body = made(store, directory)
    with database.write() as connection:
        for table in (money_tables.rollup, money_tables.daily):
            connection.execute(sa.update(table).values(quantity=1600))
    told = run(store, directory)
    assert told["count"] == 2
    quantity, line = told["differences"]
    assert quantity == {
        "check": "records = rollup", "tenant": "acme", "found": "1600", "expected": "1500",
        "where": {"meter": "rows", "model": "acme/digits", "version": "digits:1",
                  "tier": "standard", "plan": "basic:1"},
    }  # fmt: skip
    assert (line["check"], line["found"], line["expected"]) == (
        "records × price = lines", "15.00", "16.00",
    )  # fmt: skip
    assert line["where"]["invoice"] == body["number"]
    run(store, directory)
    alarms = store.alarms()
    assert [a["kind"] for a in alarms] == ["reconciliation_difference"] * 2
    assert quantity in [a["detail"] for a in alarms]


def test_records_may_be_counted_elsewhere(store):
    """Where raw records are archived, who keeps them counts; what agrees is no difference."""
    key = ("acme", "rows", "acme/digits", "digits:1", "standard", "basic:1")
    asked = []

    def recount(start, end):
        asked.append((start, end))
        return [(key, 5, 6), (key, 7, 7)]

    directory = Directory(CENTS, acme="basic")
    used(store, usage_record())
    reconciler = Reconciler(
        store=store, plans=directory, tenants=directory, recount=recount, clock=lambda: NOW
    )
    (found,) = reconciler.run()["differences"]
    assert (found["where"]["meter"], found["found"], found["expected"]) == ("rows", "5", "6")
    assert asked == [(MONTH, NOW)]


def test_records_that_cannot_be_counted_hide_nothing_else(store):
    """The counting took too long: the rest is compared, and an alarm says what was not."""

    def recount(start, end):
        raise MeuseError(Code.DEADLINE_EXCEEDED, "the recount took more than 900 s")

    directory = Directory(CENTS, acme="basic")
    used(store, usage_record())
    reconciler = Reconciler(
        store=store, plans=directory, tenants=directory, recount=recount, clock=lambda: NOW
    )
    told = reconciler.run()
    assert told["skipped"] == ["ledger", "wallets", "records"]
    assert told["compared"]["tenants"] == 1
    assert [a["kind"] for a in store.alarms()] == ["reconciliation_incomplete"]


def test_a_record_that_was_lost_is_found(store, database):
    """Whatever happened to the rows themselves."""
    directory = Directory(CENTS, acme="basic")
    used(store, *(usage_record() for _ in range(3)))
    with database.write() as connection:
        table = money_tables.entries
        one = connection.execute(sa.select(table.c.id).limit(1)).scalar_one()
        connection.execute(sa.delete(table).where(table.c.id == one))
    told = run(store, directory)
    assert [(d["where"]["meter"], d["found"], d["expected"]) for d in told["differences"]] == [
        ("requests", "3", "2"), ("rows", "24", "16"),
    ]  # fmt: skip


def test_steps_of_a_request_are_one_quantity(store):
    """What was counted in several buckets is what the last record says."""
    first = usage_record(seq=0, final=False, quantities={"requests": 1, "completion_tokens": 64})
    last = usage_record(id=first.id, seq=1, ts=DAY + HOUR,
                        quantities={"requests": 1, "completion_tokens": 90})  # fmt: skip
    used(store, first, last)
    assert run(store, Directory(plan(), acme="basic"))["differences"] == []


def test_usage_without_a_price_is_an_alarm_each_month_once(store):
    """Found without an invoice having been asked for; tokens that nobody priced are not zero."""
    directory = Directory(plan(Price("rows", "1")), acme="basic")
    used(store, usage_record(plan_version=None, quantities={"completion_tokens": 500}))
    for _ in range(2):
        told = run(store, directory)
    assert told["unrated"] == [
        {"tenant": "acme", "meter": "completion_tokens", "model": "acme/digits", "plan": None,
         "quantity": 500, "reason": "no plan when it was used", "tier": "standard"},
    ]  # fmt: skip
    (alarm,) = store.alarms()
    assert (alarm["kind"], alarm["detail"]["quantity"]) == ("unrated_usage", 500)
    assert alarm["detail"]["from"] == "2026-11-01T00:00:00.000Z"


def test_usage_that_came_late_is_told_apart(store):
    """It has its own alarm, and is no difference."""
    directory = Directory(CENTS, acme="basic")
    used(store, usage_record())
    body = made(store, directory)
    used(store, usage_record())
    told = run(store, directory)
    assert (told["differences"], told["late"]) == ([], [body["number"]])


def test_the_period_says_which_invoices(store):
    """Those whose period ends in it; by default from last month on."""
    directory = Directory(CENTS, acme="basic")
    used(store, usage_record())
    made(store, directory)
    assert run(store, directory)["compared"]["invoices"] == 1
    bounds = {"start_ms": MONTH, "end_ms": END - HOUR}
    assert run(store, directory, **bounds)["compared"]["invoices"] == 0
    late = END + 70 * 24 * HOUR
    assert run(store, directory, now=late)["compared"]["invoices"] == 0


STANDING = {
    "total": Decimal(121), "credited": Decimal(0), "paid": Decimal(0), "from_wallet": Decimal(0),
    "due": Decimal(121),
}  # fmt: skip


@pytest.mark.parametrize(
    ("account", "standing", "found"),
    [
        (Account(), STANDING, []),
        (Account(), None, [("total", "not booked", "121.00")]),
        (Account(), STANDING | {"paid": Decimal(1), "due": Decimal(120)},
         [("paid", "1", "0"), ("due", "120", "121.00")]),
        (Account(Invoice(total="0.00", status="paid")), None, []),
        (Account(Invoice(status="void")), STANDING | {"due": Decimal(0)}, []),
        (Account(Invoice(status="void")), STANDING, [("due", "121", "0")]),
    ],
)  # fmt: skip
def test_an_invoice_and_the_ledger_say_the_same(account, standing, found):
    """Total, credited, paid, from the wallet, due; what is void is owed nothing."""
    told = reconcile.invoice_and_books(account, standing)
    assert [(d.where["what"], d.found, d.expected) for d in told] == found
    assert all(d.check == "invoice = ledger" for d in told)


def test_the_ledger_is_compared_where_there_is_one(store):
    """Standing by standing; what the ledger finds in itself is told as well."""
    directory = Directory(CENTS, acme="basic")
    used(store, usage_record(quantities={"rows": 100}))
    body = made(store, directory)
    right = {"total": Decimal(1), "credited": Decimal(0), "paid": Decimal(0),
             "from_wallet": Decimal(0), "due": Decimal(1)}  # fmt: skip
    assert run(store, directory, Books({body["id"]: right}))["differences"] == []
    broken = Books({}, [{"tenant": "acme", "wallet": "w-1", "found": "7", "expected": "9"}])
    told = run(store, directory, broken)
    assert (told["skipped"], [d["check"] for d in told["differences"]]) == (
        [], ["invoice = ledger", "ledger = wallet"],
    )  # fmt: skip
    assert told["differences"][1]["where"] == {"wallet": "w-1"}


@pytest.mark.parametrize(
    ("change", "what"),
    [({"total": "122.00"}, ["lines", "net + tax"]), ({}, [])],
)
def test_a_total_is_its_lines(change, what):
    """Whatever wrote it."""
    body = json.loads(Invoice().body) | {"lines": [{"amount": "121.00"}]}
    invoice = replace(Invoice(), body=json.dumps(body), **change)
    assert [d.where["what"] for d in reconcile.invoice_and_lines(invoice)] == what


keys = st.tuples(*[st.sampled_from("ab")] * 6)
sums = st.dictionaries(keys, st.integers(0, 3), max_size=6)


@given(sums, sums)
def test_quantities_differ_exactly_where_they_differ(one, two):
    """No difference is passed over, none is made up; zero and nothing are the same."""
    found = reconcile.records_and_rollup(one, two)
    told = {(d.tenant, *d.where.values()): (int(d.expected), int(d.found)) for d in found}
    assert told == {
        key: (one.get(key, 0), two.get(key, 0))
        for key in {*one, *two}
        if one.get(key, 0) != two.get(key, 0)
    }


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_it_runs_once_a_night(database, caplog):
    """At its hour, once; a night that was missed is made up for."""
    clock = [END + 2 * HOUR]
    store = MoneyStore(database, lambda: clock[0])
    reconciler = Reconciler(store=store, plans=Directory(), tenants=Directory(),
                            clock=lambda: clock[0])  # fmt: skip
    stop = threading.Event()
    thread = threading.Thread(target=nightly, args=(reconciler, 3, stop, 0.005))
    thread.start()

    def runs(n):
        deadline = time.monotonic() + 10
        while len(store.reconciliations(9)) < n:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.05)
        return len(store.reconciliations(9)) == n

    try:
        assert runs(0)
        clock[0] = END + 3 * HOUR
        assert runs(1)
        clock[0] += 23 * HOUR
        assert runs(1)
        clock[0] += 50 * HOUR  # two nights
        assert runs(2)
    finally:
        stop.set()
        thread.join(10)
    assert not [r for r in caplog.records if r.levelname == "ERROR"]


def test_a_failing_night_is_told_of_and_not_repeated(caplog):
    """The store is away: logged once, and not tried again before the next night."""

    class Away:
        tries = looks = 0

        def reconciliations(self, limit):
            self.looks += 1
            if self.looks == 1:
                raise OSError("the database starts again")
            return []

        def sums(self):
            self.tries += 1
            raise OSError("the disk is gone")

    clock, away, stop = [END], Away(), threading.Event()
    reconciler = Reconciler(store=away, plans=Directory(), tenants=Directory(),
                            clock=lambda: clock[0])  # fmt: skip
    thread = threading.Thread(target=nightly, args=(reconciler, 3, stop, 0.005))
    thread.start()
    time.sleep(0.05)
    clock[0] = END + 4 * HOUR
    time.sleep(0.2)
    stop.set()
    thread.join(10)
    assert away.tries == 1
    assert "when books were compared last is not known" in caplog.text
    assert "the comparison of records, invoices and ledger failed" in caplog.text


def test_one_moment_is_compared(database_url):
    """While records stream in, what they have and what the rollup has is always the same."""
    database, other = Database(database_url), Database(database_url)
    database.migrate("money")
    writer, reader = MoneyStore(database), MoneyStore(other)
    done = threading.Event()

    def write():
        try:
            for _ in range(30):
                used(writer, *(usage_record() for _ in range(20)))
        finally:
            done.set()

    thread = threading.Thread(target=write)
    thread.start()
    looks = 0
    while not done.is_set() or not looks:
        records, rollup = reader.sums()
        assert reconcile.records_and_rollup(records, rollup) == []
        looks += 1
    thread.join()
    database.close()
    other.close()
