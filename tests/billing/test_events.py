"""CloudEvents of outside services: what is read, what is refused, and that each counts once."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from billing.make_usage import DAY, HOUR, Directory, plan
from meuse.billing import events
from meuse.billing.events import EventsError, Reporter
from meuse.billing.invoices import make_invoice
from meuse.billing.keeping import Keeping, plan_at
from meuse.billing.server import make_app
from meuse.core.clock import to_rfc3339
from meuse.core.errors import MeuseError
from meuse.core.plans import Price
from meuse.store import money_events, money_tables
from meuse.store.money import MoneyStore
from meuse.store.money_events import UsageEvents

NOW = DAY + 10 * 24 * HOUR
NO_DIFFERENCE = {"differences": [], "n_differences": 0, "daily_differences": 0}
OWN = Reporter("acme", "default", "key-7", for_all=False)
ADMIN = Reporter("default", "default", "key-1", for_all=True)


def event(**fields: Any) -> dict[str, Any]:
    """A good one: 5 byte-hours on the model "disk"."""
    good = {
        "specversion": "1.0", "id": "e-1", "source": "/storage", "type": "com.example.stored",
        "time": to_rfc3339(NOW - HOUR),
        "data": {"model": "disk", "quantities": {"storage_byte_hours": 5}},
    }  # fmt: skip
    return {k: v for k, v in (good | fields).items() if v is not ...}


def read(*found: Any, by: Reporter = OWN, now: int = NOW) -> list[events.Event]:
    tenants = {"acme", "default", "guest"}
    return events.read(json.dumps(found).encode(), True, by, now, tenants.__contains__)


def test_an_event_is_a_record() -> None:
    """Who pays, what for, when, and whose word it is."""
    (found,) = read(event(traceparent="00-1", data={
        "model": "disk", "version": "v2", "tier": "batch", "project": "default",
        "quantities": {"rows": 0, "storage_byte_hours": 2**50},
    }))  # fmt: skip
    record = found.record
    assert (record.tenant, record.owner, record.project, record.key) == (
        "acme", "acme", "default", "key-7",
    )  # fmt: skip
    assert (record.deployment, record.version, record.tier) == ("acme/disk", "v2", "batch")
    assert (record.source, record.ts, record.protocol) == ("/storage", NOW - HOUR, "event")
    assert record.quantities == {"rows": 0, "storage_byte_hours": 2**50}
    assert record.id[:6] == (NOW - HOUR).to_bytes(6, "big")
    assert (record.id[6] >> 4, record.id[8] >> 6, len(record.id)) == (8, 2, 16)
    (other,) = read(event(subject="guest", data={
        "model": "default/disk", "quantities": {"rows": 1},
    }), by=ADMIN)  # fmt: skip
    assert (other.record.tenant, other.record.deployment) == ("guest", "default/disk")
    (now,) = read(event(time=...))
    assert now.record.ts == NOW


def test_what_an_event_says_makes_its_digest() -> None:
    """Not the order of its fields, what we add, or attributes that say nothing of usage."""
    (first,) = read(event())
    for same in (
        dict(reversed(event().items())), event(dataschema="https://example.com/1", traceid="7"),
    ):  # fmt: skip
        assert read(same)[0].digest == first.digest
    assert read(event(), now=NOW + HOUR)[0].digest == first.digest
    for other in (
        event(time=to_rfc3339(NOW)), event(time=...), event(type="com.example.other"),
        event(data={"model": "disk", "quantities": {"storage_byte_hours": 6}}),
        event(data={"model": "disk2", "quantities": {"storage_byte_hours": 5}}),
        event(data={"model": "disk", "quantities": {"rows": 5}}),
    ):  # fmt: skip
        assert read(other)[0].digest != first.digest
    assert read(event(time=...))[0].digest == read(event(time=...), now=NOW + 9)[0].digest


QUANTITIES = "data.quantities"
BAD: list[tuple[dict[str, Any] | Any, str, str, str]] = [
    (event(specversion="0.3"), "invalid_field", "specversion", "'0.3' is not a version"),
    (event(id=...), "invalid_field", "id", "a text of 1 to 256 characters"),
    (event(id=""), "invalid_field", "id", "a text of 1 to 256"),
    (event(id="x" * 257), "invalid_field", "id", "a text of 1 to 256"),
    (event(id="a\0b"), "invalid_field", "id", "cannot be printed"),
    (event(id=7), "invalid_field", "id", "a text"),
    (event(source="gateway"), "invalid_field", "source", "the platform's own"),
    (event(source="job"), "invalid_field", "source", "the platform's own"),
    (event(source=...), "invalid_field", "source", "a text"),
    (event(type=...), "invalid_field", "type", "a text"),
    (event(subject="guest"), "forbidden", "subject", "only an administrator"),
    (event(subject=["acme"]), "invalid_field", "subject", "not a valid name"),
    (event(time="yesterday"), "invalid_field", "time", "is not a date"),
    (event(time=7), "invalid_field", "time", "is not a time"),
    (event(time=to_rfc3339(NOW + 300_001)), "invalid_field", "time", "5 minutes in the future"),
    (event(time=to_rfc3339(NOW - 45 * 24 * HOUR - 1)), "invalid_field", "time", "45 days ago"),
    (event(data=...), "invalid_field", "data", "data is missing"),
    (event(data="rows=5"), "invalid_field", "data", "data is missing"),
    (event(data_base64="AA=="), "invalid_field", "data_base64", "binary data"),
    (event(datacontenttype="text/csv"), "invalid_field", "datacontenttype", "'text/csv'"),
    (event(Tenant="x"), "invalid_field", "Tenant", "no name of an attribute"),
    (event(more={}), "invalid_field", "more", "a text, a whole number"),
    (event(data={"quantities": {"rows": 1}}), "invalid_field", "data.model", "missing"),
    (event(data={"model": "A b", "quantities": {"rows": 1}}), "invalid_field", "data.model",
     "name"),
    (event(data={"model": "guest/x", "quantities": {"rows": 1}}), "forbidden", "data.model",
     "another owner"),
    (event(data={"model": "disk", "price": 0, "quantities": {"rows": 1}}), "invalid_field",
     "data.price", "no field 'price'"),
    (event(data={"model": "disk", "project": "other", "quantities": {"rows": 1}}), "forbidden",
     "data.project", "another project"),
    (event(data={"model": "disk", "tier": "internal", "quantities": {"rows": 1}}),
     "invalid_field", "data.tier", "'internal'"),
    (event(data={"model": "disk"}), "invalid_field", QUANTITIES, "missing"),
    (event(data={"model": "disk", "quantities": {}}), "invalid_field", QUANTITIES, "missing"),
    *(
        (event(data={"model": "disk", "quantities": {meter: n}}), "invalid_field",
         f"{QUANTITIES}.{meter}", told)
        for meter, n, told in (
            ("rows", -1, "-1 is negative"), ("rows", 1.0, "not a whole number"),
            ("rows", True, "not a whole number"), ("rows", "5", "not a whole number"),
            ("rows", 2**50 + 1, "more than 2"), ("bananas", 1, "no such meter"),
        )
    ),
    (event(data={"model": "disk", "note": "x" * 65_536}), "invalid_field", "data.note", "note"),
    (["rows"], "invalid_field", "", "a JSON object"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "code", "field", "told"), BAD)
def test_a_bad_event_is_named_by_its_place(bad: Any, code: str, field: str, told: str) -> None:
    """With the field at fault; those around it are good, and nothing is returned of them."""
    if "note" in told:
        code, field, told = "too_large", "data", "at most 65536"
    with pytest.raises(EventsError) as caught:
        read(event(id="e-0"), bad, event(id="e-2"))
    error = caught.value
    (fault,) = error.faults
    assert (fault.index, str(error.code)) == (1, code)
    assert error.field == ("events[1]" + (f".{field}" if field else ""))
    assert told in error.message
    assert fault.to_dict()["error"]["field"] == field


def test_every_bad_event_is_told() -> None:
    """The first of them is the error; all are listed with place and id."""
    wrong = [event(id=f"e-{n}", time="soon") for n in range(3)]
    with pytest.raises(EventsError, match="one of 3 events that are refused") as caught:
        read(event(), *wrong)
    assert [(f.index, f.event_id) for f in caught.value.faults] == [
        (1, "e-0"), (2, "e-1"), (3, "e-2"),
    ]  # fmt: skip
    with pytest.raises(EventsError, match="there is no tenant 'ghost'"):
        read(event(subject="ghost"), by=ADMIN)


@pytest.mark.parametrize(
    ("body", "batched", "code"),
    [
        (b"{", True, "invalid_json"), (b"{}", True, "invalid_json"),
        (b"\xff", True, "invalid_json"),
        (b"[" * 100_000, True, "invalid_json"), (b'["\\ud800"]', True, "invalid_json"),
        (b"[" + b"1," * 1_000 + b"1]", True, "too_large"), (b"[]", False, "invalid_field"),
    ],
)  # fmt: skip
def test_bodies_that_are_no_events(body: bytes, batched: bool, code: str) -> None:
    with pytest.raises(MeuseError) as caught:
        events.read(body, batched, OWN, NOW, lambda name: True)
    assert str(caught.value.code) == code
    assert events.read(b"[]", True, OWN, NOW, lambda name: True) == []


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),  # noqa: E501
    max_leaves=8,
)  # fmt: skip
NAMES = ("specversion", "id", "source", "type", "subject", "time", "data", "datacontenttype")


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(NAMES), JUNK, max_size=4),
    st.dictionaries(st.sampled_from(["model", "quantities", "tier"]), JUNK, max_size=2),
)
def test_whatever_stands_in_an_event_is_read_or_refused(
    wrong: dict[str, Any], inside: dict[str, Any]
) -> None:
    """Never anything but a record or an error that can be written as JSON."""
    given = event(**wrong)
    if isinstance(given["data"], dict):
        given["data"] = given["data"] | inside
    try:
        found = read(given)
    except MeuseError as error:
        json.dumps(error.to_dict(), ensure_ascii=False).encode()
        return
    assert all(0 <= n <= 2**50 for n in found[0].record.quantities.values())


# --- taken in ---


@pytest.fixture
def store(database):
    return MoneyStore(database, lambda: NOW)


@pytest.fixture
def sink(database):
    return UsageEvents(database, lambda: NOW)


def counted(store, **where):
    rows = store.usage(DAY - 100 * 24 * HOUR, NOW + HOUR, ["meter"], **where)
    return {row["meter"]: row["quantity"] for row in rows}


def test_an_event_counts_once(store, sink):
    """However often it comes; by tenant, source and id, and in one request too."""
    first = read(event(), event(), event(id="e-2"), event(source="/other"))
    done = sink.report(first)
    assert (done.accepted, done.duplicates, done.conflicts) == ((0, 2, 3), (1,), ())
    assert sink.report(first).duplicates == (0, 1, 2, 3)
    assert sink.report(read(event(subject="guest"), by=ADMIN)).accepted == (0,)
    assert counted(store, tenant="acme") == {"storage_byte_hours": 15}
    assert counted(store) == {"storage_byte_hours": 20}
    assert store.alarms() == []


def test_the_same_id_with_other_content_is_refused_with_its_request(store, sink):
    """Named; nothing of the request is taken, whether the other came before or beside it."""
    sink.report(read(event()))
    other = event(data={"model": "disk", "quantities": {"storage_byte_hours": 6}})
    found = read(event(id="e-2"), other)
    done = sink.report(found)
    assert (done.conflicts, done.accepted) == ((1,), ())
    error = events.conflict(found, done.conflicts)
    assert (str(error.code), error.field) == ("conflict", "events[1].id")
    assert "the event 'e-1' of '/storage' was reported before" in error.message
    assert sink.report(read(event(id="e-3"), {**other, "id": "e-3"})).conflicts == (1,)
    assert counted(store) == {"storage_byte_hours": 5}


def test_ids_are_kept_as_long_as_events_may_be_old(database, store):
    """The day before they are forgotten a duplicate is seen; then its time is refused."""
    assert money_events.KEPT_MS >= events.PAST_MS + events.FUTURE_MS
    UsageEvents(database, lambda: NOW).report(read(event(time=to_rfc3339(NOW))))
    later = NOW + events.PAST_MS
    again = event(time=to_rfc3339(NOW))
    assert UsageEvents(database, lambda: later).report(read(again, now=later)).duplicates == (0,)
    with pytest.raises(EventsError, match="45 days ago"):
        read(again, now=later + 1)
    forgotten = NOW + money_events.KEPT_MS + 1
    fresh = UsageEvents(database, lambda: forgotten)
    assert fresh.report(read(event(time=...), now=forgotten)).accepted == (0,)
    assert counted(store) == {"storage_byte_hours": 5}


# --- by the ledger's API ---


@pytest.fixture
def client(store, sink, ingester):
    basic = plan(Price("storage_byte_hours", "0.50"), made=DAY)
    dear = plan(Price("storage_byte_hours", "2.00"), version=2, made=NOW - 2 * HOUR)
    directory = Directory(basic, dear, acme="basic", guest=None, default=None)
    alarms: list[Any] = []
    keeping = Keeping(
        events=sink, ingester=ingester, plans=directory, tenants=directory,
        recount=lambda start, end: {**NO_DIFFERENCE},
        archived=lambda: {"records": 0}, writers=list, alarm=alarms.append, clock=lambda: NOW,
    )  # fmt: skip
    with TestClient(make_app(store, ingester, directory, directory, keeping=keeping)) as client:
        client.directory, client.keeping = directory, keeping
        yield client


def post(client, *found, by=OWN, batched=True):
    params = {"tenant": by.tenant, "project": by.project, "key": by.key,
              "all": "1" if by.for_all else "0", "batched": "1" if batched else "0"}  # fmt: skip
    body = json.dumps(found if batched else found[0])
    return client.post("/events", params=params, content=body)


def test_events_are_rated_by_the_plan_of_their_time_and_billed(client, store):
    """Also those that come for a month that is invoiced: in the open period, and named."""
    early, late = event(time=to_rfc3339(NOW - 24 * HOUR)), event(id="e-2")
    answer = post(client, early, late)
    assert answer.json() == {"accepted": 2, "duplicates": 0, "late": []}
    assert post(client, late, batched=False).json()["duplicates"] == 1
    usage = client.get("/usage", params={"tenant": "acme", "by": "model,meter,tier"}).json()["rows"]
    assert usage == [] or usage[0]["model"] == "acme/disk"  # of the clock's own month
    made, _ = make_invoice(
        store, client.directory, client.directory, tenant="acme", period="2026-11",
        complete_to_ms=NOW + 1000 * HOUR, clock=lambda: NOW + 1000 * HOUR,
    )  # fmt: skip
    body = json.loads(made.body)
    assert [(x["plan"], x["quantity"], x["amount"]) for x in body["lines"]] == [
        ("basic:1", 5, "2.50"), ("basic:2", 5, "10.00"),
    ]  # fmt: skip
    assert (made.status, body["total"]) == ("issued", "12.50")


def test_late_events_are_told(client, store):
    """With the time that each was of, and the quarter of an hour that bills it."""
    october = to_rfc3339(DAY - 24 * HOUR)
    make_invoice(
        store, client.directory, client.directory, tenant="acme", period="2026-10",
        complete_to_ms=NOW, clock=lambda: NOW,
    )  # fmt: skip
    answer = post(client, event(), event(id="e-2", time=october))
    assert answer.json()["late"] == [
        {"index": 1, "id": "e-2", "time": october, "billed_in": to_rfc3339(NOW)}
    ]
    assert counted(store) == {"storage_byte_hours": 10}
    assert [row["from"] for row in store.late_usage("acme", NOW, NOW + HOUR)] == [october]


def test_what_is_refused_is_listed(client, store):
    """400 or 409 with each event's own error; the store is as it was."""
    answer = post(client, event(), event(id="e-2", time="soon"), event(id="e-3", source="gateway"))
    body = answer.json()
    assert (answer.status_code, body["error"]["code"]) == (400, "invalid_field")
    assert body["error"]["field"] == "events[1].time"
    assert [(e["index"], e["id"], e["error"]["field"]) for e in body["events"]] == [
        (1, "e-2", "time"), (2, "e-3", "source"),
    ]  # fmt: skip
    post(client, event())
    answer = post(client, event(id="e-9"), event(type="com.example.other"))
    assert (answer.status_code, answer.json()["error"]["field"]) == (409, "events[1].id")
    assert answer.json()["events"][0]["id"] == "e-1"
    assert post(client, b"".decode()).status_code == 400
    assert counted(store) == {"storage_byte_hours": 5}
    assert post(client, event(subject="guest", id="e-4"), by=ADMIN).json()["accepted"] == 1


