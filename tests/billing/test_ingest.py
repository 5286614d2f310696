"""The ingester over live, finished, torn and damaged segments."""

from __future__ import annotations

import os

import pytest

from billing.make_usage import DAY, HOUR, usage_record
from meuse.billing.ingest import Ingester
from meuse.core.clock import now_ms
from meuse.meter.journal import JournalWriter
from meuse.meter.record import encode
from meuse.meter.segments import JournalReader, frame


def rows_in(store):
    return sum(
        row["quantity"] for row in store.usage(DAY, DAY + HOUR, ["meter"]) if row["meter"] == "rows"
    )


def test_a_live_segment_is_read_as_it_grows(store, journal, ingester):
    """Records are in after the next pass while the writer goes on; complete_to is now."""
    writer = JournalWriter(journal, "h", 0, 1)
    for total in (1, 2, 3):
        writer.append(usage_record())
        before = now_ms()
        progress = ingester.run_once()
        assert progress.records == 1
        assert before <= progress.complete_to_ms == ingester.complete_to_ms <= now_ms()
        assert rows_in(store) == 8 * total
    assert ingester.run_once().records == 0
    assert writer.path.exists()
    writer.close()
    ingester.run_once()
    assert os.listdir(journal) == []
    assert store.cursor("h-0-1-0").state == "closed"


def test_large_segments_are_taken_in_batches(store, journal):
    """Many segments of many batches come in whole, in one pass."""
    writer = JournalWriter(journal, "h", 0, 1, segment_bytes=300_000)
    for _ in range(5_000):
        writer.append(usage_record())
    writer.sync()
    assert Ingester(store, JournalReader(journal), batch_bytes=1).run_once().records == 5_000
    assert rows_in(store) == 40_000
    assert os.listdir(journal) == [writer.path.name]
    writer.close()


def test_a_torn_tail_waits_for_a_live_writer_and_is_dropped_from_a_dead_one(
    store, journal, ingester
):
    """An incomplete last record is left alone while its writer lives, and left out afterwards."""
    writer = JournalWriter(journal, "h", 0, 1)
    writer.append(usage_record())
    torn = frame(encode(usage_record()))
    with writer.path.open("ab") as file:
        file.write(torn[:-5])
    assert ingester.run_once().records == 1
    assert store.cursor(writer.path.name).state == "open"
    with writer.path.open("ab") as file:
        file.write(torn[-5:] + torn[:11])
    assert ingester.run_once().records == 1
    writer.close()
    progress = ingester.run_once()
    assert progress.records == 0
    assert progress.complete_to_ms >= now_ms() - 5_000
    assert os.listdir(journal) == []
    assert rows_in(store) == 16
    assert store.alarms() == []


@pytest.mark.parametrize("closed", [True, False])
def test_damage_quarantines_the_rest_of_one_segment(store, journal, ingester, closed):
    """What is before the damage counts, the rest stays in its file, one alarm, others go on."""
    writer = JournalWriter(journal, "h", 0, 1)
    for ts in (DAY + 7, DAY + 5, DAY + 9, DAY + 11):
        writer.append(usage_record(ts=ts))
    path = writer.path
    data = bytearray(path.read_bytes())
    data[len(data) // 2 + 20] ^= 1  # in the third record
    path.write_bytes(data)
    if closed:
        writer.close()
    other = JournalWriter(journal, "h", 1, 1)
    other.append(usage_record())
    for _ in range(2):
        progress = ingester.run_once()
        # Nothing after the last sound record is claimed to be complete.
        assert progress.complete_to_ms == DAY + 7
        assert rows_in(store) == 24
        assert store.cursor(path.name).state == "quarantined"
        assert [alarm["kind"] for alarm in store.alarms()] == ["segment_quarantined"]
        assert path.read_bytes() == data
    path.unlink()
    assert ingester.run_once().complete_to_ms > DAY + 9
    writer.close()
    other.close()


def test_a_closed_segment_is_deleted_after_a_crash_and_a_reused_name_is_not(
    store, journal, ingester
):
    """A file left by a crash after the commit goes; new usage under its name raises an alarm."""
    record = frame(encode(usage_record()))
    (journal / "h-0-1-0").write_bytes(record)
    ingester.run_once()
    assert os.listdir(journal) == []
    (journal / "h-0-1-0").write_bytes(record)
    ingester.run_once()
    assert os.listdir(journal) == []
    (journal / "h-0-1-0").write_bytes(record + frame(encode(usage_record())))
    ingester.run_once()
    assert os.listdir(journal) == ["h-0-1-0"]
    assert [alarm["kind"] for alarm in store.alarms()] == ["segment_name_reused"]
    assert rows_in(store) == 8


def test_one_bad_segment_does_not_stop_the_others(store, journal, ingester):
    """A segment that cannot be read raises, after all others are in; complete_to stays."""
    (journal / "a-0-1-0").mkdir()
    writer = JournalWriter(journal, "h", 0, 1)
    writer.append(usage_record())
    with pytest.raises(IsADirectoryError):
        ingester.run_once()
    assert rows_in(store) == 8
    assert ingester.complete_to_ms == 0
    (journal / "a-0-1-0").rmdir()
    assert ingester.run_once().complete_to_ms > 0
    writer.close()


def test_an_empty_or_absent_journal_is_complete(store, tmp_path):
    """With no segment at all, everything journaled so far is in."""
    before = now_ms()
    progress = Ingester(store, JournalReader(tmp_path / "absent")).run_once()
    assert progress.records == 0
    assert progress.complete_to_ms >= before
