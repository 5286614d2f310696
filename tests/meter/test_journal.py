"""The writer of the journal: what is on disk after append, sync, rotation and failure."""

from __future__ import annotations

import errno
import os
import resource
import stat
import subprocess
import sys
import threading
import time

import pytest

from billing.make_usage import usage_record
from meuse.meter.journal import JournalState, JournalWriter
from meuse.meter.record import RecordError
from meuse.meter.segments import State, is_released, list_segments, read


def test_appended_records_are_read_back_in_order(tmp_path):
    """Every appended record can be read at once, without sync, in the order of writing."""
    writer = JournalWriter(tmp_path, "host", 0, 1)
    records = [usage_record(ts=n) for n in range(50)]
    for record in records:
        writer.append(record)
    batch = read(writer.path, 0)
    assert [record for record, _ in batch.records] == records
    assert (batch.state, batch.next_offset) == (State.END, writer.path.stat().st_size)
    writer.close()


def test_segments_rotate_and_are_released(tmp_path):
    """A full segment makes room for the next number; sync releases it, close the last one."""
    writer = JournalWriter(tmp_path, "a-host.example", 3, 7, segment_bytes=400)
    for _ in range(10):
        writer.append(usage_record())
    writer.sync()
    paths = list_segments(tmp_path)
    assert [path.name for path in paths] == [f"a-host.example-3-7-{n}" for n in range(len(paths))]
    assert len(paths) > 2
    assert all(path.stat().st_size < 800 for path in paths)
    assert [is_released(path) for path in paths] == [True] * (len(paths) - 1) + [False]
    writer.close()
    assert is_released(paths[-1])
    assert sum(len(read(path, 0, closed=True).records) for path in paths) == 10


def test_segments_are_listed_by_number_not_by_text(tmp_path):
    """Segment 10 comes after segment 9, and files that are no segments are passed over."""
    for name in ("h-0-1-10", "h-0-1-9", "h-0-2-0", "h-10-1-0", "h-2-1-0", ".h-0-1-11.new", "notes"):
        (tmp_path / name).touch()
    assert [path.name for path in list_segments(tmp_path)] == [
        "h-0-1-9", "h-0-1-10", "h-0-2-0", "h-2-1-0", "h-10-1-0",
    ]  # fmt: skip
    assert list_segments(tmp_path / "absent") == []


def test_files_are_private_and_never_reopened(tmp_path):
    """Segments have mode 0600 and a used epoch is refused while its file is there."""
    writer = JournalWriter(tmp_path / "journal", "host", 0, 1)
    assert stat.S_IMODE(writer.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(writer.path.parent.stat().st_mode) == 0o700
    with pytest.raises(FileExistsError):
        JournalWriter(tmp_path / "journal", "host", 0, 1)
    assert os.listdir(tmp_path / "journal") == ["host-0-1-0"]
    assert not is_released(writer.path)
    writer.close()
    with pytest.raises(ValueError, match="not a segment name"):
        JournalWriter(tmp_path, "../host", 0, 1)


def test_a_refused_write_leaves_whole_records_only(tmp_path):
    """When the disk refuses in the middle of a record, append raises and takes the part back."""
    writer = JournalWriter(tmp_path, "host", 0, 1)
    for _ in range(3):
        writer.append(usage_record())
    whole = writer.path.stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (whole + 50, hard))
        for _ in range(2):
            with pytest.raises(OSError, match="record could be written"):
                writer.append(usage_record())
            assert writer.path.stat().st_size == whole
        resource.setrlimit(resource.RLIMIT_FSIZE, (whole, hard))
        with pytest.raises(OSError, match="too large"):
            writer.append(usage_record())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.append(usage_record())
    batch = read(writer.path, 0)
    assert (len(batch.records), batch.state) == (4, State.END)
    writer.close()


def test_the_state_says_what_waits_for_the_disk(tmp_path):
    """Nothing, then since when, then nothing again; a failed sync leaves the wait as it was."""
    writer = JournalWriter(tmp_path, "host", 0, 1, segment_bytes=1)
    assert writer.state() == JournalState("host-0-1-0", 0.0, None, False)
    for _ in range(3):  # each in a segment of its own
        writer.append(usage_record())
    time.sleep(0.02)
    state = writer.state()
    assert state.segment == "host-0-1-2"
    assert 0.02 <= state.lag_s < 5
    assert state.synced_s is None
    fd, writer._fd = writer._fd, 9_999
    with pytest.raises(OSError, match="Bad file"):
        writer.sync()
    writer._fd = fd
    assert writer.state().lag_s >= state.lag_s
    writer.sync()
    assert writer.state().lag_s == 0.0
    assert writer.state().synced_s < 5
    writer.close()


