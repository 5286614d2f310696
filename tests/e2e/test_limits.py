"""Limits and budgets through the public API: set, met, looked at, taken away."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc
import httpx
import pytest

from e2e.conftest import Digits, Platform
from e2e.helpers import (
    JSON,
    csv_bytes,
    ended,
    get,
    refused,
    refused_rpc,
    rpc_infer,
    rpc_request,
    start,
    succeeded,
    until,
    upload,
)

Make = Callable[..., JSON]


@pytest.fixture
def make(admin: httpx.Client) -> Iterator[Make]:
    """Set a limit or a budget as an administrator; it goes when the test ends."""
    made: list[str] = []

    def make(what: str, **terms: Any) -> JSON:
        response = admin.post(f"/api/{what}", json=terms)
        assert response.status_code == 201, response.text
        answer: JSON = response.json()
        assert answer["published"] is True
        made.append(f"/api/{what}/{answer['id']}")
        return answer

    yield make
    for path in made:
        assert admin.delete(path).status_code in (200, 404)


@pytest.fixture
def call(platform: Platform, served: JSON, digits: Digits) -> Callable[..., httpx.Response]:
    def call(key: str, rows: int = 1) -> httpx.Response:
        body = {"model": "default/digits", "input_data": digits.rows[:rows]}
        return platform.client(key).post("/predict", json=body)

    return call


def found(client: httpx.Client, what: str, limit_id: str) -> JSON | None:
    items: list[JSON] = get(client, f"/api/{what}")["items"]
    return next((item for item in items if item["id"] == limit_id), None)


def test_a_hard_budget_is_served_exactly(
    platform: Platform,
    admin: httpx.Client,
    tenant: Callable[[str], str],
    make: Make,
    call: Callable[..., httpx.Response],
    digits: Digits,
) -> None:
    """Rows are served up to the limit, by all workers together; then 402 says what is left.
    Other tenants notice nothing, and without the budget everything goes on."""
    key = platform.key("infer", tenant=tenant("initech"))
    other = platform.key("infer", tenant=tenant("globex"))
    budget = make("budgets", tenant="initech", meter="rows", limit=50, period="month")
    assert (budget["used"], budget["remaining"], budget["hard"]) == (0, 50, True)
    assert budget["resets"].endswith("-01T00:00:00.000Z")
    for _ in range(6):  # new connections: they meet both workers
        assert call(key, 8).status_code == 200
    error = refused(call(key, 3), 402, "budget_exceeded", "budget")
    assert "2 left" in error["message"]
    assert call(key, 2).status_code == 200
    refused(call(key), 402, "budget_exceeded", "budget")
    refused_rpc(
        lambda: rpc_infer(platform.grpc, key, rpc_request("default/digits", digits.rows[:1])),
        grpc.StatusCode.RESOURCE_EXHAUSTED, "budget_exceeded", "budget",
    )  # fmt: skip
    assert call(other).status_code == 200
    shown = found(admin, "budgets", budget["id"])
    assert shown is not None
    assert (shown["used"], shown["in_flight"], shown["remaining"]) == (50, 0, 0)
    assert admin.delete(f"/api/budgets/{budget['id']}").json()["published"] is True
    assert call(key).status_code == 200


def test_a_budget_of_money(
    platform: Platform,
    admin: httpx.Client,
    tenant: Callable[[str], str],
    make: Make,
    call: Callable[..., httpx.Response],
) -> None:
    """In the currency that its payer pays in; spent at the plan's price, to the last millionth; the
    ledger's records say the same. Without a price nothing goes."""
    key = platform.key("infer", tenant=tenant("initrode"))
    terms = {"tenant": "initrode", "meter": "cost", "period": "day"}
    wrong = admin.post("/api/budgets", json={**terms, "limit": "1", "currency": "USD"})
    assert "in EUR" in refused(wrong, 400, "invalid_field", "currency")["message"]
    budget = make("budgets", **terms, limit="0.0055", currency="EUR")
    assert (budget["limit"], budget["currency"], budget["set_aside"]) == ("0.0055", "EUR", "0.00")
    assert call(key, 8).status_code == 200
    error = refused(call(key, 4), 402, "budget_exceeded", "budget")
    assert "0.0015 EUR left; this request needs up to 0.002 EUR" in error["message"]
    assert call(key, 3).status_code == 200
    shown = get(admin, f"/api/budgets/{budget['id']}/recount")
    assert (shown["used"], shown["remaining"], shown["in_flight"]) == ("0.0055", "0.00", "0.00")
    assert (shown["recounted"]["used"], shown["difference"]) == ("0.0055", "0.00")
    assert shown["recounted"]["unrated"] == {}
    refused(admin.get("/api/budgets/budget-1/recount"), 404, "not_found", "budget")
    assert admin.put("/api/tenants/initrode", json={"plan": None}).status_code == 200
    error = refused(call(key), 402, "unrated", "budget")
    assert "no plan" in error["message"]


