"""Plans through the public API: put, read, refused, and what a month would have come to."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest

from e2e.conftest import Platform
from e2e.helpers import JSON, get, refused

STEPS = [{"up_to": 1000, "amount": "0.010"}, {"up_to": None, "amount": "0.005"}]
PLAN: JSON = {
    "currency": "EUR",
    "prices": [{"meter": "rows", "scheme": "graduated", "tiers": STEPS}],
    "fees": [{"name": "base", "amount": "49"}],
    "discounts": [{"name": "deal", "percent": "10"}],
}


def test_a_plan_is_put_and_read(admin: httpx.Client) -> None:
    """It comes back as it was put, by version, with the schema that it is read by."""
    made = admin.put("/api/plans/stepped", json=PLAN)
    assert made.status_code == 200, made.text
    assert made.json()["published"] is True
    again = admin.put("/api/plans/stepped", json=PLAN | {"fees": []}).json()
    assert (made.json()["version"], again["version"]) == (1, 2)
    first = get(admin, "/api/plans/stepped", version="1")
    assert first["fees"] == [{"name": "base", "amount": "49", "per": "month"}]
    assert first["prices"][0]["tiers"] == STEPS
    assert "fees" not in get(admin, "/api/plans/stepped")
    listed = get(admin, "/api/plans")
    assert {(p["name"], p["version"]) for p in listed["items"]} >= {("stepped", 1), ("stepped", 2)}
    assert "PriceBody" in listed["schema"]["$defs"]
    refused(admin.get("/api/plans/stepped?version=9"), 404, "not_found", "plan")


@pytest.mark.parametrize(
    ("terms", "field"),
    [
        ({"prices": [{"meter": "rows", "scheme": "volume", "tiers": STEPS[:1]}]},
         "prices[0].tiers"),
        ({"prices": [{"meter": "completion_tokens", "amount": "1"}]}, "prices"),
        ({"tax": {"name": "VAT", "percent": 21}}, "tax.percent"),
    ],
)  # fmt: skip
def test_a_plan_with_a_mistake_is_not_made(admin: httpx.Client, terms: JSON, field: str) -> None:
    """The field is named and nothing is kept."""
    refused(admin.put("/api/plans/wrong", json=PLAN | terms), 400, "invalid_field", field)
    refused(admin.get("/api/plans/wrong"), 404, "not_found", "plan")


def test_what_a_month_would_have_come_to(
    admin: httpx.Client, platform: Platform, tenant: Callable[[str], str]
) -> None:
    """An administrator asks about any tenant and plan, others about themselves and theirs."""
    admin.put("/api/plans/flat", json=PLAN | {"prices": []}).raise_for_status()
    name = tenant("hooli")
    path, asked = "/api/plans/flat/what-if", {"tenant": name, "period": "2026-02"}
    answer = admin.post(path, json=asked)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert (told["tenant"], told["plan"], told["difference"]) == (name, "flat:1", "49.00")
    assert told["actual"]["total"] == "0.00"
    (line,) = told["what_if"]["lines"]
    assert (line["kind"], line["name"], line["quantity"]) == ("fee", "base", 28 * 86_400)
    own = platform.client(platform.key("billing", tenant=name))
    refused(own.post(path, json={"period": "2026-02"}), 404, "not_found", "plan")
    mine = own.post("/api/plans/standard/what-if", json={"period": "2026-02"})
    assert (mine.status_code, mine.json()["difference"]) == (200, "0.00")
    other = own.post("/api/plans/standard/what-if", json={"period": "2026-02", "tenant": "acme"})
    refused(other, 404, "not_found", "tenant")
    for body, field in (
        ({"period": "soon"}, "period"), ({}, "period"), ({"period": 5}, "period"),
        ({**asked, "version": 0}, "version"), ({**asked, "plan": "x"}, "plan"),
        ({"period": "2026-02", "tenant": 5}, "tenant"),
    ):  # fmt: skip
        refused(admin.post(path, json=body), 400, "invalid_field", field)
    refused(admin.post(path, json={**asked, "version": 7}), 404, "not_found", "plan")


def test_only_an_administrator_prices_what_had_no_price(
    admin: httpx.Client, platform: Platform, tenant: Callable[[str], str]
) -> None:
    """`unrated_as` is refused to others, and must be a plan."""
    name = tenant("hooli")
    own = platform.client(platform.key("billing", tenant=name))
    asked = {"period": "2026-02", "unrated_as": "standard:1"}
    refused(own.post("/api/invoices", json=asked), 403, "forbidden", "unrated_as")
    asked["tenant"] = name
    wrong = admin.post("/api/invoices", json={**asked, "unrated_as": 5})
    refused(wrong, 400, "invalid_field", "unrated_as")
    none = admin.post("/api/invoices", json={**asked, "unrated_as": "standard:99"})
    refused(none, 404, "not_found", "plan")
