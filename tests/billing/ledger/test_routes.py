"""Wallets on the ledger's own server: shapes, errors, one booking per reference, pages."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from starlette.testclient import TestClient

from billing.make_usage import Directory
from meuse.billing.ingest import Ingester
from meuse.billing.ledger.routes import wallet_routes
from meuse.billing.server import make_app
from meuse.core.clock import to_rfc3339
from meuse.meter.segments import JournalReader
from meuse.store.ledger import LedgerStore
from meuse.store.money import MoneyStore

NOW = 1_800_000_000_000
LATER = to_rfc3339(NOW + 86_400_000)


@contextmanager
def client_of(database, journal):
    directory = Directory(acme=None, guest=None)
    store = MoneyStore(database)
    clock = lambda: NOW  # noqa: E731
    routes = wallet_routes(LedgerStore(database, clock), directory, clock)
    ingester = Ingester(store, JournalReader(journal))
    app = make_app(store, ingester, directory, directory, clock, more=routes)
    with TestClient(app, base_url="http://ledger") as client:
        yield client


@pytest.fixture
def client(database, journal):
    with client_of(database, journal) as client:
        yield client


@pytest.fixture(scope="module")
def bad(sqlite_money, tmp_path_factory):
    """One client for calls that must not leave anything behind."""
    with client_of(sqlite_money, tmp_path_factory.mktemp("journal")) as client:
        yield client


@pytest.fixture
def wallet(client):
    return opened(client)


def opened(client):
    made = client.post("/wallets", json={"tenant": "acme", "currency": "EUR"})
    assert made.status_code in (200, 201), made.text
    return made.json()


def path(wallet, *more):
    return "/".join(("/wallets", wallet["id"], *more))


def granted(client, wallet, amount, reference, **terms):
    body = {"tenant": "*", "amount": amount, "reference": reference, **terms}
    return client.post(path(wallet, "grants"), json=body)


def test_a_wallet_is_opened_once(client, wallet):
    """Its body has every sum as text; again it is the same, with 200."""
    again = client.post("/wallets", json={"tenant": "acme", "currency": "EUR"})
    assert (again.status_code, again.json()) == (200, wallet)
    sums = ("available", "held", "granted", "spent", "expired", "refunded", "paid_in")
    assert {name: wallet[name] for name in sums} == dict.fromkeys(sums, "0.00")
    assert (wallet["tenant"], wallet["currency"], wallet["grants"]) == ("acme", "EUR", [])
    one = client.get(path(wallet), params={"tenant": "acme"})
    assert one.json() == wallet
    assert client.get(path(wallet), params={"tenant": "*"}).json() == wallet
    assert client.get("/wallets", params={"tenant": "*"}).json() == {"items": [wallet]}
    assert client.get("/wallets", params={"tenant": "guest"}).json() == {"items": []}


def test_a_grant_is_booked_once(client, wallet):
    """201, then 200 with the same; other content is a conflict that books nothing."""
    made = granted(client, wallet, "100.00", "pay-1", priority=2, expires=LATER)
    body = made.json()
    assert made.status_code == 201
    assert {**body, "id": "", "wallet": None} == {
        "id": "", "kind": "purchased", "amount": "100.00", "left": "100.00", "held": "0.00",
        "priority": 2, "expires": LATER, "expired": False, "reference": "pay-1",
        "created": to_rfc3339(NOW), "wallet": None,
    }  # fmt: skip
    assert (body["wallet"]["available"], body["wallet"]["paid_in"]) == ("100.00", "100.00")
    again = granted(client, wallet, "100.0", "pay-1", priority=2, expires=LATER)
    assert (again.status_code, again.json()) == (200, body)
    other = granted(client, wallet, "99", "pay-1", priority=2, expires=LATER)
    assert (other.status_code, other.json()["error"]["field"]) == (409, "reference")
    shown = client.get(path(wallet), params={"tenant": "acme"}).json()
    assert [one["id"] for one in shown["grants"]] == [body["id"]]


def test_refunds_and_entries(client, wallet):
    """A refund is an entry; entries come newest first, a page at a time, with their legs."""
    for n in range(1, 4):
        granted(client, wallet, f"{n}.00", f"pay/{n}")
    body = {"tenant": "*", "amount": "2.50", "reference": "back-1"}
    made = client.post(path(wallet, "refunds"), json=body)
    assert (made.status_code, made.json()["amount"], made.json()["kind"]) == (
        201, "-2.50", "refund",
    )  # fmt: skip
    assert made.json()["wallet"]["available"] == "3.50"
    again = client.post(path(wallet, "refunds"), json=body)
    assert (again.status_code, again.json()) == (200, made.json())
    first = client.get(path(wallet, "entries"), params={"tenant": "acme", "limit": "3"}).json()
    assert [(e["kind"], e["reference"], e["amount"]) for e in first["items"]] == [
        ("refund", "back-1", "-2.50"), ("grant", "pay/3", "3.00"), ("grant", "pay/2", "2.00"),
    ]  # fmt: skip
    newest = first["items"][0]
    assert newest["legs"][0] == {"account": "cash", "amount": "-2.50"}
    assert newest["legs"][1]["amount"] == "2.50"
    cursor = {"tenant": "*", "cursor": first["next"]}
    rest = client.get(path(wallet, "entries"), params=cursor).json()
    assert ([e["reference"] for e in rest["items"]], rest["next"]) == (["pay/1"], None)


def test_a_hold_is_taken_in_parts_and_given_back(client, wallet):
    """Each reference once; what is taken is spent, what is given back can be spent again."""
    grant = granted(client, wallet, "10.00", "pay-1").json()["id"]
    holds = path(wallet, "holds")
    made = client.post(holds, json={"tenant": "*", "amount": "6.00", "reference": "w"})
    body = made.json()
    assert (made.status_code, body["amount"], body["held"]) == (201, "6.00", "6.00")
    assert body["parts"] == [{"grant": grant, "held": "6.00"}]
    assert (body["wallet"]["held"], body["wallet"]["available"]) == ("6.00", "4.00")
    again = client.post(holds, json={"tenant": "*", "amount": "6.00", "reference": "w"})
    assert (again.status_code, again.json()) == (200, body)
    here = f"{holds}/{body['id']}"
    taken = {"tenant": "acme", "amount": "2.50", "reference": "t"}
    for status in (201, 200):
        one = client.post(f"{here}/captures", json=taken)
        assert (one.status_code, one.json()["held"]) == (status, "3.50")
    more = client.post(f"{here}/captures", json=taken | {"amount": "3.51", "reference": "u"})
    assert (more.status_code, more.json()["error"]["field"]) == (400, "amount")
    for _ in range(2):
        back = client.post(f"{here}/release", json={"tenant": "acme"}).json()
        assert (back["held"], back["parts"], back["wallet"]["available"]) == ("0.00", [], "7.50")
    assert client.get(here, params={"tenant": "acme"}).json() == back
    assert client.get(here, params={"tenant": "guest"}).status_code == 404
    assert client.post(f"{here}/release", json={"tenant": "guest"}).status_code == 404


def test_what_budgets_may_count_on(client, wallet):
    """Each wallet's credit in millionths, and up to when usage is invoiced."""
    granted(client, wallet, "1.50", "a")
    found = client.get("/wallets/spendable", params={"tenant": "acme"}).json()
    assert found == {
        "items": [{"tenant": "acme", "currency": "EUR", "available": 1_500_000, "invoiced": []}]
    }
    assert client.get("/wallets/spendable", params={"tenant": "guest"}).json() == {"items": []}


