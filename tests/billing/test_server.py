"""The ledger's HTTP API over its unix socket, with the ingest loop running beside it."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import stat
import tempfile
import threading
import time
from pathlib import Path

import httpx
import pytest

from billing.make_usage import BUCKET_MS, Directory, plan, usage_record
from meuse.billing import server
from meuse.billing.ingest import Ingester
from meuse.billing.server import make_app, run
from meuse.core.clock import bucket_start, now_ms, to_rfc3339
from meuse.core.nouns import Price
from meuse.meter.journal import JournalWriter
from meuse.meter.segments import JournalReader

PAST = bucket_start(now_ms()) - 4 * BUCKET_MS
WINDOW = {"from": to_rfc3339(PAST), "to": to_rfc3339(PAST + BUCKET_MS)}


@pytest.fixture
def journal_writer(journal):
    writer = JournalWriter(journal, "h", 0, 1)
    yield writer
    writer.close()


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def serve(store, ingester, interval_s=0.02):
    """(client, stop): the server in a thread, on a socket with a short path."""
    directory = Directory(plan(Price("rows", "0.50", 1000)), acme="basic", guest=None)
    app = make_app(store, ingester, directory, directory)
    folder = tempfile.TemporaryDirectory(prefix="meuse-")
    path = Path(folder.name) / "ledger.sock"
    ended = threading.Event()
    thread = threading.Thread(target=run, args=(app, ingester, path, interval_s, ended))
    thread.start()
    client = httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path), retries=0), base_url="http://ledger"
    )
    deadline = time.monotonic() + 10
    while not listens(path):  # httpx would leave the socket of a failed attempt open
        assert time.monotonic() < deadline
        time.sleep(0.02)
    client.get("/health")

    def stop():
        client.close()
        ended.set()
        thread.join(10)
        assert not thread.is_alive()
        assert not path.exists()
        folder.cleanup()

    return client, stop, path


@pytest.fixture
def client(store, ingester):
    client, stop, path = serve(store, ingester)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    yield client
    stop()


def test_fresh_usage_is_what_was_journaled(client, journal_writer):
    """With fresh=true, records appended before the call are in the answer."""
    journal_writer.append(usage_record(ts=PAST))
    before = to_rfc3339(now_ms())
    answer = client.get("/usage", params={"tenant": "acme", "fresh": "true", **WINDOW})
    assert answer.status_code == 200
    body = answer.json()
    assert [(row["model"], row["meter"], row["quantity"]) for row in body["rows"]] == [
        ("acme/digits", "requests", 1), ("acme/digits", "rows", 8),
    ]  # fmt: skip
    assert set(body["rows"][0]) == {"day", "model", "meter", "quantity"}
    assert body["complete_to"] >= before
    assert (body["from"], body["to"]) == (WINDOW["from"], WINDOW["to"])
    nobody = client.get("/usage", params={"tenant": "guest", **WINDOW}).json()
    mine = {"tenant": "*", "owner": "acme", "by": "tenant,owner", **WINDOW}
    everyone = client.get("/usage", params=mine)
    assert nobody["rows"] == []
    assert {row["tenant"] for row in everyone.json()["rows"]} == {"acme"}


def test_the_loop_ingests_by_itself(client, journal_writer):
    """Without being asked, the ledger takes in what is journaled."""
    journal_writer.append(usage_record(ts=PAST))
    deadline = time.monotonic() + 10
    while not client.get("/usage", params={"tenant": "acme", **WINDOW}).json()["rows"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert client.get("/health").json()["status"] == "ok"


def test_invoices_are_made_listed_and_read(client, journal_writer):
    """POST makes an invoice (201), again gives it (200), and GET returns the same bytes."""
    journal_writer.append(usage_record(ts=PAST, quantities={"rows": 3000}))
    made = client.post("/invoices", json={"tenant": "acme", "period": WINDOW})
    assert made.status_code == 201
    body = made.json()
    assert (body["status"], body["total"]) == ("issued", "1.50")
    assert list(body) == [
        "id", "number", "status", "tenant", "period", "currency", "lines", "total", "unrated",
        "issued", "due_on", "seller", "customer", "payment_terms", "net", "tax", "taxes", "plans",
        "draft_because", "complete_to", "created", "paid", "credited", "due", "overdue",
        "payments", "credit_notes",
    ]  # fmt: skip
    again = client.post("/invoices", json={"tenant": "acme", "period": WINDOW})
    assert (again.status_code, again.content) == (200, made.content)
    one = client.get(f"/invoices/{body['id']}", params={"tenant": "acme"})
    assert one.content == made.content
    listed = client.get("/invoices", params={"tenant": "*"}).json()
    assert listed == {"invoices": [body]}
    other = client.get(f"/invoices/{body['id']}", params={"tenant": "guest"})
    assert (other.status_code, other.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "given", "status", "code", "field"),
    [
        ("GET", "/usage", {}, 400, "invalid_field", "tenant"),
        ("GET", "/usage?tenant=acme&from=soon", {}, 400, "invalid_field", "from"),
        ("GET", "/usage?tenant=a&from=2026-11-01T00:07:00Z", {}, 400, "invalid_field", "from"),
        ("GET", "/usage?tenant=a&from=2026-11-02&to=2026-11-01", {}, 400, "invalid_field", "to"),
        ("GET", "/usage?tenant=acme&by=colour", {}, 400, "invalid_field", "by"),
        ("GET", "/usage?tenant=acme&fresh=maybe", {}, 400, "invalid_field", "fresh"),
        ("GET", "/usage?tenant=acme&tenant=*", {}, 400, "invalid_field", "tenant"),
        ("GET", "/usage?tenant=acme&color=red", {}, 400, "invalid_field", "color"),
        ("GET", "/invoices", {}, 400, "invalid_field", "tenant"),
        ("GET", "/invoices/x", {}, 400, "invalid_field", "tenant"),
        ("GET", "/invoices/x?tenant=acme", {}, 404, "not_found", "invoice"),
        ("POST", "/invoices", {"content": b"{"}, 400, "invalid_json", None),
        ("POST", "/invoices", {"json": {"tenant": 1}}, 400, "invalid_request", None),
        ("POST", "/invoices", {"json": {"tenant": "acme", "period": "2026-10", "issue": "no"}},
         400, "invalid_request", None),
        ("POST", "/invoices", {"json": {"tenant": "*", "period": "2026-10"}}, 400,
         "invalid_field", "tenant"),
        ("POST", "/invoices", {"json": {"tenant": "acme", "period": "soon"}}, 400,
         "invalid_field", "period"),
        ("POST", "/invoices", {"json": {"tenant": "ghost", "period": "2026-10"}}, 404,
         "not_found", "tenant"),
        ("POST", "/invoices", {"json": {"tenant": "guest", "period": "2026-10"}}, 409,
         "conflict", "tenant"),
        ("GET", "/nothing", {}, 404, "not_found", None),
        ("DELETE", "/invoices", {}, 405, "method_not_allowed", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_bad_calls_get_precise_errors(client, method, path, given, status, code, field):
    """A bad call is answered with its status, code, field and, for fields, a hint."""
    answer = client.request(method, path, **given)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (status, code, field)
    if code in ("invalid_field", "conflict"):
        assert error["hint"]


def test_what_if_takes_in_what_is_journaled(client, journal_writer):
    """POST /what-if answers with both sums and up to when usage is in."""
    journal_writer.append(usage_record(ts=PAST, quantities={"rows": 3000}))
    before = to_rfc3339(now_ms())
    wanted = {"tenant": "acme", "period": WINDOW, "plan": "basic"}
    answer = client.post("/what-if", json=wanted)
    body = answer.json()
    assert (answer.status_code, body["actual"]["total"], body["difference"]) == (
        200,
        "1.50",
        "0.00",
    )
    assert body["what_if"]["lines"] == body["actual"]["lines"]
    assert body["complete_to"] >= before
    for given, status, field in (
        ({**wanted, "plan": "none"}, 404, "plan"), ({**wanted, "tenant": "ghost"}, 404, "tenant"),
        ({**wanted, "period": "soon"}, 400, "period"), ({"tenant": "acme"}, 400, None),
    ):  # fmt: skip
        answer = client.post("/what-if", json=given)
        assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


def test_a_preview_is_not_an_invoice(client, journal_writer):
    """With issue=false the same figures come as a draft without an id (200), not kept."""
    journal_writer.append(usage_record(ts=PAST, quantities={"rows": 3000}))
    wanted = {"tenant": "acme", "period": WINDOW}
    made = client.post("/invoices", json={**wanted, "issue": False})
    body = made.json()
    assert (made.status_code, body["status"], body["total"]) == (200, "draft", "1.50")
    assert (body["id"], body["number"]) == (None, None)
    assert client.get("/invoices", params={"tenant": "*"}).json() == {"invoices": []}
    issued = client.post("/invoices", json={**wanted, "issue": True})
    year = issued.json()["issued"][:4]
    assert (issued.status_code, issued.json()["number"]) == (201, f"INV-{year}-000001")
    assert issued.json()["lines"] == body["lines"]


def test_health_tells_of_alarms(client, journal_writer):
    """How many there are, and the newest of them."""
    assert client.get("/health").json()["alarms"] == {"count": 0, "newest": []}
    for _ in range(7):
        record = usage_record(ts=PAST)
        journal_writer.append(record)
        journal_writer.append(usage_record(ts=PAST, id=record.id, quantities={}))
    client.get("/usage", params={"tenant": "acme", "fresh": "true", **WINDOW})
    alarms = client.get("/health").json()["alarms"]
    assert (alarms["count"], len(alarms["newest"])) == (7, 5)
    assert {alarm["kind"] for alarm in alarms["newest"]} == {"usage_conflict"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_journaled_until_the_end_is_taken_in(store, ingester, journal_writer):
    """The ledger makes one more pass when it is told to stop."""
    _client, stop, _path = serve(store, ingester, interval_s=60)
    deadline = time.monotonic() + 10
    while not ingester.complete_to_ms:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    journal_writer.append(usage_record(ts=PAST))
    stop()
    rows = store.usage(PAST, PAST + BUCKET_MS, ["meter"], tenant="acme")
    assert {row["meter"]: row["quantity"] for row in rows} == {"requests": 1, "rows": 8}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_idle_connections_are_kept_as_long_as_is_said(store, ingester, monkeypatch):
    """It is the client who closes an idle connection: 75 s is longer than any of ours waits."""
    assert server.KEEP_ALIVE_S == 75
    monkeypatch.setattr(server, "KEEP_ALIVE_S", 1)
    _client, stop, path = serve(store, ingester)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(4)
            connection.connect(str(path))
            connection.sendall(b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n")
            assert connection.recv(1 << 16).startswith(b"HTTP/1.1 404")
            begun = time.monotonic()
            while connection.recv(1 << 16):
                pass
            assert 0.5 < time.monotonic() - begun < 3
    finally:
        stop()


def test_a_broken_answer_looks_broken(caplog):
    """A failure after the first bytes is raised on, not answered a second time."""
    sent = []

    async def broken(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise OSError("the disk is gone")

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/usage"}
    with pytest.raises(OSError, match="the disk is gone"):
        asyncio.run(server._LastResort(broken)(scope, None, send))
    assert [message["type"] for message in sent] == ["http.response.start"]
    assert "GET /usage failed" in caplog.text


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_the_loop_survives_failures(store, journal, caplog):
    """A failing journal is logged and tried again; usage comes in once it is mended."""
    (journal / "h-0-1-0").mkdir()
    caplog.set_level(logging.ERROR, "meuse.billing.server")
    client, stop, _path = serve(store, Ingester(store, JournalReader(journal)), 0.01)
    try:
        time.sleep(0.2)
        answer = client.get("/usage", params={"tenant": "acme", "fresh": "true"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
        assert client.get("/health").json()["complete_to"] is None
        os.rmdir(journal / "h-0-1-0")
        writer = JournalWriter(journal, "h", 0, 1)
        writer.append(usage_record(ts=PAST))
        writer.close()
        deadline = time.monotonic() + 15
        while not client.get("/usage", params={"tenant": "acme", **WINDOW}).json()["rows"]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        stop()
    assert sum("ingest failed" in record.getMessage() for record in caplog.records) >= 2
