"""Jobs on dbos: adapter of `core.ports.JobQueue`.

A job's row is written first and is the truth. When its turn comes (`admission`), a workflow
`<job>:<attempt>` is started for it; pause, resume and retry make new attempts. A workflow has
two steps, each at least once: `execute` runs the child (which goes on from its checkpoint),
`finish` completes the job. The version and the executor are fixed, so that jobs survive an
upgrade and a restart.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Job, QueuedJob
from meuse.core.ports import JobStore
from meuse.core.states import JobStatus
from meuse.jobs import admission, process
from meuse.jobs.kinds import JobKind
from meuse.jobs.reports import Reporter, patiently

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""How often the queue is looked at without being told, for a job that waits for its turn."""

SWEEP_S = 3600.0
KEEP_S = 24 * 3600.0
"""How long the checkpoint of a failed or cancelled job waits for a retry."""

_LOST = ("SUCCESS", "ERROR", "CANCELLED", "MAX_RECOVERY_ATTEMPTS_EXCEEDED")
_OLD_QUEUE = "jobs"  # where a release before priorities enqueued jobs that nobody had started


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """`job_memory_bytes` is what one job may have; `queued_per_tenant` (0: no limit) counts
    paused jobs too; `pause_grace_s`: how long a child has to keep its checkpoint."""

    limits: admission.Limits
    job_memory_bytes: int
    queued_per_tenant: int = 0
    pause_grace_s: float = 30.0


