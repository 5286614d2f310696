"""What a plan may say: each mistake has its field, and what is good comes back as it was put."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from meuse.access import plan_body
from meuse.access.plan_checks import check_plan
from meuse.access.tenancy import Tenancy
from meuse.core.clock import BUCKET_MS, to_rfc3339
from meuse.core.errors import Code, MeuseError
from meuse.core.plans import PlanVersion, price_body, terms_body
from meuse.store import access
from meuse.store.access import SqlAccess, SqlPlans
from meuse.store.database import Database

FULL: dict[str, Any] = {
    "currency": "EUR",
    "prices": [
        {"meter": "rows", "model": "*", "per": 1000, "amount": "0.50", "free": 100},
        {"meter": "rows", "model": "acme/digits", "tier": "batch", "amount": "0.25", "per": 1},
        {
            "meter": "requests", "model": "*", "per": 1, "scheme": "graduated",
            "tiers": [
                {"up_to": 1000, "amount": "0.010", "flat": "5"},
                {"up_to": None, "amount": "0.008"},
            ],
        },
        {
            "meter": "images", "model": "*", "per": 10, "scheme": "volume",
            "tiers": [{"up_to": 5, "amount": "2"}, {"up_to": None, "amount": "1"}],
        },
        {"meter": "audio_ms", "model": "*", "amount": "5", "per": 60000, "scheme": "package",
         "round_up_to": 1000},
        {"meter": "prompt_tokens", "model": "*", "amount": "3", "per": 1000000},
        {"meter": "cached_tokens", "model": "*", "amount": "0.3", "per": 1000000},
        {"meter": "completion_tokens", "model": "*", "amount": "15", "per": 1000000},
    ],
    "fees": [
        {"name": "base", "amount": "49", "per": "month"},
        {"name": "reserved", "amount": "0.90", "per": "hour", "quantity": 2, "model": "digits"},
    ],
    "discounts": [
        {"name": "batch", "percent": "50", "tier": "batch", "meter": "prompt_tokens"},
        {"name": "deal", "percent": "12.5"},
    ],
    "stacking": "best_of",
    "maximum": "400",
    "minimum": "10.50",
    "credits": {"amount": "40", "settle": "credit_then_invoice"},
    "tax": {"name": "VAT", "percent": "21"},
}  # fmt: skip


@pytest.fixture
def tenancy(database_url: str) -> Iterator[Tenancy]:
    database = Database(database_url)
    database.migrate("meuse")
    yield Tenancy(SqlAccess(database), SqlPlans(database), b"pepper", "test", lambda: 1)
    database.close()


def shown(plan: PlanVersion) -> dict[str, Any]:
    prices = [price_body(price) for price in plan.prices]
    return {"currency": plan.currency, "prices": prices, **terms_body(plan)}


def test_a_plan_is_kept_and_shown_as_it_was_put(tenancy: Tenancy) -> None:
    """Every field there is; the same again is the same version, any change is the next."""
    made = tenancy.put_plan("full", FULL)
    assert shown(made) == FULL
    assert tenancy.plans.plan("full") == made
    assert tenancy.put_plan("full", FULL) == made
    for i, (name, value) in enumerate(
        [("maximum", "401"), ("stacking", "stack"), ("tax", None), ("fees", [])], 2
    ):
        assert tenancy.put_plan("full", {**FULL, name: value}).version == i
    assert [plan.version for plan in tenancy.plans.versions("full")] == [1, 2, 3, 4, 5]
    assert tenancy.plans.versions("full")[0] == made
    assert tenancy.plans.versions("none") == []


def test_changes_of_a_tenants_plan_are_noted(tenancy: Tenancy) -> None:
    """From when on which plan held; putting the same again is no change."""
    tenancy.put_plan("one", {"currency": "EUR", "prices": []})
    tenancy.put_plan("two", {"currency": "EUR", "prices": []})
    for plan in (None, "one", "one", "two", None):
        tenancy.put_tenant("acme", {"plan": plan})
    changes = tenancy.store.plan_changes("acme")
    assert [plan for _, plan in changes] == [None, "one", "two", None]
    assert [at for at, _ in changes] == sorted({at for at, _ in changes})
    assert tenancy.store.plan_changes("nobody") == []


def test_versions_rise_with_time_though_the_clock_goes_back(
    tenancy: Tenancy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The calendar orders them by when they were made: a later one is never in force before."""
    for now in (5_000, 4_000, 5_001, 9_000):
        monkeypatch.setattr(access, "now_ms", lambda now=now: now)
        tenancy.put_plan("one", {"currency": "EUR", "prices": [], "minimum": str(now)})
    made = [plan.created_ms for plan in tenancy.plans.versions("one")]
    assert made == [5_000, 5_001, 5_002, 9_000]


