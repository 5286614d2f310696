"""The nightly comparison: silent when all agree, loud with the numbers when one digit differs."""

from __future__ import annotations

from billing.make_plans import END, TIERS
from billing.make_usage import DAY, HOUR, Directory, plan, usage_record
from billing.test_invoices import used
from billing.test_issuing import made
from billing.test_parts import HALVES, MID, part
from meuse.billing.reconciling import Reconciler
from meuse.core.plans import Credits, Fee, Price, Tax

NOW = END + 20 * 24 * HOUR
TERMS = plan(
    Price("rows", scheme="graduated", tiers=TIERS), Price("requests", "0.0123"),
    fees=(Fee("base", "49"),), minimum="60", maximum="5000", credits=Credits("5"),
    tax=Tax("VAT", "21"),
)  # fmt: skip


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


def test_all_is_well(store):
    """Invoices with tiers, fees, bounds, credits and tax, in parts, paid, void: no difference."""
    directory = Directory(TERMS, acme="basic", guest="basic")
    used(store, *(usage_record(ts=DAY + n * HOUR, quantities={"rows": 700, "requests": n})
                  for n in range(30)))  # fmt: skip
    first = part(store, directory, HALVES[0])
    used(store, usage_record(ts=MID, quantities={"rows": 700}))
    second = part(store, directory, HALVES[1])
    used(store, usage_record(tenant="guest"))
    gone = made(store, directory)  # of acme: refused below if it were not the month's
    assert first["number"] != second["number"]
    del gone
    told = run(store, directory)
    assert (told["count"], told["differences"], told["unrated"], told["late"]) == (0, [], [], [])
    assert told["compared"]["invoices"] >= 2
    assert told["skipped"] == ["ledger", "wallets"]
    assert store.alarms() == []
    assert store.reconciliations(5) == [told]