class DbosJobs:
    """One per control process. `launch` recovers what a predecessor left unfinished.

    `start` says by its kind how a job's child is started.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        kinds: Mapping[str, JobKind],
        folder: Path,
        start: Callable[[str], process.Start],
        database_url: str,
        config: Config,
    ) -> None:
        self._store = store
        self._kinds = kinds
        self._folder = folder
        self._start_child = start
        self._config = config
        self._stops: dict[str, process.Stop] = {}
        self._reporters: dict[str, Reporter] = {}
        self._active: dict[str, QueuedJob] = {}  # by workflow
        self._started: set[str] = set()  # workflows, each once per process
        self._served: dict[str, int] = {}
        self._lock = threading.Lock()  # of the three above
        self._wake = threading.Event()
        self._closing = False
        self._swept = time.monotonic()
        self._dispatcher = threading.Thread(target=self._dispatch, name="jobs", daemon=True)
        dbos: DBOSConfig = {
            "name": "meuse",
            "system_database_url": database_url,
            "application_version": "1",
            "executor_id": "control",
            "serializer": DBOSPortableJSONSerializer(),
            "log_level": "WARNING",
            "use_listen_notify": False,
        }
        DBOS(config=dbos)

        # dbos marks the functions it wraps, which a bound method does not allow.
        @DBOS.step(name="execute")
        def execute(job_id: str, attempt: int) -> dict[str, Any]:
            return self._execute(job_id, attempt)

        # Again when the database is away: by now the work of hours is done.
        @DBOS.step(name="finish", retries_allowed=True, max_attempts=8, interval_seconds=0.5)
        def finish(job_id: str, attempt: int, outcome: dict[str, Any]) -> None:
            self._finish(job_id, attempt, outcome)

        # The default is for what a release before attempts has left.
        @DBOS.workflow(name="job", max_recovery_attempts=1_000_000)
        def run(job_id: str, attempt: int = 1) -> None:
            try:
                outcome = execute(job_id, attempt)
                try:
                    finish(job_id, attempt, outcome)
                except Exception as error:
                    lost = MeuseError(Code.INTERNAL, f"the result could not be kept: {error}")
                    self._store.update(job_id, status=JobStatus.FAILED, error=lost.to_dict())
            finally:
                self._release(f"{job_id}:{attempt}")

        self._workflow = run

    def launch(self) -> None:
        # Counted as running before dbos recovers them: each is released when it has ended.
        left = [job for job in self._store.unfinished() if job.status is not JobStatus.PAUSED]
        self._active = {_workflow_id(job): QueuedJob.of(job) for job in left}
        self._served = self._store.served()
        DBOS.launch()
        for job in left:
            if not self._goes_on(job):
                self._release(_workflow_id(job))
        self._dispatcher.start()
        self._wake.set()

    def flush(self) -> None:
        """Keep what running jobs have reported so far: the process is about to end."""
        for reporter in list(self._reporters.values()):
            reporter.flush()

    def close(self) -> None:
        self._closing = True
        self._wake.set()
        if self._dispatcher.is_alive():
            self._dispatcher.join()
        DBOS.destroy(workflow_completion_timeout_sec=0, destroy_registry=True)

    # -- what is asked of it -----------------------------------------------------------

    def submit(self, job: Job) -> Job:
        job = replace(job, estimate_bytes=self._estimate(job))
        self._store.add(job, self._config.queued_per_tenant)
        self._wake.set()
        return job

    def cancel(self, job: Job) -> Job:
        job = self._store.request_cancel(job.id)
        stop = self._stops.get(_workflow_id(job))
        if stop is not None:
            stop.cancelled.set()
        elif job.status is JobStatus.CANCELLED:
            self._tidy(job)
        return job

    def pause(self, job: Job) -> Job:
        job = self._store.request_pause(job.id)
        stop = self._stops.get(_workflow_id(job))
        if stop is not None and job.status is JobStatus.RUNNING:
            stop.paused.set()
        return job

    def resume(self, job: Job) -> Job:
        if job.status in (JobStatus.QUEUED, JobStatus.RUNNING):
            if job.pause_requested:
                raise MeuseError(
                    Code.CONFLICT,
                    f"job {job.id} is still keeping its checkpoint",
                    field="job_id",
                    hint="Resume it when it is paused.",
                    retry_after_s=1,
                )
            return job
        if job.status is not JobStatus.PAUSED:
            raise _not(job, "resumed", "Retry it instead.")
        return self._again(job)

    def retry(self, job: Job) -> Job:
        if job.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
            raise _not(job, "retried", "Failed and cancelled jobs can be.")
        return self._again(job)

    def positions(self) -> dict[str, int]:
        with self._lock:
            active, served = dict(self._active), dict(self._served)
        queued = [job for job in self._store.queued() if _workflow_id(job) not in active]
        turns = admission.in_turn(queued, active.values(), served)
        return {job.id: place for place, job in enumerate(turns, start=1)}

    def folder_of(self, job: Job) -> Path:
        return self._folder / job.scope.tenant / job.id

    def _again(self, job: Job) -> Job:
        job = self._store.new_attempt(job.id, self._config.queued_per_tenant)
        self._wake.set()
        return job

    def _estimate(self, job: Job) -> int | None:
        needed = self._kinds[job.kind].estimate(job)
        most = min(self._config.job_memory_bytes, self._config.limits.memory_bytes)
        if needed is not None and needed > most:
            raise MeuseError(
                Code.TOO_LARGE,
                f"the job needs about {needed / 2**30:.2f} GiB of memory; a job may have "
                f"{most / 2**30:.2f} GiB here",
                field="spec",
                hint="Use fewer rows or a smaller network, or let the operator raise "
                "job_memory_bytes and jobs_memory_bytes.",
            )
        return needed

    # -- whose turn it is --------------------------------------------------------------

    def _dispatch(self) -> None:
        while not self._closing:
            self._wake.wait(LOOK_S)
            self._wake.clear()
            try:
                if not self._closing:
                    self._admit()
                    self._sweep()
            except Exception:
                log.exception("the queue waits for the store")
                time.sleep(0.5)
                self._wake.set()

    def _admit(self) -> None:
        queued = self._store.queued()
        if not queued:
            return
        with self._lock:
            waiting = [
                job
                for job in queued
                if (name := _workflow_id(job)) not in self._active and name not in self._started
            ]
            active, served = list(self._active.values()), dict(self._served)
        limits = self._config.limits
        for job in admission.next_jobs(waiting, active, served, limits, now_ms()):
            self._start(job)

    def _start(self, job: QueuedJob) -> None:
        name = _workflow_id(job)
        with self._lock:
            self._active[name] = job
            self._served[job.tenant] = now_ms()
        try:
            with SetWorkflowID(name):
                DBOS.start_workflow(self._workflow, job.id, job.attempt)
        except BaseException:
            self._release(name)
            raise
        self._started.add(name)

    def _release(self, workflow_id: str) -> None:
        with self._lock:
            self._active.pop(workflow_id, None)
        self._wake.set()

    def _goes_on(self, job: Job) -> bool:
        """Whether dbos runs an unfinished job again. What waits is left to the dispatcher."""
        name = _workflow_id(job)
        status = DBOS.get_workflow_status(name)
        if status is None:
            if job.status is JobStatus.RUNNING:  # dbos has lost its database
                self._start(QueuedJob.of(job))
                return True
            return False
        if status.status == "ENQUEUED" and status.queue_name == _OLD_QUEUE:
            DBOS.delete_workflow(name)
            return False
        if status.status not in _LOST:
            return True
        job = self._store.get(None, job.id)  # it may have ended since
        if _workflow_id(job) == name and job.status in (JobStatus.QUEUED, JobStatus.RUNNING):
            lost = MeuseError(Code.INTERNAL, f"the job's workflow ended as {status.status}")
            self._store.update(job.id, status=JobStatus.FAILED, error=lost.to_dict())
        return False

    # -- the two steps -----------------------------------------------------------------

    def _execute(self, job_id: str, attempt: int) -> dict[str, Any]:
        # Before the row is read: a stop is either found there, or finds this.
        stop = process.Stop(pause_grace_s=self._config.pause_grace_s)
        self._stops[f"{job_id}:{attempt}"] = stop
        try:
            job = patiently(lambda: self._store.get(None, job_id))
            if job.attempt != attempt or job.status not in (JobStatus.QUEUED, JobStatus.RUNNING):
                return {"stale": True}
            if job.cancel_requested:
                return {"cancelled": True}
            if job.pause_requested:
                return {"paused": {}}
            return self._run_child(job, stop)
        except MeuseError as error:
            return {"error": error.to_dict()}
        except Exception as error:
            log.exception("job %s failed", job_id)
            internal = MeuseError(Code.INTERNAL, f"{type(error).__name__}: {error}")
            return {"error": internal.to_dict()}
        finally:
            del self._stops[f"{job_id}:{attempt}"]

    def _run_child(self, job: Job, stop: process.Stop) -> dict[str, Any]:
        patiently(lambda: self._store.update(job.id, attempt=job.attempt, status=JobStatus.RUNNING))
        folder = self.folder_of(job)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        inputs = patiently(lambda: self._kinds[job.kind].prepare(job))
        document = {"job": job.id, "kind": job.kind, "spec": job.spec, "inputs": inputs}
        fresh = folder / "job.json.new"
        fresh.write_text(json.dumps(document))
        fresh.replace(folder / "job.json")
        reporter = self._reporters[job.id] = Reporter(self._store, job.id)
        try:
            return process.run(folder, self._start_child(job.kind), reporter, stop, reporter.idle)
        finally:
            del self._reporters[job.id]
            reporter.close()

    def _finish(self, job_id: str, attempt: int, outcome: dict[str, Any]) -> None:
        job = self._store.get(None, job_id)
        if job.attempt != attempt or job.status is JobStatus.PAUSED or "stale" in outcome:
            return
        if job.status.ended:
            self._tidy(job)  # this step ran before, perhaps not to its end
            return
        if "result" in outcome:
            try:
                outcome = {"result": self._kinds[job.kind].complete(job, outcome["result"])}
            except MeuseError as error:
                outcome = {"error": error.to_dict()}
        self._kinds[job.kind].ended(job, self.folder_of(job), "error" not in outcome)
        if "result" in outcome:
            job = self._store.update(
                job_id, status=JobStatus.SUCCEEDED, progress=1.0, result=outcome["result"]
            )
        elif "error" in outcome:
            told = dict(outcome["error"])
            report = told.pop("report", None)  # of work that was done and is not accepted
            result = None if report is None else {"report": report}
            job = self._store.update(job_id, status=JobStatus.FAILED, error=told, result=result)
        elif "paused" in outcome:
            job = self._store.update(job_id, status=JobStatus.PAUSED)
            if not job.cancel_requested:
                return
            job = self._store.request_cancel(job_id)  # which came while it paused
        else:
            stopped = MeuseError(Code.CANCELLED, "the job was cancelled")
            job = self._store.update(job_id, status=JobStatus.CANCELLED, error=stopped.to_dict())
        self._tidy(job)

    def _tidy(self, job: Job) -> None:
        """Work files of an ended job go, with success its checkpoints too; its log stays."""
        kept = [] if job.status is JobStatus.SUCCEEDED else ["checkpoint"]
        for path in self.folder_of(job).glob("*"):
            if path.name == "log.txt" or any(path.name.startswith(name) for name in kept):
                continue
            _remove(path)

    def _sweep(self) -> None:
        """Checkpoints that nobody has gone on from go after a day."""
        if time.monotonic() - self._swept < SWEEP_S:
            return
        self._swept = time.monotonic()
        for path in self._folder.glob("*/*/checkpoint*"):
            if time.time() - path.stat().st_mtime < KEEP_S:
                continue
            try:
                if self._store.get(None, path.parent.name).status.ended:
                    _remove(path)
            except MeuseError:
                _remove(path)  # nobody knows such a job


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _not(job: Job, what: str, hint: str) -> MeuseError:
    return MeuseError(
        Code.CONFLICT, f"job {job.id} is {job.status} and cannot be {what}", field="job_id",
        hint=hint,
    )  # fmt: skip


def _workflow_id(job: Job | QueuedJob) -> str:
    return f"{job.id}:{job.attempt}"