def test_a_prepaid_tenant_uses_what_is_in_its_wallet(
    platform: Platform, admin: httpx.Client, call: Callable[..., httpx.Response]
) -> None:
    """Nothing without a wallet; what was paid in, and no more; a top-up lets the next one through
    within seconds."""
    prices = [{"meter": "rows", "per": 1000, "amount": "0.50"}]
    plan = {"currency": "EUR", "prices": prices, "credits": {"settle": "credit_only"}}
    assert admin.put("/api/plans/prepaid", json=plan).status_code == 200
    assert admin.put("/api/tenants/soylent", json={"plan": "prepaid"}).status_code == 200
    key = platform.key("infer", tenant="soylent")
    until(lambda: call(key).status_code == 402, "the ledger has looked", 15.0)
    error = refused(call(key), 402, "budget_exceeded", "budget")
    assert "prepaid balance in EUR" in error["message"]
    wallet = admin.post("/api/wallets", json={"tenant": "soylent", "currency": "EUR"}).json()["id"]

    def pay(reference: str) -> None:
        body = {"amount": "0.01", "kind": "purchased", "reference": reference}
        assert admin.post(f"/api/wallets/{wallet}/grants", json=body).status_code == 201

    pay("first")
    until(lambda: call(key, 16).status_code == 200, "the top-up counts", 15.0)
    error = refused(call(key, 5), 402, "budget_exceeded", "budget")
    assert "has 0.002 EUR left; this request needs up to 0.0025 EUR" in error["message"]
    assert call(key, 4).status_code == 200
    refused(call(key), 402, "budget_exceeded", "budget")
    pay("second")
    until(lambda: call(key, 20).status_code == 200, "the top-up counts", 15.0)
    shown = next(b for b in get(admin, "/api/budgets")["items"] if b["tenant"] == "soylent")
    assert (shown["prepaid"], shown["limit"], shown["used"]) == (True, "0.02", "0.02")
    again = get(admin, f"/api/budgets/{shown['id']}/recount")
    assert (again["recounted"]["used"], again["difference"]) == ("0.02", "0.00")


def test_webhooks_are_ones_own_and_point_outside(
    platform: Platform, admin: httpx.Client, stranger: httpx.Client
) -> None:
    """The secret is shown once; nobody else sees them, and none points into the network."""
    made = stranger.post("/api/webhooks", json={"url": "https://hooks.example.org/a"})
    assert made.status_code == 201, made.text
    webhook = made.json()
    assert webhook["secret"].startswith("whsec_")
    path = f"/api/webhooks/{webhook['id']}"
    assert "secret" not in get(stranger, path)
    other = platform.client(platform.key("keys"))
    refused(other.get(path), 404, "not_found", "webhook")
    assert get(other, "/api/webhooks")["items"] == []
    assert webhook["id"] in {w["id"] for w in get(admin, "/api/webhooks")["items"]}
    for url in ("https://127.0.0.1/", "http://example.org/", "https://[::1]/", "https://10.1.2.3/"):
        refused(stranger.post("/api/webhooks", json={"url": url}), 403, "forbidden", "url")
        refused(stranger.patch(path, json={"url": url}), 403, "forbidden", "url")
    refused(stranger.post("/api/webhooks", json={"url": "hooks"}), 400, "invalid_field", "url")
    everyone = {"url": "https://hooks.example.org/", "tenant": "*"}
    refused(stranger.post("/api/webhooks", json=everyone), 403, "forbidden", "tenant")
    assert stranger.patch(path, json={"disabled": True}).json()["disabled"] is True
    refused(stranger.post(f"{path}/test"), 409, "conflict", "webhook")
    assert get(stranger, f"{path}/deliveries")["items"] == []
    assert stranger.delete(path).status_code == 200
    assert get(stranger, "/api/webhooks")["items"] == []


def test_limits_of_a_key_at_a_model(
    platform: Platform, tenant: Callable[[str], str], make: Make, call: Any
) -> None:
    """A rate limit holds where all its subjects match, and says when to come back."""
    made = platform.made_key("infer", tenant=tenant("initech"))
    sibling = platform.key("infer", tenant="initech")
    limit = make("limits", key=made["id"], model="default/digits", requests=2, per="hour", burst=2)
    assert (limit["model"], limit["tenant"], limit["burst"]) == ("default/digits", None, 2)
    assert [call(made["key"]).status_code for _ in range(2)] == [200, 200]
    answer = call(made["key"])
    refused(answer, 429, "rate_limited", "limit")
    assert 1700 <= int(answer.headers["retry-after"]) <= 1800
    assert call(sibling).status_code == 200
    make("limits", tenant="initech", concurrency=3)
    assert call(sibling).status_code == 200


