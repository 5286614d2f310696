"""billing.budgets: what hosts are told, and what they counted, computed again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.make_plans import END, MONTH, invoice
from billing.make_usage import DAY, HOUR, Directory, plan
from billing.test_owed import EXAMPLES, events, plans, sums
from meuse.billing.budgets.prepaid import limit_of
from meuse.billing.budgets.recount import recount, span_of, tables
from meuse.billing.budgets.told import Told
from meuse.billing.plans.budget import budget_price, plan_base, price_table
from meuse.core.clock import bucket_start
from meuse.core.micros import UNIT
from meuse.core.nouns import KeyRecord, Limit, LimitRecord, Scope
from meuse.core.plans import Credits, PlanVersion, Price, Step
from meuse.core.prices import Prices
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.database import Database
from meuse.store.limits import SqlLimits

MODELS = ("acme/digits", "acme/letters", "guest/letters", "letters/x")


def cost(micros: int, period: str = "month", **more: Any) -> Limit:
    more.setdefault("currency", "EUR")
    return Limit(more.pop("id", "b"), "budget", micros, period, "cost", **more)


@settings(max_examples=EXAMPLES)
@given(plans())
def test_the_table_has_the_budget_price_of_every_deployment(terms: PlanVersion) -> None:
    """Found by the most specific name, for names that the plan has never heard of too; rounded up
    to 10⁻¹⁸; None where usage would be unrated."""
    table = price_table(terms)
    for model in MODELS:
        prices = Prices(terms.ref, table, model, "standard")
        for meter in ("rows", "requests", "images", "prompt_tokens"):
            wanted = budget_price(terms, meter, model)
            assert wanted is not None
            atoms = prices.unit.get(meter, 0)
            assert Decimal(atoms - 1) < wanted * 10**18 <= atoms
        assert prices.unpriced == set()


def test_usage_that_meets_no_price_of_its_tier_is_unpriced() -> None:
    """As rating has it: a price for batches alone prices nothing else."""
    terms = plan(Price("rows", "1", tier="batch"), Price("rows", "2", model="m"))
    table = price_table(terms)
    assert Prices("p:1", table, "acme/x", "standard").unpriced == {"rows"}
    assert Prices("p:1", table, "acme/x", "batch").unit == {"rows": 10**18}
    assert Prices("p:1", table, "acme/m", "standard").unit == {"rows": 2 * 10**18}


@settings(max_examples=EXAMPLES)
@given(plans(), events())
def test_what_is_counted_and_set_aside_pays_the_invoice(terms: PlanVersion, used: Any) -> None:
    """A recount of a month's usage, and what is set aside for its plan, is no less than the usage
    on its invoice."""
    limit = cost(10**12, tenant="acme")
    found = tables(Directory(terms, acme="basic"), price_table)
    counted = recount(limit, used, found, MONTH)
    owed = sums(invoice(used, terms)).get("usage", Decimal(0))
    assert counted.unrated == {}
    assert owed <= Decimal(counted.used) / UNIT + plan_base(terms)


def test_the_base_of_a_plan_is_that_of_its_rules() -> None:
    terms = plan(
        Price("requests", "5", 1000, scheme="package"),
        Price("rows", scheme="graduated", tiers=(Step(9, "1", "4"), Step(None, "2", "3"))),
        Price("rows", "1", model="acme/m"),
    )
    assert plan_base(terms) == Decimal("4.995") + 7
    assert plan_base(terms, "acme/m") == Decimal("4.995")
    assert plan_base(plan(Price("rows", "1"))) == 0


@dataclass(frozen=True)
class Row:
    meter: str
    quantity: int
    deployment: str = "acme/m"
    plan_version: str | None = "basic:1"
    tier: str = "standard"


def test_a_recount_tells_what_it_cannot_count() -> None:
    """Usage without a plan, without a price, or in another currency; internal usage is nobody's."""
    eur = plan(Price("rows", "0.5"), Price("images", "1", model="other"))
    usd = plan(Price("rows", "9"), name="other", currency="USD")
    found = tables(Directory(eur, usd), price_table)
    usage = [
        Row("rows", 3), Row("rows", 5, plan_version=None), Row("rows", 7, plan_version="gone:1"),
        Row("rows", 11, plan_version="other:1"), Row("images", 13), Row("audio_ms", 17),
        Row("rows", 1000, tier="internal"),
    ]  # fmt: skip
    counted = recount(cost(1), usage, found, 0)
    assert (counted.used, counted.unrated) == (1_500_000, {"rows": 23, "images": 13})
    assert recount(Limit("r", "budget", 1, meter="rows"), usage, found, 0).used == 26


