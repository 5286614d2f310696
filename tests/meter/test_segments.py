"""Reading damaged and unfinished segments: only what was written, as far as it is whole."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from billing.make_usage import usage_record
from meuse.core.nouns import METERS
from meuse.meter.record import encode
from meuse.meter.segments import MAX_PAYLOAD, State, frame, read

RECORDS = st.lists(
    st.builds(
        usage_record,
        id=st.binary(min_size=16, max_size=16),
        key=st.text("abcü-", max_size=40),
        plan_version=st.none() | st.just("basic:1"),
        quantities=st.dictionaries(st.sampled_from(METERS), st.integers(0, 2**53 - 1), max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def in_file(data: bytes, closed: bool):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "h-0-1-0"
        path.write_bytes(data)
        return read(path, 0, closed=closed)


@settings(max_examples=25, deadline=None)
@given(RECORDS, st.booleans())
def test_a_cut_gives_exactly_the_whole_records_before_it(records, closed):
    """Cut at any byte, a segment reads as the records that are whole, and its rest as a tail."""
    frames = [frame(encode(record)) for record in records]
    data = b"".join(frames)
    ends = [sum(map(len, frames[:n])) for n in range(len(frames) + 1)]
    for cut in range(len(data) + 1):
        batch = in_file(data[:cut], closed)
        whole = sum(end <= cut for end in ends) - 1
        assert [record for record, _ in batch.records] == records[:whole]
        assert batch.next_offset == ends[whole]
        assert batch.state == (State.END if cut in ends else State.TAIL)


@settings(max_examples=100, deadline=None)
@given(RECORDS, st.data())
def test_a_flipped_byte_never_makes_a_record(records, data):
    """With any byte changed, only records before it are read, and a closed segment is corrupt."""
    frames = [frame(encode(record)) for record in records]
    raw = bytearray(b"".join(frames))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    before = sum(sum(map(len, frames[: n + 1])) <= at for n in range(len(frames)))
    closed = in_file(bytes(raw), closed=True)
    assert [record for record, _ in closed.records] == records[:before]
    assert closed.state is State.CORRUPT
    live = in_file(bytes(raw), closed=False)
    assert live.records == closed.records
    assert live.state is (State.TAIL if before == len(frames) - 1 and live_end(raw, frames) else
                          State.CORRUPT)  # fmt: skip


def live_end(raw: bytearray, frames: list[bytes]) -> bool:
    """Whether the damaged last frame still says where it ends: then it may be under way."""
    start = len(raw) - len(frames[-1])
    return raw[start : start + 4] == frames[-1][:4]


def test_a_damaged_length_is_no_torn_tail():
    """A length that points behind the end is corruption: what follows it is not given up."""
    frames = [frame(encode(usage_record())) for _ in range(3)]
    length = MAX_PAYLOAD.to_bytes(2, "little")
    batch = in_file(frames[0] + length + frames[1][2:] + frames[2], closed=True)
    assert (len(batch.records), batch.state) == (1, State.CORRUPT)


def test_reading_goes_on_where_it_stopped(tmp_path):
    """Read in pieces, a segment gives every record once; what is added later is read later."""
    path = tmp_path / "h-0-1-0"
    records = [usage_record(key=f"key-{n}") for n in range(2_000)]
    path.write_bytes(b"".join(frame(encode(record)) for record in records))
    found, offset, states = [], 0, []
    while State.END not in states:
        batch = read(path, offset, 1)
        found += [record for record, _ in batch.records]
        offset = batch.next_offset
        states.append(batch.state)
    assert found == records
    assert states.count(State.MORE) > 2
    with path.open("ab") as file:
        file.write(frame(encode(records[0])))
    assert [record for record, _ in read(path, offset).records] == records[:1]


def test_sound_bytes_that_are_no_record_are_corrupt():
    """A frame with a good CRC but no record in it is corruption where nothing can follow."""
    assert in_file(frame(b"nonsense"), closed=True).state is State.CORRUPT
    assert in_file(frame(b"nonsense"), closed=False).state is State.TAIL
    with pytest.raises(FileNotFoundError):
        read(Path("/nonexistent/h-0-1-0"), 0)
