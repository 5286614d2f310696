"""jobs.queue on dbos, with real children, on both databases"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.nouns import Job, Scope
from meuse.core.states import JobStatus
from meuse.jobs import process
from meuse.jobs.admission import Limits
from meuse.jobs.kinds import JobKind
from meuse.jobs.queue import Config, DbosJobs
from meuse.store.database import Database
from meuse.store.jobs import SqlJobs

WORK = str(Path(__file__).parent / "work.py")
Make = Callable[..., DbosJobs]
GB = 1 << 30


class Store(SqlJobs):
    """The real store; `away` counts calls that fail as if the database were gone."""

    away = 0

    def add_events(self, job_id, events) -> None:
        if self.away > 0:
            self.away -= 1
            raise ConnectionError("the database is away")
        super().add_events(job_id, events)


@pytest.fixture
def store(database_url: str) -> Iterator[Store]:
    database = Database(database_url)
    database.migrate("meuse")
    yield Store(database)
    database.close()


@pytest.fixture
def completed() -> list[str]:
    return []


@pytest.fixture
def make(store: SqlJobs, database_url: str, tmp_path: Path, completed: list[str]) -> Iterator[Make]:
    """Queues on the same databases and folder, one after the other."""

    def complete(job: Job, result: dict) -> dict:
        completed.append(job.id)
        if job.spec.get("complete") == "refuse":
            raise invalid("complete", "no")
        if job.spec.get("complete") == "stumble" and len(completed) < 3:
            raise ConnectionError("the database is away")
        return {"answer": result["answer"]}

    url = database_url.replace("test.db", "jobs.db")
    kind = JobKind(
        lambda _scope, spec: spec, lambda _job: {}, complete, lambda job: job.spec.get("bytes")
    )
    open_ones: list[DbosJobs] = []

    def make(limits: Limits = Limits(1, 8 * GB), **config: float) -> DbosJobs:  # noqa: B008
        for old in open_ones:
            old.close()
        queue = DbosJobs(
            store=store,
            kinds={"test": kind},
            folder=tmp_path / "jobs",
            start=lambda _kind: process.fresh(
                lambda *where: [sys.executable, WORK, *map(str, where)]
            ),
            database_url=url,
            config=Config(limits=limits, job_memory_bytes=4 * GB, **config),
        )
        open_ones[:] = [queue]
        return queue

    yield make
    for queue in open_ones:
        queue.close()


@pytest.fixture
def queue(make: Make) -> DbosJobs:
    return make()


def new(job_id: str, do: str, tenant: str = "acme", priority: str = "normal", **spec) -> Job:
    return Job(
        id=job_id, scope=Scope(tenant), kind="test", spec={"do": do, **spec},
        status=JobStatus.QUEUED, progress=0.0, attempt=1, metrics={}, result=None, error=None,
        cancel_requested=False, created_ms=1, updated_ms=1, priority=priority,
    )  # fmt: skip


def reached(store: SqlJobs, job_id: str, status: JobStatus) -> Job:
    deadline = time.monotonic() + 30
    while (job := store.get(None, job_id)).status is not status:
        assert time.monotonic() < deadline, job
        time.sleep(0.02)
    return job


def counting(store: SqlJobs, job_id: str) -> None:
    """Wait until a job that counts has begun to."""
    deadline = time.monotonic() + 30
    while not store.get(None, job_id).metrics.get("count"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def ended(store: SqlJobs, job_id: str) -> Job:
    deadline = time.monotonic() + 30
    while not (job := store.get(None, job_id)).status.ended:
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def test_a_job_runs_to_its_result(store: SqlJobs, queue: DbosJobs, completed: list[str]) -> None:
    """queued → running → succeeded, with metrics, events and the completed result."""
    queue.launch()
    queue.submit(new("job-1", "return"))
    job = ended(store, "job-1")
    assert (job.status, job.result, job.progress) == (JobStatus.SUCCEEDED, {"answer": 42}, 1.0)
    assert job.metrics == {"loss": 0.25}
    assert completed == ["job-1"]
    kinds = [event.kind for event in store.events("job-1", 0)]
    assert {"status", "log", "metrics", "progress"} == set(kinds)
    assert [p.name for p in queue.folder_of(job).iterdir()] == ["log.txt"]


def test_failures_of_work_and_of_completion_fail_the_job(store: SqlJobs, queue: DbosJobs) -> None:
    """An error in the child or in complete is the job's error; the queue goes on."""
    queue.launch()
    queue.submit(new("job-1", "refuse"))
    queue.submit(new("job-2", "return", complete="refuse"))
    queue.submit(new("job-3", "return"))
    errors = [ended(store, f"job-{n}").error for n in (1, 2, 3)]
    assert [e and e["field"] for e in errors] == ["spec.do", "complete", None]


def test_rows_without_a_workflow_are_enqueued_at_start(store: SqlJobs, queue: DbosJobs) -> None:
    """A crash between writing the row and enqueueing loses no job."""
    store.add(new("job-1", "return"))
    queue.launch()
    assert ended(store, "job-1").status == JobStatus.SUCCEEDED


