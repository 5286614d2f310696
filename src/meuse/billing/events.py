"""CloudEvents 1.0 of outside services → usage records. Pure.

What is read of an event: `id`, `source`, `time` (by default now), `subject` (the tenant that pays,
by default the caller's) and `data`: {model, quantities, project?, version?, tier?}. `type` is the
sender's business. Every event of a request is checked; what is wrong is told of each by its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from meuse.core.clock import from_rfc3339, to_rfc3339
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.fields import choice, known
from meuse.core.ids import check_name
from meuse.core.nouns import DEFAULT_PROJECT, METERS

MOST_EVENTS = 1_000
MAX_EVENT_BYTES = 64 * 1024
FUTURE_MS = 5 * 60_000
PAST_MS = 45 * 86_400_000
"""As long as ids are kept: what is older could come twice."""
MAX_QUANTITY = 2**50  # a day's sum, which has 63 bits, takes thousands of them
OURS = ("gateway", "job")
"""Sources of our own records."""
_MOST_TEXT = 256
_ATTRIBUTES = (
    "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema",
    "data",
)  # fmt: skip
_TIERS = ("standard", "batch")


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who sends events, and whether for all tenants."""

    tenant: str
    project: str
    key: str
    for_all: bool


@dataclass(frozen=True, slots=True)
class EventRecord:
    """As `meter.record.UsageRecord`, whose fields say what each means."""

    id: bytes
    source: str
    tenant: str
    owner: str
    project: str
    key: str
    deployment: str
    version: str
    plan_version: str | None
    tier: str
    ts: int
    quantities: dict[str, int]
    seq: int = 0
    final: bool = True
    protocol: str = "event"
    status: str = "ok"
    lease: str | None = None
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Event:
    """One that can be taken in. `digest` is of what it says: of the sender's words, not of what
    we add, so that the same event sent again is the same."""

    index: int
    event_id: str
    digest: bytes
    record: EventRecord


@dataclass(frozen=True, slots=True)
class Fault:
    index: int
    event_id: str | None
    error: MeuseError

    def to_dict(self) -> dict[str, Any]:
        return {"index": self.index, "id": self.event_id, "error": self.error.to_dict()}


class EventsError(MeuseError):
    """Some events cannot be taken, so none is: what the first of them is refused for, and all."""

    def __init__(self, faults: list[Fault]) -> None:
        first = faults[0]
        field = f"events[{first.index}]"
        if first.error.field:
            field += f".{first.error.field}"
        count = "" if len(faults) == 1 else f" (one of {len(faults)} events that are refused)"
        super().__init__(
            first.error.code, first.error.message + count, field=field, hint=first.error.hint
        )
        self.faults = faults


def read(
    body: bytes,
    batched: bool,
    by: Reporter,
    now_ms: int,
    has_tenant: Callable[[str], bool],
) -> list[Event]:
    """The events of a request body. Raises `invalid_json`, `too_large`, `EventsError`."""
    found = _decoded(body, batched)
    events: list[Event] = []
    faults: list[Fault] = []
    for index, event in enumerate(found):
        given = event.get("id") if isinstance(event, dict) else None
        event_id = given if isinstance(given, str) else None
        try:
            events.append(_event(index, event, by, now_ms, has_tenant))
        except MeuseError as error:
            faults.append(Fault(index, event_id, error))
    if faults:
        raise EventsError(faults)
    return events


def conflict(events: list[Event], indexes: tuple[int, ...]) -> EventsError:
    """Of events whose ids were seen with other content."""
    by_index = {event.index: event for event in events}
    faults = []
    for index in indexes:
        event = by_index[index]
        error = MeuseError(
            Code.CONFLICT,
            f"the event {event.event_id!r} of {event.record.source!r} was reported before with "
            "other content",
            field="id",
            hint="An id stands for one event: report a correction under an id of its own.",
        )
        faults.append(Fault(index, event.event_id, error))
    return EventsError(faults)


def rated_by(event: Event, plan_version: str | None) -> Event:
    """The event with the plan version that held at its time."""
    return replace(event, record=replace(event.record, plan_version=plan_version))


