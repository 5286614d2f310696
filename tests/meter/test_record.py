"""What a usage record is, and what it is not."""

from __future__ import annotations

import msgspec
import pytest

from billing.make_usage import usage_record
from meuse.core.nouns import METERS
from meuse.meter.record import MAX_QUANTITY, RecordError, Template, decode, encode

COMMON = (
    "source", "tenant", "owner", "project", "key", "deployment", "version", "plan_version",
    "tier", "protocol", "lease",
)  # fmt: skip


def test_what_is_encoded_comes_back():
    """Decoding gives the record that was encoded, with every meter and the largest quantity."""
    record = usage_record(quantities=dict.fromkeys(METERS, MAX_QUANTITY), lease="lease-1")
    assert decode(encode(record)) == record


@pytest.mark.parametrize(
    "fields",
    [
        {"quantities": {"bananas": 1}},
        {"quantities": {"rows": -1}},
        {"quantities": {"rows": MAX_QUANTITY + 1}},
        {"quantities": {"rows": 1.5}},
        {"quantities": {"rows": True}},
        {"id": b"short"},
        {"status": "fine"},
        {"seq": -1},
        {"ts": -1},
        {"tenant": None},
        {"key": "a\0b"},
        {"tenant": "\ud800"},
        {"quantities": {"rows": 2**70}},
    ],
)
def test_a_bad_record_is_refused_on_both_sides(fields):
    """A record that could not be counted is refused before it is written and when it is read."""
    record = usage_record(**fields)
    with pytest.raises(RecordError):
        encode(record)
    try:
        payload = msgspec.msgpack.encode(record)
    except (UnicodeEncodeError, OverflowError):
        return
    with pytest.raises(RecordError):
        decode(payload)


def test_other_bytes_are_no_record():
    """Bytes of another shape, too long or too short, are refused."""
    payload = encode(usage_record())
    for other in (b"", payload[:-1], payload + b"\0", b"\x93\x01\x02\x03"):
        with pytest.raises(RecordError):
            decode(other)


@pytest.mark.parametrize("status", ["ok", "error"])
@pytest.mark.parametrize("ts", [0, 1, 2**32, 253_402_300_799_999])
@pytest.mark.parametrize(
    "fields", [{}, {"lease": "lease-1"}, {"plan_version": None}, {"estimated": True}]
)
def test_a_template_gives_the_same_bytes(status, ts, fields):
    """What differs between records is set into the bytes of what does not."""
    record = usage_record(status=status, ts=ts, seq=0, final=True, **fields)
    template = Template(**{name: getattr(record, name) for name in COMMON})
    made = template.payload(record.id, status, ts, record.quantities, record.estimated)
    assert made == encode(record)


@pytest.mark.parametrize(("seq", "final", "status"), [(0, False, "ok"), (300, True, "error")])
def test_a_template_gives_the_same_bytes_of_a_checkpoint(seq, final, status):
    """Also of one of several records of a request."""
    record = usage_record(seq=seq, final=final, status=status)
    template = Template(**{name: getattr(record, name) for name in COMMON})
    made = template.checkpoint(record.id, seq, final, status, record.ts, record.quantities)
    assert made == encode(record)
    guessed = usage_record(id=record.id, seq=seq, final=final, status=status, estimated=True)
    made = template.checkpoint(
        record.id, seq, final, status, record.ts, record.quantities, estimated=True
    )
    assert made == encode(guessed)
    with pytest.raises(RecordError):
        template.checkpoint(record.id, seq, final, status, record.ts, {"bananas": 1})


def test_an_estimate_says_so():
    """One that was counted has the bytes that it had before there were others."""
    counted = usage_record()
    fields = msgspec.structs.astuple(counted)
    assert encode(counted) == msgspec.msgpack.encode(fields[:-1])
    guessed = usage_record(estimated=True)
    assert decode(encode(guessed)) == guessed
    assert not decode(encode(counted)).estimated


def test_a_template_refuses_what_cannot_be_counted():
    """Bad texts when it is made, a bad id, time or quantity in a record."""
    common = {name: getattr(usage_record(), name) for name in COMMON}
    with pytest.raises(RecordError):
        Template(**{**common, "tenant": None})
    template = Template(**common)
    for wrong in ((b"short", 0, {}), (bytes(16), -1, {}), (bytes(16), 0, {"bananas": 1}),
                  (bytes(16), 0, {"rows": -1})):  # fmt: skip
        with pytest.raises(RecordError):
            template.payload(wrong[0], "ok", *wrong[1:])