def test_what_counts_begins_with_the_period_or_the_budget() -> None:
    now = DAY + 5 * HOUR
    assert span_of(cost(1, "day"), now) == (DAY, now + 1)
    assert span_of(cost(1, "month", since_ms=DAY + 7), now) == (DAY + 7, now + 1)
    assert span_of(cost(1, "total", since_ms=9), now) == (9, now + 1)
    assert span_of(cost(1, "total"), now) == (0, now + 1)


# What hosts are told.


class World:
    """Real stores, and a clock of the test's."""

    def __init__(self, database: Database) -> None:
        self.access, self.plans = SqlAccess(database), SqlPlans(database)
        self.limits = SqlLimits(database)
        self.now = 0
        self.told = Told(self.limits, self.access, self.plans, lambda: self.now)

    def budget(self, **fields: Any) -> None:
        limit = cost(fields.pop("micros", 10**9), **fields)
        self.limits.add(LimitRecord(limit, Scope("acme"), True, self.now - 1000), 9, 9)

    def seen(self) -> dict[str, Limit]:
        return {limit.id: limit for limit in self.told.limits()}


@pytest.fixture
def world(tmp_path: Any) -> Iterator[World]:
    database = Database(f"sqlite:///{tmp_path / 'meuse.db'}")
    database.migrate("meuse")
    yield World(database)
    database.close()


def package(amount: str, name: str = "pack", **terms: Any) -> PlanVersion:
    return plan(Price("requests", amount, 1000, scheme="package"), name=name, **terms)


def test_prices_are_told_of_the_plans_in_force(world: World) -> None:
    """Where a budget counts money; each version by itself."""
    first = world.plans.put_plan(package("5"))
    world.plans.put_plan(package("6"))
    assert world.told.prices([Limit("r", "budget", 5, meter="rows")], ["pack:1"]) == {}
    found = world.told.prices([cost(5)], ["pack:1", None, "pack:1"])
    assert found == {"pack:1": price_table(first)}
    assert found["pack:1"].prices == {"requests": {"*": str(5 * 10**15)}}


def test_what_a_plan_may_owe_besides_is_set_aside(world: World) -> None:
    """Once a month of the period and plan version, of those who may spend the budget; for a total
    of several months as often. Never more than there is."""
    world.plans.put_plan(package("5"))
    world.access.put_tenant("acme", "pack")
    world.access.put_tenant("blue", "pack")
    world.access.put_tenant("free", None)
    world.now = world.plans.plan("pack").created_ms + 5000
    key = KeyRecord("k", b"", "k", Scope("blue"), frozenset(), world.now, None)
    world.access.add_key(key)
    for name, fields in {
        "mine": {"tenant": "acme"}, "key": {"key": "k"}, "model": {"model": "x/m"},
        "none": {"tenant": "free"}, "dollars": {"tenant": "acme", "currency": "USD"},
        "small": {"tenant": "acme", "micros": 3}, "total": {"tenant": "acme", "period": "total"},
    }.items():  # fmt: skip
        world.budget(id=name, **fields)
    aside = {id: limit.aside for id, limit in world.seen().items()}
    one = 4_995_000
    assert aside == {
        "mine": one, "key": one, "model": 2 * one, "none": 0, "dollars": 0, "small": 3,
        "total": one,
    }  # fmt: skip
    world.now += 62 * 86_400_000
    later = {id: limit.aside for id, limit in world.seen().items()}
    assert (later["mine"], later["total"]) == (one, 3 * one)
    world.plans.put_plan(package("6"))
    world.now += 62 * 86_400_000
    assert world.seen()["mine"].aside == 5_994_000


def test_budgets_say_since_when_they_count(world: World) -> None:
    world.now = 5000
    world.budget(id="b")
    assert world.seen()["b"] == cost(10**9, since_ms=4000)


def test_a_prepaid_plan_is_a_budget_of_its_tenant(world: World) -> None:
    """From when on nothing may be used beyond the wallet; another version keeps it."""
    prepaid = Credits("0", "credit_only")
    world.plans.put_plan(package("5"))
    world.access.put_tenant("acme", "pack")
    assert world.seen() == {}
    made = world.plans.put_plan(package("5", credits=prepaid))
    (limit,) = world.told.limits()
    since = bucket_start(made.created_ms)  # so that its usage can be added up again exactly
    assert limit == Limit(
        f"wallet-acme-{since}", "budget", 0, meter="cost", tenant="acme", currency="EUR",
        since_ms=since, moves=True,
    )  # fmt: skip
    world.plans.put_plan(package("6", credits=prepaid))
    assert world.told.limits() == (limit,)
    world.access.put_tenant("acme", None)
    assert world.told.limits() == ()
    world.access.put_tenant("acme", "pack")
    (again,) = world.told.limits()
    assert again.since_ms == bucket_start(world.access.plan_changes("acme")[-1][0])