def test_cancel_of_running_and_of_queued(store: SqlJobs, queue: DbosJobs) -> None:
    """A running job ends within two seconds of a cancel, a queued one at once."""
    queue.launch()
    running = queue.submit(new("job-1", "sleep"))
    waiting = queue.submit(new("job-2", "return"))
    pid = queue.folder_of(running) / "pid"
    deadline = time.monotonic() + 20
    while not pid.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    queue.cancel(waiting)
    assert store.get(None, "job-2").status == JobStatus.CANCELLED
    began = time.monotonic()
    queue.cancel(running)
    assert ended(store, "job-1").status == JobStatus.CANCELLED
    assert time.monotonic() - began < 2
    assert store.get(None, "job-1").error["code"] == "cancelled"
    with pytest.raises(MeuseError):
        store.update("job-2", status=JobStatus.RUNNING)


def test_a_database_that_is_away_costs_no_result(
    store: Store, queue: DbosJobs, completed: list[str]
) -> None:
    """Reports wait, and completing is tried again, until the database is back."""
    store.away = 2
    queue.launch()
    queue.submit(new("job-1", "return", complete="stumble"))
    assert ended(store, "job-1").status == JobStatus.SUCCEEDED
    assert completed == ["job-1"] * 3
    assert "log" in [event.kind for event in store.events("job-1", 0)]


def begun(queue: DbosJobs, job: Job) -> list[int]:
    """Where each child of a job that counts has begun."""
    return [int(n) for n in (queue.folder_of(job) / "begun").read_text().split()]


def test_pause_and_resume_go_on_from_the_checkpoint(store: SqlJobs, queue: DbosJobs) -> None:
    """A running job stops, keeps its folder, leaves its place to others, and goes on as the
    next attempt; a queued one is paused at once."""
    queue.launch()
    job = queue.submit(new("job-1", "count", step_s=0.2))
    queue.submit(new("job-2", "return"))
    assert queue.pause(queue.submit(new("job-3", "return"))).status is JobStatus.PAUSED
    counting(store, "job-1")
    assert queue.pause(job).pause_requested
    with pytest.raises(MeuseError) as refusal:
        queue.resume(store.get(None, "job-1"))
    assert refusal.value.code is Code.CONFLICT
    paused = reached(store, "job-1", JobStatus.PAUSED)
    assert 0 < paused.progress < 1
    assert paused.ended_ms is None
    assert queue.pause(paused).status is JobStatus.PAUSED
    assert ended(store, "job-2").status is JobStatus.SUCCEEDED
    count = paused.metrics["count"]
    assert (queue.folder_of(job) / "checkpoint.safetensors").read_text() == str(int(count))

    again = queue.resume(store.get(None, "job-1"))
    assert (again.status, again.attempt, again.pause_requested) == (JobStatus.QUEUED, 2, False)
    done = ended(store, "job-1")
    assert (done.status, done.metrics["count"]) == (JobStatus.SUCCEEDED, 10)
    told = [e.data for e in store.events("job-1", 0) if e.kind == "metrics"]
    counts = [data["epoch"] for data in told if "count" in data["figures"]]
    assert counts == list(range(1, 11))
    assert store.get(None, "job-3").status is JobStatus.PAUSED  # nobody resumed it
    cancelled = queue.cancel(store.get(None, "job-3"))
    assert (cancelled.status, cancelled.error["code"]) == (JobStatus.CANCELLED, "cancelled")


def test_retry_goes_on_where_the_job_failed(store: SqlJobs, queue: DbosJobs) -> None:
    """A failed job keeps its checkpoint and no other file; a retry is the next attempt, from
    there. What has succeeded, or waits, is not retried."""
    queue.launch()
    job = queue.submit(new("job-1", "count", fail_at=4))
    failed = ended(store, "job-1")
    assert (failed.status, failed.error["field"]) == (JobStatus.FAILED, "spec.fail_at")
    left = {path.name for path in queue.folder_of(job).iterdir()}
    assert left == {"log.txt", "checkpoint.safetensors", "checkpoint.failed"}
    again = queue.retry(failed)
    assert (again.attempt, again.error, again.ended_ms) == (2, None, None)
    done = ended(store, "job-1")
    assert (done.status, done.attempt, done.error) == (JobStatus.SUCCEEDED, 2, None)
    counts = [e.data["epoch"] for e in store.events("job-1", 0) if e.kind == "metrics"]
    assert counts == [1, *range(1, 5), 1, *range(5, 11)]  # each child reports epoch 1 first
    deadline = time.monotonic() + 10  # the folder is tidied after the state is told
    while (names := [path.name for path in queue.folder_of(job).iterdir()]) != ["log.txt"]:
        assert time.monotonic() < deadline, names
        time.sleep(0.02)
    for verb in (queue.retry, queue.resume, queue.pause, queue.cancel):
        with pytest.raises(MeuseError) as refusal:
            verb(done)
        assert refusal.value.code is Code.CONFLICT


