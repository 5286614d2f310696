"""Jobs on dbos: adapter of `core.ports.JobQueue`.

A job's row is written first, then a workflow `<job>:<attempt>` is enqueued; at start, rows
without a workflow are enqueued again. A workflow has two steps, each at least once:
`execute` runs the child (which goes on from its checkpoint), `finish` completes the job.
The version and the executor are fixed, so that jobs survive an upgrade and a restart.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Job
from meuse.core.ports import JobStore
from meuse.core.states import JobStatus
from meuse.jobs import process
from meuse.jobs.kinds import JobKind

log = logging.getLogger(__name__)
T = TypeVar("T")

QUEUE = "jobs"
FLUSH_S = 0.2
MAX_WAITING = 1000


class DbosJobs:
    """One per control process. `launch` recovers what a predecessor left unfinished."""

    def __init__(
        self,
        *,
        store: JobStore,
        kinds: Mapping[str, JobKind],
        folder: Path,
        command: process.Command,
        database_url: str,
        concurrency: int,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._folder = folder
        self._command = command
        self._concurrency = concurrency
        self._cancels: dict[str, threading.Event] = {}
        self._reporters: dict[str, _Reporter] = {}
        config: DBOSConfig = {
            "name": "meuse",
            "system_database_url": database_url,
            "application_version": "1",
            "executor_id": "control",
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "use_listen_notify": False,
        }
        DBOS(config=config)

        # dbos marks the functions it wraps, which a bound method does not allow.
        @DBOS.step(name="execute")
        def execute(job_id: str) -> dict[str, Any]:
            return self._execute(job_id)

        # Again when the database is away: by now the work of hours is done.
        @DBOS.step(name="finish", retries_allowed=True, max_attempts=8, interval_seconds=0.5)
        def finish(job_id: str, outcome: dict[str, Any]) -> None:
            self._finish(job_id, outcome)

        @DBOS.workflow(name="job", max_recovery_attempts=1_000_000)
        def run(job_id: str) -> None:
            outcome = execute(job_id)
            try:
                finish(job_id, outcome)
            except Exception as error:
                lost = MeuseError(Code.INTERNAL, f"the result could not be kept: {error}")
                self._store.update(job_id, status=JobStatus.FAILED, error=lost.to_dict())

        self._workflow = run

    def launch(self) -> None:
        DBOS.launch()
        DBOS.register_queue(
            QUEUE,
            worker_concurrency=self._concurrency,
            polling_interval_sec=0.25,
            on_conflict="always_update",
        )
        for job in self._store.unfinished():
            status = DBOS.get_workflow_status(_workflow_id(job))
            if status is None:
                self.submit(job)
            elif status.status in ("ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED"):
                lost = MeuseError(Code.INTERNAL, f"the job's workflow ended as {status.status}")
                self._store.update(job.id, status=JobStatus.FAILED, error=lost.to_dict())

    def flush(self) -> None:
        """Keep what running jobs have reported so far: the process is about to end."""
        for reporter in list(self._reporters.values()):
            reporter.flush()

    def close(self) -> None:
        DBOS.destroy(workflow_completion_timeout_sec=0, destroy_registry=True)

    def submit(self, job: Job) -> None:
        with SetWorkflowID(_workflow_id(job)):
            DBOS.enqueue_workflow(QUEUE, self._workflow, job.id)

    def cancel(self, job: Job) -> None:
        job = self._store.update(job.id, cancel_requested=True)
        event = self._cancels.get(job.id)
        if event is not None:
            event.set()
        elif job.status is JobStatus.QUEUED:
            self._store.update(job.id, status=JobStatus.CANCELLED)

    # -- the two steps -----------------------------------------------------------------

    def _execute(self, job_id: str) -> dict[str, Any]:
        cancelled = self._cancels[job_id] = threading.Event()
        try:
            job = _patiently(lambda: self._store.get(None, job_id))
            if job.status.ended or job.cancel_requested:
                return {"cancelled": True}
            return self._run_child(job, cancelled)
        except MeuseError as error:
            return {"error": error.to_dict()}
        except Exception as error:
            log.exception("job %s failed", job_id)
            internal = MeuseError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            return {"error": internal.to_dict()}
        finally:
            del self._cancels[job_id]

    def _run_child(self, job: Job, cancelled: threading.Event) -> dict[str, Any]:
        _patiently(lambda: self._store.update(job.id, status=JobStatus.RUNNING))
        folder = self.folder_of(job)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        inputs = _patiently(lambda: self._kinds[job.kind].prepare(job))
        document = {"job": job.id, "kind": job.kind, "spec": job.spec, "inputs": inputs}
        fresh = folder / "job.json.new"
        fresh.write_text(json.dumps(document))
        fresh.replace(folder / "job.json")
        reporter = self._reporters[job.id] = _Reporter(self._store, job.id)
        try:
            return process.run(folder, self._command, reporter, cancelled)
        finally:
            del self._reporters[job.id]
            reporter.close()

    def _finish(self, job_id: str, outcome: dict[str, Any]) -> None:
        job = self._store.get(None, job_id)
        if job.status.ended:
            self._tidy(job)  # this step ran before, perhaps not to its end
            return
        if "result" in outcome:
            try:
                outcome = {"result": self._kinds[job.kind].complete(job, outcome["result"])}
            except MeuseError as error:
                outcome = {"error": error.to_dict()}
        if "result" in outcome:
            self._store.update(
                job_id, status=JobStatus.SUCCEEDED, progress=1.0, result=outcome["result"]
            )
        elif "error" in outcome:
            self._store.update(job_id, status=JobStatus.FAILED, error=outcome["error"])
        else:
            stopped = MeuseError(Code.CANCELLED, "the job was cancelled")
            self._store.update(job_id, status=JobStatus.CANCELLED, error=stopped.to_dict())
        self._tidy(job)

    def _tidy(self, job: Job) -> None:
        """Checkpoints and work files of an ended job go; its log stays."""
        for path in self.folder_of(job).glob("*"):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != "log.txt":
                path.unlink()

    def folder_of(self, job: Job) -> Path:
        return self._folder / job.scope.tenant / job.id


def _patiently(work: Callable[[], T]) -> T:
    """`work`, tried again when the database is away for a moment; not when it refuses."""
    for pause in (0.2, 0.5, 1.0, 2.0, 4.0):
        try:
            return work()
        except MeuseError:
            raise
        except Exception:
            log.exception("a job waits for the store")
            time.sleep(pause)
    return work()


def _workflow_id(job: Job) -> str:
    return f"{job.id}:{job.attempt}"


class _Reporter:
    """Writes a child's reports to the store, at most a few times a second."""

    def __init__(self, store: JobStore, job_id: str) -> None:
        self._store = store
        self._job_id = job_id
        self._events: list[tuple[str, dict[str, Any]]] = []
        self._progress: float | None = None
        self._metrics: dict[str, float] = {}
        self._flushed = 0.0
        self._writing = threading.Lock()

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "progress":
            self._progress = data["fraction"]
        else:
            self._events.append((kind, data))
            if kind == "metrics":
                self._metrics.update(data["figures"])
        if time.monotonic() - self._flushed > FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Write what is new. A database that is away costs a delay, never the job."""
        self._flushed = time.monotonic()
        try:
            self._write()
        except Exception:
            log.exception("reports of %s wait for the store", self._job_id)
            del self._events[:-MAX_WAITING]

    def close(self) -> None:
        """The last flush, with patience."""
        try:
            _patiently(self._write)
        except Exception:
            log.exception("the last reports of %s are lost", self._job_id)

    def _write(self) -> None:
        with self._writing:
            count, progress = len(self._events), self._progress
            events = self._events[:count]
            if progress is not None:
                events.append(("progress", {"fraction": progress}))
            if not events:
                return
            # Events last: what is written twice after a failure must be harmless.
            self._store.update(self._job_id, progress=progress, metrics=self._metrics or None)
            self._store.add_events(self._job_id, events)
            del self._events[:count]  # reports may have come meanwhile
            if self._progress == progress:
                self._progress = None