def test_the_plan_at_a_moment():
    """The version that was in force, or none."""
    versions = [plan(made=DAY), plan(version=2, made=DAY + HOUR)]
    directory = Directory(*versions, acme="basic", guest=None)
    at = [plan_at(directory, directory, "acme", ts) for ts in (DAY - 1, DAY, DAY + HOUR, NOW)]
    assert at == [None, "basic:1", "basic:2", "basic:2"]
    assert plan_at(directory, directory, "guest", NOW) is None


def test_the_state_of_the_journal_and_the_recount(client, store, journal):
    """What waits, what is stuck, and bounds that are checked."""
    (journal / "h-0-1-0").write_bytes(b"nonsense that is no frame, and a good deal longer than one")
    client.keeping.ingester.run_once()
    state = client.get("/journal").json()
    assert state["quarantined"] == [{"segment": "h-0-1-0", "offset": 0}]
    assert (state["segments"], state["behind_bytes"]) == (1, 58)
    assert client.get("/health").json()["journal"] == state
    span = {"from": to_rfc3339(DAY), "to": to_rfc3339(DAY + HOUR)}
    assert client.post("/recount", json=span).json() == {
        **span, **NO_DIFFERENCE,
    }  # fmt: skip
    for wrong, field in (
        ({"from": "2026-11-01"}, "from"), ({**span, "to": span["from"]}, "to"),
        ({**span, "from": "2026-11-01T00:01:00Z"}, "from"), ({**span, "to": "2027-11-01"}, "to"),
    ):  # fmt: skip
        answer = client.post("/recount", json=wrong)
        assert (answer.status_code, answer.json()["error"]["field"]) == (400, field)


@pytest.mark.parametrize(
    "body",
    [b'[{"specversion":"1.0","id":"\xed\xa0\x80"}]', '[{"id":"a"}]'.encode("utf-16"), b"\xff[]"],
    ids=["half-a-pair", "utf-16", "no-text"],
)
def test_bytes_that_are_no_utf_8_are_no_json(body: bytes) -> None:
    """Named as that, for no answer could repeat them."""
    with pytest.raises(MeuseError, match="not JSON") as caught:
        events.read(body, True, OWN, NOW, lambda _: True)
    assert caught.value.field == "body"


def test_sums_keep_room_for_what_comes_behind(store, sink, database):
    """Events that would fill the sum of a day are refused whole: the journal must find room."""
    full = money_events._MOST_SUM
    sink.report(read(event()))
    with database.write() as connection:
        connection.execute(sa.update(money_tables.daily).values(quantity=full - 5))
    sink.report(read(event(id="e-2")))
    with pytest.raises(MeuseError, match="more than can be kept") as caught:
        sink.report(read(event(id="e-3"), event(id="e-4")))
    assert caught.value.field == "data.quantities"
    assert counted(store) == {"storage_byte_hours": full}