def test_what_follows_a_failed_sync_goes_to_another_segment(tmp_path, monkeypatch):
    """The kernel would call the lost pages of the old one clean."""
    writer = JournalWriter(tmp_path, "host", 0, 1)
    writer.append(usage_record())
    writer.sync()
    writer.append(usage_record())

    def broken(fd):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    with pytest.raises(OSError, match="Input/output"):
        writer.sync()
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    writer.append(usage_record())
    assert writer.path.name == "host-0-1-1"
    writer.sync()
    assert len(synced) == 2
    assert [len(read(path, 0).records) for path in list_segments(tmp_path)] == [2, 1]
    writer.close()


def test_a_disk_that_refused_is_probed(tmp_path):
    """It is told as refusing until it takes a record or a probe again; no file is left behind."""
    writer = JournalWriter(tmp_path, "host", 0, 1)
    writer.append(usage_record())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (writer.path.stat().st_size, hard))
        with pytest.raises(OSError, match="too large"):
            writer.append(usage_record())
        assert writer.state().is_refusing
        assert not writer.probe()
        assert writer.is_refusing
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert writer.probe()
    assert not writer.state().is_refusing
    assert os.listdir(tmp_path) == ["host-0-1-0"]
    writer.is_refusing = True
    writer.append(usage_record())
    assert not writer.is_refusing
    writer.close()


def test_a_clock_that_jumps_back_opens_another_epoch(tmp_path):
    """What was written under a later time is never reopened; both are read by their names."""
    late = JournalWriter(tmp_path, "host", 0, 2_000_000_000_000)
    late.append(usage_record(ts=2))
    late.close()
    early = JournalWriter(tmp_path, "host", 0, 1_000_000_000_000)
    early.append(usage_record(ts=1))
    early.close()
    paths = list_segments(tmp_path)
    assert [path.name.split("-")[2] for path in paths] == ["1000000000000", "2000000000000"]
    assert [r.ts for path in paths for r, _ in read(path, 0, closed=True).records] == [1, 2]


def test_nothing_is_appended_after_close_or_of_a_bad_record(tmp_path):
    """A closed journal and an unacceptable record raise, and the file stays as it was."""
    writer = JournalWriter(tmp_path, "host", 0, 1)
    for record in (usage_record(quantities={"rows": -1}), usage_record(key="k" * 70_000)):
        with pytest.raises(RecordError):
            writer.append(record)
    assert writer.path.stat().st_size == 0
    writer.close()
    writer.close()
    writer.sync()
    with pytest.raises(ValueError, match="closed"):
        writer.append(usage_record())


def test_sync_runs_beside_appends_and_rotations(tmp_path):
    """Appends and rotations lose nothing while other threads sync all the time."""
    writer = JournalWriter(tmp_path, "host", 0, 1, segment_bytes=5_000)
    done = threading.Event()

    def keep_syncing() -> None:
        while not done.is_set():
            writer.sync()

    threads = [threading.Thread(target=keep_syncing) for _ in range(2)]
    for thread in threads:
        thread.start()
    records = [usage_record() for _ in range(1_500)]
    for record in records:
        writer.append(record)
    done.set()
    for thread in threads:
        thread.join()
    writer.close()
    found = [r for path in list_segments(tmp_path) for r, _ in read(path, 0, closed=True).records]
    assert found == records
    open_files = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
    assert not {path for path in open_files if path.startswith(str(tmp_path))}


def test_the_writer_needs_no_heavy_library():
    """A lean worker that writes usage has loaded no database, web or numeric library."""
    heavy = {"sqlalchemy", "starlette", "fastapi", "pydantic", "numpy", "torch", "uvicorn"}
    code = (
        "import sys, meuse.meter.journal, meuse.meter.segments;"
        f"sys.exit(', '.join({heavy!r} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})