def test_a_plan_that_was_had_keeps_its_currency(tenancy: Tenancy) -> None:
    """A quarter of an hour with usage in two currencies could never be invoiced."""
    euros, dollars = ({"currency": code, "prices": []} for code in ("EUR", "USD"))
    tenancy.put_plan("basic", euros)
    assert tenancy.put_plan("basic", dollars).version == 2  # nobody had it
    tenancy.put_tenant("acme", {"plan": "basic"})
    tenancy.put_tenant("acme", {"plan": None})
    with pytest.raises(MeuseError, match="in USD: its currency stays") as caught:
        tenancy.put_plan("basic", euros)
    assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "currency")
    assert tenancy.put_plan("basic", {**dollars, "minimum": "1"}).version == 3


def test_a_tenant_changes_currency_over_a_quarter_without_a_plan(tenancy: Tenancy) -> None:
    """Not from plan to plan, nor before that quarter of an hour is over; else at once."""
    for name, currency in (("eu", "EUR"), ("eu2", "EUR"), ("us", "USD")):
        tenancy.put_plan(name, {"currency": currency, "prices": []})
    for plan in (None, "eu", "eu2"):
        tenancy.put_tenant("acme", {"plan": plan})
    with pytest.raises(MeuseError, match="has paid in EUR by plan 'eu2'") as caught:
        tenancy.put_tenant("acme", {"plan": "us"})
    assert (caught.value.code, caught.value.field) == (Code.CONFLICT, "plan")
    assert tenancy.store.tenant("acme").plan == "eu2"
    tenancy.put_tenant("acme", {"plan": None})
    since = tenancy.store.plan_changes("acme")[-1][0]
    free = -(-since // BUCKET_MS) * BUCKET_MS + BUCKET_MS
    early = replace(tenancy, clock=lambda: free - 1)
    with pytest.raises(MeuseError) as caught:
        early.put_tenant("acme", {"plan": "us"})
    assert to_rfc3339(free) in str(caught.value.hint)
    assert early.put_tenant("acme", {"plan": "eu"}).plan == "eu"
    early.put_tenant("acme", {"plan": None})
    later = replace(tenancy, clock=lambda: free + BUCKET_MS)
    assert later.put_tenant("acme", {"plan": "us"}).plan == "us"


def test_the_schema_has_every_field() -> None:
    """It is JSON, and what it names is what is read, object by object."""
    found = json.loads(json.dumps(plan_body.schema()))["$defs"]
    assert set(found["PlanBody"]["properties"]) == set(FULL)
    assert found["PriceBody"]["required"] == ["meter"]
    named = {name for price in FULL["prices"] for name in price}
    assert set(found["PriceBody"]["properties"]) == named
    assert set(found["StepBody"]["properties"]) == {"up_to", "amount", "flat"}
    assert set(found["FeeBody"]["properties"]) == {"name", "amount", "per", "quantity", "model"}
    assert all(found[name]["additionalProperties"] is False for name in found)


ROWS = {"meter": "rows"}
LAST = {"amount": "1"}


def price(**fields: Any) -> dict[str, Any]:
    return {"prices": [{"meter": "rows", "amount": "1", **fields}]}


def tiers(*steps: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"prices": [{"meter": "rows", "scheme": "graduated", "tiers": list(steps), **fields}]}


def upto(end: Any, **fields: Any) -> dict[str, Any]:
    return {"up_to": end, "amount": "1", **fields}


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        (tiers(upto(10), upto(10), LAST), "prices[0].tiers[1].up_to", "overlaps the one before"),
        (tiers(upto(10), upto(9), LAST), "prices[0].tiers[1].up_to", "ends at 9"),
        (tiers(LAST, LAST), "prices[0].tiers[1].up_to", "two tiers are open-ended"),
        (tiers(LAST, upto(9), LAST), "prices[0].tiers[2].up_to", "two tiers are open-ended"),
        (tiers(upto(9)), "prices[0].tiers", "no tier is open-ended"),
        (tiers(LAST, upto(9)), "prices[0].tiers[0].up_to", "not the last"),
        (tiers(), "prices[0].tiers", "needs tiers"),
        ({"prices": [{"meter": "rows", "scheme": "volume"}]}, "prices[0].tiers", "needs tiers"),
        (tiers(upto(10.5), LAST), "prices[0].tiers[0].up_to", "10.5"),
        (tiers(upto("10"), LAST), "prices[0].tiers[0].up_to", "'10'"),
        (tiers(upto(0), LAST), "prices[0].tiers[0].up_to", "0 cannot be"),
        (tiers({"amount": "-1"}), "prices[0].tiers[0].amount", "'-1' is not an amount"),
        (tiers({"amount": 1.5}), "prices[0].tiers[0].amount", "1.5"),
        (tiers({"up_to": None}), "prices[0].tiers[0].amount", "missing"),
        (tiers({**LAST, "flat": "1e3"}), "prices[0].tiers[0].flat", "'1e3'"),
        (tiers({**LAST, "colour": 1}), "prices[0].tiers[0].colour", "no field 'colour'"),
        (tiers({**LAST, "flat": "2"}, scheme="volume"), "prices[0].tiers[0].flat", "no flat"),
        (tiers(LAST, amount="1"), "prices[0].amount", "stand in its tiers"),
        (price(tiers=[LAST]), "prices[0].tiers", "has no tiers"),
        (price(amount=None), "prices[0].amount", "not an amount"),
        (price(amount=0.5), "prices[0].amount", "0.5"),
        (price(amount="0.5\n"), "prices[0].amount", "not an amount"),
        (price(amount="NaN"), "prices[0].amount", "'NaN'"),
        (price(meter="smiles"), "prices[0].meter", "'smiles'"),
        (price(scheme="free"), "prices[0].scheme", "'free'"),
        (price(tier="gold"), "prices[0].tier", "'gold'"),
        (price(free=-1), "prices[0].free", "-1"),
        (price(free=0.5), "prices[0].free", "0.5"),
        (price(round_up_to=0), "prices[0].round_up_to", "0"),
        (price(per=1.5), "prices[0].per", "1.5"),
        (price(model="No Name"), "prices[0].model", "name"),
        ({"prices": [price()["prices"][0]] * 2}, "prices", "twice"),
        ({"currency": "ABC"}, "currency", "'ABC' is not a currency"),
        ({"currency": 5}, "currency", "5"),
        ({"prices": [{"meter": "prompt_tokens", "amount": "1"}]}, "prices", "cached_tokens"),
        ({"prices": [{"meter": m, "amount": "1", **({"model": "x"} if m[0] == "c" else {})}
                     for m in ("prompt_tokens", "cached_tokens", "completion_tokens")]},
         "prices", "cached_tokens has none there"),
        ({"prices": [{"meter": m, "amount": "1", **({"tier": "batch"} if m[0] == "p" else {})}
                     for m in ("prompt_tokens", "cached_tokens", "completion_tokens")]},
         "prices", "prompt_tokens has none there"),
        ({"fees": [{"name": "a"}]}, "fees[0].amount", "missing"),
        ({"fees": [{"name": "", "amount": "1"}]}, "fees[0].name", ""),
        ({"fees": [{"name": "a", "amount": "1", "per": "week"}]}, "fees[0].per", "week"),
        ({"fees": [{"name": "a", "amount": "1", "quantity": 0}]}, "fees[0].quantity", ""),
        ({"fees": [{"name": "a", "amount": "1", "model": ""}]}, "fees[0].model", "deployment"),
        ({"fees": [{"name": "a", "amount": "1"}] * 2}, "fees[1].name", "twice"),
        ({"discounts": [{"name": "a", "percent": "101"}]}, "discounts[0].percent", "101"),
        ({"discounts": [{"name": "a", "percent": 50}]}, "discounts[0].percent", "50"),
        ({"discounts": [{"name": "a", "percent": "5", "meter": "x"}]}, "discounts[0].meter", "'x'"),
        ({"discounts": [{"name": "a", "percent": "5", "model": "X"}]}, "discounts[0].model", ""),
        ({"discounts": [{"name": "a", "percent": "5"}] * 2}, "discounts[1].name", "twice"),
        ({**price(free=5), "discounts": [{"name": "a", "percent": "5", "tier": "batch"}]},
         "discounts[0]", "a part of what prices[0] counts together"),
        ({**tiers(LAST), "discounts": [{"name": "a", "percent": "5", "model": "x"}]},
         "discounts[0]", "a part of what prices[0] counts together"),
        ({"prices": [{**ROWS, "amount": "1", "free": 5},
                     {**ROWS, "amount": "1", "model": "acme/x"}],
          "discounts": [{"name": "a", "percent": "5", "model": "x"}]},
         "discounts[0]", "a part of what prices[0] counts together"),
        ({"prices": [{**ROWS, "amount": "1", "free": 5},
                     {**ROWS, "amount": "1", "model": "x", "tier": "batch"}],
          "discounts": [{"name": "a", "percent": "5", "model": "x"}]},
         "discounts[0]", "a part of what prices[0] counts together"),
        ({"prices": [{**ROWS, "amount": "1", "free": 5}, {**ROWS, "amount": "1", "tier": "batch"},
                     {**ROWS, "amount": "1", "tier": "internal"}],
          "discounts": [{"name": "a", "percent": "5", "tier": "standard"}]},
         "discounts[0]", "a part of what prices[0] counts together"),
        ({"stacking": "sum"}, "stacking", "'sum'"),
        ({"maximum": "-5"}, "maximum", "'-5'"),
        ({"minimum": 5}, "minimum", "5"),
        ({"minimum": "5", "maximum": "4.99"}, "minimum", "more than the maximum"),
        ({"credits": {"amount": "5", "settle": "never"}}, "credits.settle", "'never'"),
        ({"credits": {"amount": "-5", "settle": "credit_only"}}, "credits.amount", "'-5'"),
        ({"credits": {}}, "credits.amount", "missing"),
        ({"tax": {"name": "VAT", "percent": "200"}}, "tax.percent", "200"),
        ({"tax": "21"}, "tax", ""),
        ({"vat": "21"}, "vat", "no field 'vat'"),
        ({"prices": {}}, "prices", "array"),
        ({"prices": None}, "prices", "array"),
        ({"prices": [[]]}, "prices[0]", ""),
        ({"prices": [{"meter": "rows", "model": f"m{i}", "amount": "1"} for i in range(1001)]},
         "prices", "<= 1000"),
        (tiers(*(upto(i) for i in range(1, 101)), LAST), "prices[0].tiers", "<= 100"),
    ],
)  # fmt: skip
def test_mistakes_are_named(body: dict[str, Any], field: str, told: str) -> None:
    """The field at fault, what is wrong with it, and how to mend it."""
    with pytest.raises(MeuseError) as caught:
        check_plan("basic", {"currency": "EUR", "prices": [], **body})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
    assert told in caught.value.message
    assert "`" not in caught.value.message