def test_a_cancelled_job_can_be_tried_again(store: SqlJobs, queue: DbosJobs) -> None:
    """Cancelled while it ran, it goes on from its checkpoint too."""
    queue.launch()
    job = queue.submit(new("job-1", "count", step_s=0.2))
    counting(store, "job-1")
    queue.cancel(job)
    queue.retry(reached(store, "job-1", JobStatus.CANCELLED))
    done = ended(store, "job-1")
    assert (done.status, done.cancel_requested) == (JobStatus.SUCCEEDED, False)
    assert done.metrics["count"] == 10
    story = [e.data for e in store.events("job-1", 0) if e.kind == "status"]
    assert {"status": "queued", "attempt": 2} in story


def test_what_a_refused_result_measured_stays_with_the_job(store: SqlJobs, queue: DbosJobs) -> None:
    """The job failed with the error alone in its error and the report in its result; a retry
    that succeeds has a result of its own."""
    queue.launch()
    queue.submit(new("job-1", "fall-short"))
    failed = ended(store, "job-1")
    assert failed.status is JobStatus.FAILED
    assert failed.error == {
        "code": "gate_refused", "message": "not good enough", "field": "goal",
        "hint": "Allow more.",
    }  # fmt: skip
    assert failed.result == {"report": {"measured": 0.4}}
    again = queue.retry(failed)
    assert (again.result, again.error) == (None, None)
    assert ended(store, "job-1").status is JobStatus.SUCCEEDED


def test_turns_places_and_quotas(store: SqlJobs, make: Make) -> None:
    """Jobs start by priority within a tenant and in turn between tenants; places say so; more
    than the quota is refused by name."""
    queue = make(queued_per_tenant=4)
    queue.launch()
    blocker = queue.submit(new("job-0", "sleep"))
    reached(store, "job-0", JobStatus.RUNNING)
    for number, priority in enumerate(("low", "normal", "high", "normal"), start=1):
        queue.submit(new(f"job-{number}", "return", priority=priority))
    queue.submit(new("job-5", "return", "globex"))
    assert queue.positions() == {"job-5": 1, "job-3": 2, "job-2": 3, "job-4": 4, "job-1": 5}
    with pytest.raises(MeuseError) as refusal:
        queue.submit(new("job-6", "return"))
    assert refusal.value.code is Code.LIMIT_EXCEEDED
    assert "jobs_queued_per_tenant" in refusal.value.message
    queue.pause(store.get(None, "job-4"))  # which gives no place free
    with pytest.raises(MeuseError):
        queue.submit(new("job-6", "return"))
    queue.cancel(blocker)
    started = [ended(store, f"job-{n}").started_ms for n in (5, 3, 2, 1)]
    assert started == sorted(started)
    assert queue.positions() == {}


def test_memory_is_kept_or_refused(store: SqlJobs, make: Make) -> None:
    """A job that can never fit is refused with the numbers; one that does not fit beside what
    runs waits, and those after it with it."""
    queue = make(Limits(2, 6 * GB))
    queue.launch()
    with pytest.raises(MeuseError) as refusal:
        queue.submit(new("job-9", "return", bytes=5 * GB))
    assert refusal.value.code is Code.TOO_LARGE
    assert "5.00 GiB" in refusal.value.message
    assert "4.00 GiB" in refusal.value.message
    with pytest.raises(MeuseError):
        store.get(None, "job-9")
    running = queue.submit(new("job-1", "sleep", bytes=4 * GB))
    reached(store, "job-1", JobStatus.RUNNING)
    assert queue.submit(new("job-2", "return", bytes=3 * GB)).estimate_bytes == 3 * GB
    queue.submit(new("job-3", "return", bytes=GB))  # job-2 is old: it is overtaken no more
    time.sleep(0.5)
    assert {store.get(None, j).status for j in ("job-2", "job-3")} == {JobStatus.QUEUED}
    queue.cancel(running)
    assert {ended(store, j).status for j in ("job-2", "job-3")} == {JobStatus.SUCCEEDED}


def test_a_new_control_takes_the_queue_up(store: SqlJobs, queue: DbosJobs) -> None:
    """At start paused jobs stay paused, one that was being paused is paused without running
    again, and what waits is started in its turn."""
    for number in (1, 2, 3):
        store.add(new(f"job-{number}", "return"))
    store.update("job-1", status=JobStatus.RUNNING)
    store.request_pause("job-1")
    store.request_pause("job-3")
    queue.launch()
    assert ended(store, "job-2").status is JobStatus.SUCCEEDED
    assert reached(store, "job-1", JobStatus.PAUSED).metrics == {}
    assert store.get(None, "job-3").status is JobStatus.PAUSED
    for job_id in ("job-1", "job-3"):
        queue.resume(store.get(None, job_id))
        assert ended(store, job_id).status is JobStatus.SUCCEEDED