@pytest.mark.parametrize(
    ("where", "body", "status", "code", "field"),
    [
        ("grants", {"amount": 5}, 400, "invalid_field", "amount"),
        ("grants", {"amount": "0"}, 400, "invalid_field", "amount"),
        ("grants", {"amount": "-5"}, 400, "invalid_field", "amount"),
        ("grants", {"amount": "0.001"}, 400, "invalid_field", "amount"),
        ("grants", {"amount": "1000000000000.01"}, 400, "invalid_field", "amount"),
        ("grants", {"amount": None}, 400, "invalid_field", "amount"),
        ("grants", {"kind": "stolen"}, 400, "invalid_field", "kind"),
        ("grants", {"priority": -1}, 400, "invalid_field", "priority"),
        ("grants", {"priority": 1.5}, 400, "invalid_field", "priority"),
        ("grants", {"expires": "soon"}, 400, "invalid_field", "expires"),
        ("grants", {"expires": 5}, 400, "invalid_field", "expires"),
        ("grants", {"expires": "2020-01-01"}, 400, "invalid_field", "expires"),
        ("grants", {"reference": None}, 400, "invalid_field", "reference"),
        ("grants", {"reference": ""}, 400, "invalid_field", "reference"),
        ("grants", {"reference": "a\nb"}, 400, "invalid_field", "reference"),
        ("grants", {"reference": "x" * 201}, 400, "invalid_field", "reference"),
        ("grants", {"colour": "red"}, 400, "invalid_field", "colour"),
        ("grants", {"tenant": "guest"}, 404, "not_found", "wallet"),
        ("grants", {"tenant": 5}, 400, "invalid_field", "tenant"),
        ("refunds", {"amount": "5.00"}, 400, "invalid_field", "amount"),
        ("refunds", {"grant": "grant-x"}, 404, "not_found", "grant"),
        ("refunds", {"grant": 5}, 400, "invalid_field", "grant"),
        ("refunds", {"reference": None}, 400, "invalid_field", "reference"),
        ("holds", {}, 402, "budget_exceeded", "amount"),
        ("holds", {"kind": "granted"}, 400, "invalid_field", "kind"),
        ("holds", {"reference": None}, 400, "invalid_field", "reference"),
        ("holds", {"amount": "-1"}, 400, "invalid_field", "amount"),
        ("holds/hold-x/captures", {}, 404, "not_found", "hold"),
        ("holds/hold-x/captures", {"reference": None}, 400, "invalid_field", "reference"),
        ("holds/hold-x/release", {}, 400, "invalid_field", "amount"),
    ],
)
def test_bad_bodies_book_nothing(bad, where, body, status, code, field):
    """Each mistake has its field; a refund above what was paid in says how much there is."""
    asked = {"tenant": "*", "amount": "1.00", "reference": "a", **body}
    wallet = opened(bad)
    answer = bad.post(path(wallet, where), json=asked)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (status, code, field), error
    found = bad.get(path(wallet, "entries"), params={"tenant": "*"}).json()
    assert found == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "code", "field"),
    [
        ("POST", "/wallets", {"json": {"tenant": "acme"}}, 400, "invalid_field", "currency"),
        ("POST", "/wallets", {"json": {"tenant": "acme", "currency": "XYZ"}}, 400,
         "invalid_field", "currency"),
        ("POST", "/wallets", {"json": {"tenant": "*", "currency": "EUR"}}, 400,
         "invalid_field", "tenant"),
        ("POST", "/wallets", {"json": {"tenant": "ghost", "currency": "EUR"}}, 404,
         "not_found", "tenant"),
        ("POST", "/wallets", {"json": {"tenant": "acme", "currency": "EUR", "x": 1}}, 400,
         "invalid_field", "x"),
        ("POST", "/wallets", {"content": b"{"}, 400, "invalid_json", "body"),
        ("POST", "/wallets", {"content": b"[]"}, 400, "invalid_json", "body"),
        ("GET", "/wallets", {}, 400, "invalid_field", "tenant"),
        ("GET", "/wallets/wallet-x?tenant=acme", {}, 404, "not_found", "wallet"),
        ("GET", "/wallets/wallet-x/entries?tenant=*&limit=0", {}, 400, "invalid_field", "limit"),
        ("GET", "/wallets/wallet-x/entries?tenant=*&cursor=x", {}, 400, "invalid_field", "cursor"),
        ("GET", "/wallets/wallet-x/entries?tenant=*&page=2", {}, 400, "invalid_field", "page"),
        ("DELETE", "/wallets/wallet-x", {}, 405, "method_not_allowed", None),
    ],
)  # fmt: skip
def test_bad_calls_get_precise_errors(bad, method, path, given, status, code, field):
    """A bad call is answered with its status, code and field."""
    answer = bad.request(method, path, **given)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (status, code, field)


