"""What a usage record is, and what it is not."""

from __future__ import annotations

import msgspec
import pytest

from billing.make_usage import usage_record
from meuse.core.nouns import METERS
from meuse.meter.record import MAX_QUANTITY, RecordError, decode, encode


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