def _decoded(body: bytes, batched: bool) -> list[Any]:
    try:
        found = json.loads(body.decode())  # bytes might be other encodings, and halves of pairs
    except (ValueError, RecursionError) as error:
        raise MeuseError(
            Code.INVALID_JSON, f"the body is not JSON: {error}", field="body"
        ) from None
    if b"\\u" in body:
        try:
            json.dumps(found, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise MeuseError(
                Code.INVALID_JSON, "the body has half of a surrogate pair", field="body"
            ) from None
    if not batched:
        found = [found]
    elif not isinstance(found, list):
        raise MeuseError(
            Code.INVALID_JSON,
            "a batch is a JSON array of events",
            field="body",
            hint="A single event has the content type application/cloudevents+json.",
        )
    if len(found) > MOST_EVENTS:
        raise MeuseError(
            Code.TOO_LARGE,
            f"{len(found)} events are more than {MOST_EVENTS}",
            field="body",
            hint="Send several batches.",
        )
    return found


def _event(
    index: int, event: Any, by: Reporter, now_ms: int, has_tenant: Callable[[str], bool]
) -> Event:
    if not isinstance(event, dict):
        raise invalid("", "an event is a JSON object")
    _check_envelope(event)
    event_id = _text("id", event.get("id"))
    source = _text("source", event.get("source"))
    if source in OURS:
        raise invalid("source", f"{source!r} is the platform's own", "Name your service by a URI.")
    tenant = _tenant(event.get("subject"), by, has_tenant)
    ts = _time(event.get("time"), now_ms)
    data = event.get("data")
    if not isinstance(data, dict):
        raise invalid("data", "data is missing", 'Such as {"model": …, "quantities": {…}}.')
    known(data, ("model", "quantities", "project", "version", "tier"), "data.")
    own = by.project if tenant == by.tenant else DEFAULT_PROJECT
    project = check_name(own if data.get("project") is None else data["project"], "data.project")
    if not by.for_all and project != by.project:
        raise MeuseError(
            Code.FORBIDDEN, "only an administrator reports for another project",
            field="data.project",
        )  # fmt: skip
    owner, model = _model(data.get("model"), tenant, by)
    version = "" if data.get("version") is None else _text("data.version", data["version"])
    tier = choice("data.tier", data.get("tier", "standard"), _TIERS)
    quantities = _quantities(data.get("quantities"))
    said = [
        tenant, project, owner, model, version, tier, sorted(quantities.items()),
        event.get("type"), None if event.get("time") is None else ts,
    ]  # fmt: skip
    digest = hashlib.blake2b(json.dumps(said).encode(), digest_size=16).digest()
    record = EventRecord(
        id=record_id(tenant, source, event_id, ts),
        source=source,
        tenant=tenant,
        owner=owner,
        project=project,
        key=by.key,
        deployment=f"{owner}/{model}",
        version=version,
        plan_version=None,
        tier=tier,
        ts=ts,
        quantities=quantities,
    )
    return Event(index, event_id, digest, record)


def record_id(tenant: str, source: str, event_id: str, ts_ms: int) -> bytes:
    """16 bytes, a UUID of version 8 (RFC 9562) that begins with the time: records of a time lie
    together."""
    name = "\0".join((tenant, source, event_id)).encode()
    made = bytearray(ts_ms.to_bytes(6, "big") + hashlib.sha256(name).digest()[:10])
    made[6] = made[6] & 0x0F | 0x80
    made[8] = made[8] & 0x3F | 0x80
    return bytes(made)


def _check_envelope(event: Mapping[str, Any]) -> None:
    if event.get("specversion") != "1.0":
        raise invalid(
            "specversion", f"{event.get('specversion')!r} is not a version that is read", "Use 1.0."
        )
    _text("type", event.get("type"))
    for name, value in event.items():
        if name == "data_base64":
            raise invalid("data_base64", "binary data is not read", "Send JSON as data.")
        if name in _ATTRIBUTES:
            continue
        if not (name.isascii() and name.isalnum() and name == name.lower() and len(name) <= 20):
            raise invalid(
                name[:_MOST_TEXT], "this is no name of an attribute", "Use a to z and 0 to 9."
            )
        if not isinstance(value, str | int | bool):
            raise invalid(name, "an attribute is a text, a whole number or a boolean")
    kind = event.get("datacontenttype", "application/json")
    if not isinstance(kind, str) or kind.partition(";")[0].strip().lower() != "application/json":
        raise invalid("datacontenttype", f"{kind!r} is not read", "Use application/json.")
    try:
        size = len(json.dumps(event))
    except RecursionError:
        size = MAX_EVENT_BYTES + 1
    if size > MAX_EVENT_BYTES:
        raise MeuseError(
            Code.TOO_LARGE, f"an event has at most {MAX_EVENT_BYTES} bytes", field="data"
        )


def _tenant(subject: Any, by: Reporter, has_tenant: Callable[[str], bool]) -> str:
    if subject is None:
        return by.tenant
    tenant = check_name(subject, "subject")
    if tenant == by.tenant:
        return tenant
    if not by.for_all:
        raise MeuseError(
            Code.FORBIDDEN,
            "only an administrator reports usage of another tenant",
            field="subject",
            hint="Leave the subject out: your own tenant pays.",
        )
    if not has_tenant(tenant):
        raise MeuseError(Code.NOT_FOUND, f"there is no tenant {tenant!r}", field="subject")
    return tenant


def _time(text: Any, now_ms: int) -> int:
    if text is None:
        return now_ms
    if not isinstance(text, str):
        raise invalid("time", f"{text!r} is not a time", "Use RFC 3339: 2026-11-01T12:00:00Z.")
    ts = from_rfc3339(text, "time")
    if ts > now_ms + FUTURE_MS:
        raise invalid(
            "time",
            f"{text} is more than 5 minutes in the future",
            f"It is {to_rfc3339(now_ms)}: set the clock right.",
        )
    if ts < now_ms - PAST_MS:
        raise invalid(
            "time",
            f"{text} is more than 45 days ago",
            "Ids are kept so long: what is older could be billed twice. Report it under a time "
            "of now, and name its own in the id.",
        )
    return ts


def _model(name: Any, tenant: str, by: Reporter) -> tuple[str, str]:
    """(owner, name): who pays owns it, unless an administrator names another."""
    if not isinstance(name, str):
        raise invalid(
            "data.model", "the model is missing", "Name what was used: prices can be for it alone."
        )
    owner, slash, model = name.rpartition("/")
    if not slash:
        return tenant, check_name(name, "data.model")
    if owner != tenant and not by.for_all:
        raise MeuseError(
            Code.FORBIDDEN, "only an administrator names another owner", field="data.model"
        )
    return check_name(owner, "data.model"), check_name(model, "data.model")


def _quantities(given: Any) -> dict[str, int]:
    if not isinstance(given, dict) or not given:
        raise invalid(
            "data.quantities", "quantities are missing", 'Such as {"storage_byte_hours": 512}.'
        )
    for meter, quantity in given.items():
        field = f"data.quantities.{meter}"[:_MOST_TEXT]
        if meter not in METERS:
            raise invalid(field, "there is no such meter", f"Use one of: {', '.join(METERS)}.")
        if isinstance(quantity, bool) or not isinstance(quantity, int):
            raise invalid(field, f"{str(quantity)[:64]!r} is not a whole number")
        if quantity < 0:
            raise invalid(
                field,
                f"{quantity} is negative",
                "Usage only grows: give back by a credit, not by usage.",
            )
        if quantity > MAX_QUANTITY:
            raise invalid(field, "this is more than 2^50", "Report it in parts.")
    return {meter: given[meter] for meter in METERS if meter in given}


def _text(field: str, value: Any) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_TEXT:
        raise invalid(field, f"a text of 1 to {_MOST_TEXT} characters is needed")
    if not value.isprintable():
        raise invalid(field, "it has characters that cannot be printed")
    return value
