"""Wallets through the public API, the client and the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx

from e2e.conftest import Platform
from e2e.helpers import JSON, get, refused
from meuse.client import Client

MEUSE = Path(sys.executable).with_name("meuse")


def test_credit_is_put_in_seen_and_paid_back(
    admin: httpx.Client, platform: Platform, tenant: Callable[[str], str]
) -> None:
    """Administrators book, each reference once; the tenant's billing key sees, others do not."""
    name, other = tenant("hooli"), tenant("pied")
    made = admin.post("/api/wallets", json={"tenant": name, "currency": "EUR"})
    assert made.status_code == 201, made.text
    path = f"/api/wallets/{made.json()['id']}"
    body = {"amount": "100.00", "kind": "purchased"}
    grants = f"{path}/grants"
    refused(admin.post(grants, json=body), 400, "invalid_field", "reference")
    key = {"idempotency-key": "pay-17"}
    first = admin.post(grants, json=body, headers=key)
    assert (first.status_code, first.json()["wallet"]["available"]) == (201, "100.00")
    again = admin.post(grants, json=body | {"reference": "pay-17"})
    assert (again.status_code, again.json()) == (200, first.json())
    refused(admin.post(grants, json=body | {"amount": "1"}, headers=key), 409, "conflict",
            "reference")  # fmt: skip
    refused(admin.post(grants, json=body | {"reference": "x"}, headers=key), 400,
            "invalid_field", "reference")  # fmt: skip
    refused(admin.post(grants, json=body | {"tenant": name}), 400, "invalid_field", "tenant")
    back = {"amount": "100.01", "reference": "back-1"}
    error = refused(admin.post(f"{path}/refunds", json=back), 400, "invalid_field", "amount")
    assert "100.01 EUR is more than the 100.00 that can be refunded" in error["message"]
    paid = admin.post(f"{path}/refunds", json=back | {"amount": "30.00"})
    assert (paid.status_code, paid.json()["wallet"]["available"]) == (201, "70.00")

    held = admin.post(f"{path}/holds", json={"amount": "60.00", "reference": "work-1"})
    assert (held.status_code, held.json()["wallet"]["available"]) == (201, "10.00")
    hold = f"{path}/holds/{held.json()['id']}"
    more = {"amount": "10.01", "reference": "work-2"}
    refused(admin.post(f"{path}/holds", json=more), 402, "budget_exceeded", "amount")
    taken = {"amount": "60.01", "reference": "take-1"}
    refused(admin.post(f"{hold}/captures", json=taken), 400, "invalid_field", "amount")
    once = admin.post(f"{hold}/captures", json=taken | {"amount": "25.00"})
    assert (once.status_code, once.json()["held"]) == (201, "35.00")
    assert admin.post(f"{hold}/captures", json=taken | {"amount": "25.00"}).status_code == 200
    assert admin.post(f"{hold}/release").json()["wallet"]["available"] == "45.00"

    own = platform.client(platform.key("billing", tenant=name))
    assert get(own, hold)["held"] == "0.00"
    refused(own.post(f"{hold}/release"), 403, "forbidden", "scope")
    assert get(own, path)["available"] == "45.00"
    assert [w["id"] for w in get(own, "/api/wallets")["items"]] == [made.json()["id"]]
    page = get(own, f"{path}/entries", limit="1")
    assert [e["kind"] for e in page["items"]] == ["release"]
    rest = get(own, f"{path}/entries", cursor=page["next"])["items"]
    assert [e["reference"] for e in rest] == ["take-1", "work-1", "back-1", "pay-17"]
    refused(own.post(grants, json=body | {"reference": "y"}), 403, "forbidden", "scope")
    refused(own.post("/api/wallets", json={"currency": "USD"}), 403, "forbidden", "scope")
    refused(own.get("/api/wallets?tenant=" + other), 404, "not_found", "tenant")
    stranger = platform.client(platform.key("billing", tenant=other))
    for place in (path, f"{path}/entries", hold):
        refused(stranger.get(place), 404, "not_found", "wallet")
    assert get(stranger, "/api/wallets") == {"items": []}
    everyone = get(admin, "/api/wallets", tenant="*")["items"]
    assert made.json()["id"] in [w["id"] for w in everyone]


def test_the_client_and_the_command_line_book(
    platform: Platform, tenant: Callable[[str], str]
) -> None:
    """`meuse wallet` opens, tops up, pays back and shows what the client reads."""
    name = tenant("initech")
    env = {**os.environ, "MEUSE_URL": platform.url, "MEUSE_KEY": platform.admin_key}

    def run(*words: str) -> JSON:
        done = subprocess.run(
            [str(MEUSE), "wallet", *words, "--json"],
            env=env, capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        answer: JSON = json.loads(done.stdout)
        return answer

    wallet = run("open", name, "EUR")["id"]
    run("topup", wallet, "50.00", "--reference", "pay-1")
    with Client(platform.url, platform.admin_key) as client:
        gift = client.top_up(wallet, "5.00", "gift-1", kind="granted", expires="2999-01-01")
        assert client.refund(wallet, "10.00", "back-1")["amount"] == "-10.00"
        assert client.open_wallet(name, "EUR")["id"] == wallet
        assert client.wallet(wallet)["available"] == "45.00"
        assert [w["id"] for w in client.wallets(name)] == [wallet]
        assert len(client.wallet_entries(wallet, limit=2)["items"]) == 2
        hold = client.hold(wallet, "20.00", "work-1")["id"]
        assert client.capture(wallet, hold, "5.00", "take-1")["held"] == "15.00"
        assert client.release(wallet, hold)["held"] == "0.00"
    hold = run("hold", wallet, "7.00")["id"]
    assert run("capture", wallet, hold, "2.00")["wallet"]["available"] == "33.00"
    assert run("release", wallet, hold)["wallet"]["available"] == "38.00"
    shown = run("show", wallet)
    assert shown["grants"][0]["id"] == gift["id"]
    assert run("entries", wallet, "--limit", "1")["items"][0]["kind"] == "release"