@pytest.mark.parametrize(
    ("credits", "prepaid", "amount"),
    [
        ({"settle": "credit_only"}, True, "0"),
        ({"amount": "5", "settle": "credit_only"}, True, "5"),
        ({"amount": "5"}, False, "5"),
    ],
)
def test_a_plan_may_be_prepaid(
    tenancy: Tenancy, credits: dict[str, str], prepaid: bool, amount: str
) -> None:
    """With `credit_only` the wallet pays, and the month's own credit may be left out."""
    tenancy.put_plan("basic", {"currency": "EUR", "prices": [], "credits": credits})
    plan = tenancy.plans.plan("basic")
    assert plan.credits is not None
    assert (plan.is_prepaid, plan.credits.amount) == (prepaid, amount)
    assert not check_plan("free", {"currency": "EUR", "prices": []}).is_prepaid


@pytest.mark.parametrize(
    "body",
    [
        {**price(free=5), "discounts": [{"name": "a", "percent": "5"}]},
        {**price(free=5, tier="batch"), "discounts": [{"name": "a", "percent": "5",
                                                       "tier": "batch"}]},
        {**price(free=5, model="acme/x"), "discounts": [{"name": "a", "percent": "5",
                                                         "model": "x"}]},
        {**price(free=5, model="x"), "discounts": [{"name": "a", "percent": "5", "model": "y"}]},
        {**price(free=5, tier="standard"), "discounts": [{"name": "a", "percent": "5",
                                                          "tier": "batch"}]},
        {**price(free=5), "discounts": [{"name": "a", "percent": "5", "meter": "images",
                                         "model": "x"}]},
        {**price(), "discounts": [{"name": "a", "percent": "5", "model": "x", "tier": "batch"}]},
        {"prices": [{"meter": m, "amount": "1", "model": model, "tier": tier}
                    for m in ("prompt_tokens", "cached_tokens", "completion_tokens")
                    for model, tier in (("*", "*"), ("acme/x", "batch"))]},
        {"prices": [{**ROWS, "amount": "1", "free": 5}, {**ROWS, "amount": "1", "model": "x"}],
         "discounts": [{"name": "a", "percent": "5", "model": "x"}]},
        {"prices": [{**ROWS, "amount": "1", "free": 5}, {**ROWS, "amount": "1", "model": "x"}],
         "discounts": [{"name": "a", "percent": "5", "model": "acme/x"}]},
        {"prices": [{**ROWS, "amount": "1", "free": 5}, {**ROWS, "amount": "1", "tier": "batch"}],
         "discounts": [{"name": "a", "percent": "5", "tier": "batch"}]},
        {"minimum": "5", "maximum": "5"},
        {"credits": {"settle": "credit_only"}},
        {"credits": {"amount": "5", "settle": "credit_only"}},
        tiers(upto(10), upto(11), LAST),
        tiers({"up_to": None, "amount": "0"}),
    ],
)  # fmt: skip
def test_what_is_no_mistake(body: dict[str, Any]) -> None:
    """Discounts that hold for all that is counted together, or for none of it; good tiers."""
    check_plan("basic", {"currency": "EUR", "prices": [], **body})