# Prepaid balances.


@dataclass(frozen=True)
class Wallet:
    available: int
    invoiced: tuple[tuple[int, int], ...] = ()


BEFORE = (0, MONTH)


WALLET = cost(0, "total", id="wallet-acme", moves=True, since_ms=MONTH)


class Spending:
    """The budget price of usage: (when, micros) each."""

    def __init__(self, *used: tuple[int, int]) -> None:
        self.used = used

    def __call__(self, start: int, end: int) -> int:
        return sum(micros for at, micros in self.used if start <= at < end)


def left(wallet: Wallet | None, spent: Spending, now: int, terms: PlanVersion, **more: Any) -> int:
    """What a host that counted all of it since then lets through."""
    limit = replace(WALLET, **more)
    return limit_of(limit, wallet, terms, spent, now) - spent(limit.since_ms, now + 1)


PREPAID = plan(Price("rows", "1"), credits=Credits("0", "credit_only"))


def test_a_balance_is_less_what_no_invoice_has_taken_off() -> None:
    """Before an invoice and after it the same is left, if it comes to the budget price; more, if
    it comes to less."""
    spent = Spending((MONTH + 1, 300), (END - 1, 200), (END + 5, 40))
    now = END + 9
    assert left(None, spent, now, PREPAID) == -540
    assert left(Wallet(1000), spent, now, PREPAID) == 460
    assert left(Wallet(500, ((MONTH, END),)), spent, now, PREPAID) == 460
    assert left(Wallet(800, ((MONTH, END),)), spent, now, PREPAID) == 760
    assert left(Wallet(1500), spent, now, PREPAID) == 960


def test_usage_from_before_it_was_prepaid_is_paid_too() -> None:
    """Whenever that was: an invoice for it, when it is issued, takes it off the wallet."""
    spent = Spending((MONTH - 5, 7000), (MONTH + 1, 300), (MONTH + HOUR, 200))
    later = {"since_ms": MONTH + 100}
    now = MONTH + 2 * HOUR
    assert left(Wallet(1000, (BEFORE,)), spent, now, PREPAID, **later) == 500
    assert left(Wallet(8000, ((0, MONTH - 9),)), spent, now, PREPAID, **later) == 500
    assert left(Wallet(8000), spent, now, PREPAID, **later) == 500


def test_a_month_without_an_invoice_is_owed_though_later_ones_have_one() -> None:
    """It was voided, or never issued."""
    spent = Spending((5, 10), (MONTH - 5, 7000), (MONTH + 1, 300), (END + 1, 200))
    now = END + HOUR
    gap = ((0, 100), (MONTH, END))
    assert left(Wallet(9000, gap), spent, now, PREPAID, since_ms=END) == 1800
    assert left(Wallet(9000, gap), spent, now, PREPAID, since_ms=MONTH) == 1800
    whole = ((0, 100), (100, MONTH), (MONTH, END))
    assert left(Wallet(2000, whole), spent, now, PREPAID, since_ms=MONTH) == 1800


def test_the_credit_of_a_plan_is_of_its_month() -> None:
    """What is not used is gone with the month, and an invoice of a part has used its part."""
    terms = plan(Price("rows", "1"), credits=Credits("0.0005", "credit_only"))
    assert left(Wallet(100), Spending(), MONTH + 9, terms) == 600
    spent = Spending((MONTH + 1, 300))
    assert left(Wallet(100), spent, MONTH + 9, terms) == 300
    assert left(Wallet(100), spent, END, terms) == 100 + 500
    more = Spending((MONTH + 1, 550))
    assert left(Wallet(100), more, END, terms) == 50 + 500
    assert left(Wallet(100, ((MONTH, MONTH + HOUR),)), spent, MONTH + HOUR, terms) == 300
    half = {"since_ms": (MONTH + END) // 2}
    # By the second; the quarter of an hour in which it began does not count.
    assert left(Wallet(100), Spending(), END - 1, terms, **half) == 349
    assert limit_of(WALLET, Wallet(0), PREPAID, Spending((MONTH - 1, 9)), MONTH) == 0


@settings(max_examples=EXAMPLES)
@given(
    st.lists(st.tuples(st.integers(MONTH, END + 10**9), st.integers(0, 10**6)), max_size=9),
    st.integers(0, 10**7),
)
def test_an_invoice_moves_both_sides_alike(used: list[tuple[int, int]], paid: int) -> None:
    """Issued at the budget price, it changes nothing of what is left."""
    spent, now = Spending(*used), END + 10**9 + 1
    month = spent(MONTH, END)
    before = left(Wallet(paid + month), spent, now, PREPAID)
    assert before == left(Wallet(paid, ((MONTH, END),)), spent, now, PREPAID)
