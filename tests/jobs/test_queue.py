"""jobs.queue on dbos, with real children, on both databases"""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meuse.core.errors import MeuseError, invalid
from meuse.core.nouns import Job, Scope
from meuse.core.states import JobStatus
from meuse.jobs.kinds import JobKind
from meuse.jobs.queue import DbosJobs
from meuse.store.database import Database
from meuse.store.jobs import SqlJobs

WORK = str(Path(__file__).parent / "work.py")
Make = Callable[[], DbosJobs]


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
def queue(
    store: SqlJobs, database_url: str, tmp_path: Path, completed: list[str]
) -> Iterator[DbosJobs]:
    def complete(job: Job, result: dict) -> dict:
        completed.append(job.id)
        if job.spec.get("complete") == "refuse":
            raise invalid("complete", "no")
        if job.spec.get("complete") == "stumble" and len(completed) < 3:
            raise ConnectionError("the database is away")
        return {"answer": result["answer"]}

    url = database_url.replace("test.db", "jobs.db")
    made = DbosJobs(
        store=store,
        kinds={"test": JobKind(lambda _scope, spec: spec, lambda _job: {}, complete)},
        folder=tmp_path / "jobs",
        command=lambda folder, events, life: [
            sys.executable, WORK, str(folder), str(events), str(life),
        ],
        database_url=url,
        concurrency=1,
    )  # fmt: skip
    yield made
    made.close()


def add(store: SqlJobs, job_id: str, do: str, **spec: str) -> Job:
    job = Job(
        id=job_id, scope=Scope("acme"), kind="test", spec={"do": do, **spec},
        status=JobStatus.QUEUED, progress=0.0, attempt=1, metrics={}, result=None, error=None,
        cancel_requested=False, created_ms=1, updated_ms=1,
    )  # fmt: skip
    store.add(job)
    return job


def ended(store: SqlJobs, job_id: str) -> Job:
    deadline = time.monotonic() + 30
    while not (job := store.get(None, job_id)).status.ended:
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def test_a_job_runs_to_its_result(store: SqlJobs, queue: DbosJobs, completed: list[str]) -> None:
    """queued → running → succeeded, with metrics, events and the completed result."""
    queue.launch()
    queue.submit(add(store, "job-1", "return"))
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
    queue.submit(add(store, "job-1", "refuse"))
    queue.submit(add(store, "job-2", "return", complete="refuse"))
    queue.submit(add(store, "job-3", "return"))
    errors = [ended(store, f"job-{n}").error for n in (1, 2, 3)]
    assert [e and e["field"] for e in errors] == ["spec.do", "complete", None]


def test_rows_without_a_workflow_are_enqueued_at_start(store: SqlJobs, queue: DbosJobs) -> None:
    """A crash between writing the row and enqueueing loses no job."""
    add(store, "job-1", "return")
    queue.launch()
    assert ended(store, "job-1").status == JobStatus.SUCCEEDED


def test_cancel_of_running_and_of_queued(store: SqlJobs, queue: DbosJobs) -> None:
    """A running job ends within two seconds of a cancel, a queued one at once."""
    queue.launch()
    running, waiting = add(store, "job-1", "sleep"), add(store, "job-2", "return")
    queue.submit(running)
    queue.submit(waiting)
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
    queue.submit(add(store, "job-1", "return", complete="stumble"))
    assert ended(store, "job-1").status == JobStatus.SUCCEEDED
    assert completed == ["job-1"] * 3
    assert "log" in [event.kind for event in store.events("job-1", 0)]