@pytest.mark.parametrize(
    ("what", "terms", "field"),
    [
        ("limits", {}, "requests"),
        ("limits", {"requests": 5, "per": "minute"}, "tenant"),
        ("limits", {"tenant": "default", "requests": 0, "per": "minute"}, "requests"),
        ("limits", {"tenant": "default", "requests": 1.5, "per": "minute"}, "requests"),
        ("limits", {"tenant": "default", "requests": 10**9, "per": "second"}, "requests"),
        ("limits", {"tenant": "default", "requests": 5}, "per"),
        ("limits", {"tenant": "default", "requests": 5, "per": "day"}, "per"),
        ("limits", {"tenant": "default", "requests": 5, "per": ["hour"]}, "per"),
        ("limits", {"tenant": "default", "requests": 5, "per": "hour", "burst": 0}, "burst"),
        ("limits", {"tenant": "default", "concurrency": True}, "concurrency"),
        ("limits", {"tenant": "default", "concurrency": 1, "requests": 5}, "requests"),
        ("limits", {"tennant": "default", "requests": 5, "per": "hour"}, "tennant"),
        ("limits", {"tenant": 7, "concurrency": 1}, "tenant"),
        ("limits", {"key": 7, "concurrency": 1}, None),
        ("limits", {"model": 7, "concurrency": 1}, "model"),
        ("budgets", {"tenant": "default", "limit": 5, "period": "day"}, "meter"),
        ("budgets", {"tenant": "default", "meter": "rows", "period": "day"}, "limit"),
        ("budgets", {"tenant": "default", "meter": "rows", "limit": -1, "period": "day"}, "limit"),
        ("budgets", {"tenant": "default", "meter": "rows", "limit": 5}, "period"),
        ("budgets", {"tenant": "default", "meter": "rows", "limit": 5, "period": "week"}, "period"),
        ("budgets", {"tenant": "default", "meter": "rows", "limit": 5, "period": "day",
                     "hard": "yes"}, "hard"),
        ("budgets", {"tenant": "default", "meter": "cost", "limit": 5, "period": "day",
                     "currency": "EUR"}, "limit"),
        ("budgets", {"tenant": "default", "meter": "cost", "limit": "-1", "period": "day",
                     "currency": "EUR"}, "limit"),
        ("budgets", {"tenant": "default", "meter": "cost", "limit": "0.0000001", "period": "day",
                     "currency": "EUR"}, "limit"),
        ("budgets", {"tenant": "default", "meter": "cost", "limit": "9" * 12, "period": "day",
                     "currency": "EUR"}, "limit"),
        ("budgets", {"tenant": "default", "meter": "cost", "limit": "5", "period": "day",
                     "currency": "ECU"}, "currency"),
        ("budgets", {"tenant": "default", "meter": "cost", "limit": "5", "period": "day"},
         "currency"),
        ("budgets", {"tenant": "default", "meter": "rows", "limit": 5, "period": "day",
                     "currency": "EUR"}, "currency"),
        ("limits", {"tenant": "default", "tokens": 0, "per": "minute"}, "tokens"),
        ("limits", {"tenant": "default", "tokens": 5, "requests": 5, "per": "minute"},
         "requests"),
        ("budgets", {"tenant": "default", "meter": "compute_ms", "limit": 5, "period": "day"},
         "meter"),
        ("budgets", {"tenant": "default", "meter": "smiles", "limit": 5, "period": "day"}, "meter"),
    ],
)  # fmt: skip
def test_bad_terms_are_refused(
    admin: httpx.Client, what: str, terms: JSON, field: str | None
) -> None:
    """Each names its field, and nothing is kept."""
    before = get(admin, f"/api/{what}")
    answer = admin.post(f"/api/{what}", json=terms)
    if field is None:
        refused(answer, 404, "not_found", "key")
    else:
        refused(answer, 400, "invalid_field", field)
    assert get(admin, f"/api/{what}") == before


def test_subjects_must_exist_and_agree(admin: httpx.Client, platform: Platform) -> None:
    """An unknown tenant, key, model or budget is 404; a key of another tenant is 400."""
    for subject in ("tenant", "key", "model"):
        answer = admin.post("/api/limits", json={subject: "nothing", "concurrency": 1})
        refused(answer, 404, "not_found", subject)
    key = platform.made_key("infer")["id"]
    admin.put("/api/tenants/initech", json={"plan": "standard"})
    answer = admin.post("/api/limits", json={"tenant": "initech", "key": key, "concurrency": 1})
    refused(answer, 400, "invalid_field", "tenant")
    refused(admin.delete("/api/limits/limit-1"), 404, "not_found", "limit")
    refused(admin.delete("/api/budgets/budget-1"), 404, "not_found", "budget")


