"""Records of jobs: one id for one job, and the ledger takes it once."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from meuse.core.ids import new_id
from meuse.meter.jobs import SLOT, JobJournal, record_id
from meuse.meter.record import UsageRecord
from meuse.meter.segments import JournalReader


def record(job: str, rows: int = 5) -> UsageRecord:
    return UsageRecord(
        id=record_id(job), seq=0, final=True, source="job", tenant="acme", owner="acme",
        project="default", key="", deployment="acme/digits", version="digits:1",
        plan_version="basic:1", tier="batch", protocol="job", status="ok", ts=1_000, lease=None,
        quantities={"rows": rows, "compute_ms": 3},
    )  # fmt: skip


@given(parts=st.lists(st.text(max_size=8), unique=True, max_size=20))
def test_ids_follow_from_job_and_part(parts: list[str]) -> None:
    """The same again, another for another, sorted beside the records of its time."""
    job = new_id("job")
    ids = [record_id(job, part) for part in parts]
    assert len(set(ids)) == len(parts)
    assert ids == [record_id(job, part) for part in parts]
    for made in ids:
        assert len(made) == 16
        assert made[:6] == bytes.fromhex(job.removeprefix("job-"))[:6]
        assert made[6] >> 4 == 8
        assert made[8] >> 6 == 2
    assert record_id("upload-x") == record_id("upload-x")
    assert len(record_id("no hex")) == 16


def test_written_twice_it_is_the_same_record(tmp_path: Path) -> None:
    """Both segments are released at once, so that the ledger ends them, and hold equal bytes."""
    journal = JobJournal(tmp_path, "host", lambda: 7)  # a clock that stands still, at first
    journal.write(record("job-1"))
    times = iter([7, 7, 8])
    JobJournal(tmp_path, "host", lambda: next(times)).write(record("job-1"))
    reader = JournalReader(tmp_path)
    segments = reader.segments()
    assert segments == [f"host-{SLOT}-7-0", f"host-{SLOT}-8-0"]
    payloads = []
    for segment in segments:
        assert reader.is_released(segment)
        batch = reader.read(segment, 0, 1 << 20, closed=True)
        assert batch.state == "end"
        payloads += [payload for _, payload in batch.records]
    assert len(payloads) == 2
    assert payloads[0] == payloads[1]