def test_a_hold_is_of_one_wallet(client, wallet):
    """Not of another one of the same tenant, in whose currency it is not."""
    granted(client, wallet, "10.00", "pay-1")
    asked = {"tenant": "acme", "amount": "6.00", "reference": "w"}
    hold = client.post(path(wallet, "holds"), json=asked).json()["id"]
    yen = client.post("/wallets", json={"tenant": "acme", "currency": "JPY"}).json()
    for call in (
        lambda: client.post(path(yen, "holds", hold, "captures"), json=asked | {"amount": "6"}),
        lambda: client.post(path(yen, "holds", hold, "release"), json={"tenant": "acme"}),
        lambda: client.get(path(yen, "holds", hold), params={"tenant": "acme"}),
        lambda: client.get(path(wallet, "holds", "x%00y"), params={"tenant": "acme"}),
    ):
        answer = call()
        assert (answer.status_code, answer.json()["error"]["field"]) == (404, "hold")
    here = client.get(path(wallet, "holds", hold), params={"tenant": "acme"}).json()
    assert here["held"] == "6.00"


def test_what_was_captured_may_still_be_counted_on(client, wallet):
    """The next invoice is paid from it first: until then it is credit like any other."""
    granted(client, wallet, "10.00", "pay-1")
    asked = {"tenant": "acme", "amount": "6.00", "reference": "w"}
    hold = client.post(path(wallet, "holds"), json=asked).json()["id"]
    client.post(
        path(wallet, "holds", hold, "captures"), json=asked | {"amount": "4.00", "reference": "t"}
    )
    (found,) = client.get("/wallets/spendable", params={"tenant": "acme"}).json()["items"]
    assert found["available"] == 8_000_000