def test_one_limits_only_ones_own(
    platform: Platform,
    admin: httpx.Client,
    stranger: httpx.Client,
    private: JSON,
    served: JSON,
    make: Make,
) -> None:
    """A key with the scope `keys` limits its own tenant, keys and deployments, sees what an
    administrator has set for it, and cannot take that away."""

    def ask(what: str = "limits", **terms: Any) -> httpx.Response:
        return stranger.post(f"/api/{what}", json={"concurrency": 5, **terms})

    refused(ask(tenant="initech"), 403, "forbidden", "tenant")
    refused(ask(tenant="no-such-tenant"), 403, "forbidden", "tenant")
    refused(ask(project="other"), 403, "forbidden", "project")
    refused(ask(key=platform.made_key("infer")["id"]), 404, "not_found", "key")
    for model in ("private", "default/private", "default/digits"):
        refused(ask(model=model), 404, "not_found", "model")
    mine = ask(tenant="stranger").json()
    assert (mine["tenant"], mine["project"]) == ("stranger", "default")
    theirs = make("budgets", tenant="stranger", meter="requests", limit=9, period="day")
    hidden = make("budgets", tenant="initech", meter="requests", limit=10**9, period="day")
    assert {b["id"] for b in get(stranger, "/api/budgets")["items"]} == {theirs["id"]}
    assert {b["id"] for b in get(stranger, "/api/limits")["items"]} == {mine["id"]}
    refused(stranger.delete(f"/api/budgets/{theirs['id']}"), 403, "forbidden", "budget")
    refused(stranger.delete(f"/api/budgets/{hidden['id']}"), 404, "not_found", "budget")
    assert found(admin, "limits", mine["id"]) is not None
    gone = stranger.delete(f"/api/limits/{mine['id']}")
    assert (gone.status_code, gone.json()["published"]) == (200, True)
    assert get(stranger, "/api/limits")["items"] == []


@pytest.mark.slow
def test_jobs_stop_when_a_budget_is_spent(
    platform: Platform, admin: httpx.Client, tenant: Callable[[str], str], make: Make
) -> None:
    """A training at its checkpoint, and it goes on from there when there is more; a prediction
    before its first row. What ran is in the usage, once per attempt."""
    mine = platform.client(platform.key("data", "train", "models", "usage", tenant=tenant("hooli")))
    rows = [[i % 7, i % 5, i % 2] for i in range(3000)]
    upload(mine, "points", csv_bytes(["a", "b", "kind"], rows))
    spent = make("budgets", tenant="hooli", meter="training_ms", limit=2500, period="total")
    spec = {
        "model_name": "slow", "data": "points", "epochs": 60, "batch_size": 4,
        "checkpoint_seconds": 0,
    }  # fmt: skip
    job = start(mine, "train", **spec)
    stopped = ended(mine, job, 120.0)
    assert (stopped["status"], stopped["error"]["code"]) == ("failed", "budget_exceeded")
    assert stopped["error"]["field"] == "budget"
    assert spent["id"] in stopped["error"]["message"]
    shown = found(admin, "budgets", spent["id"])
    assert shown is not None
    assert shown["used"] > 1500
    assert shown["in_flight"] == 0
    assert get(mine, "/api/models")["items"] == []

    assert admin.delete(f"/api/budgets/{spent['id']}").status_code == 200
    assert mine.post(f"/api/jobs/{job}/retry").status_code == 202
    until(lambda: "going on after epoch" in mine.get(f"/api/jobs/{job}/log").text, "it goes on")
    mine.post(f"/api/jobs/{job}/cancel")
    ended(mine, job)
    used = until(lambda: training(mine), "the usage is in")
    assert used["quantity"] >= shown["used"]
    assert used["tier"] == "batch"

    succeeded(mine, start(mine, "train", model_name="quick", data="points", recipe="linear",
                          epochs=1), 120.0)  # fmt: skip
    few = make("budgets", tenant="hooli", meter="rows", limit=2999, period="day")
    asked = {"model": "quick:1", "data": "points", "output": "answers"}
    refusal = ended(mine, start(mine, "predict", **asked), 120.0)
    assert (refusal["status"], refusal["error"]["code"]) == ("failed", "budget_exceeded")
    assert "2999 left" in refusal["error"]["message"]
    assert admin.delete(f"/api/budgets/{few['id']}").status_code == 200
    exact = make("budgets", tenant="hooli", meter="rows", limit=3000, period="day")
    succeeded(mine, start(mine, "predict", **asked), 120.0)
    shown = found(admin, "budgets", exact["id"])
    assert shown is not None
    assert (shown["used"], shown["remaining"]) == (3000, 0)


def training(client: httpx.Client) -> JSON | None:
    answer = get(client, "/api/usage", by="meter,tier", fresh="true")
    return next((row for row in answer["rows"] if row["meter"] == "training_ms"), None)
