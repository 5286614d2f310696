"""Ports: the seams between stages and what they run on.

A stage asks for one of these and never names who provides it; `meuse.app` does.
Adapters live in `store`, `runtime` and `jobs`. Each port states its whole size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from meuse.core.nouns import (
    Batch,
    DatasetVersion,
    Deployment,
    Job,
    JobEvent,
    KeyRecord,
    LimitRecord,
    ModelVersion,
    NewVersion,
    PlanVersion,
    QueuedJob,
    Scope,
    Signature,
    StoredEvaluation,
    StoredFile,
    Tenant,
    Upload,
)
from meuse.core.states import JobStatus

if TYPE_CHECKING:
    from numpy.typing import NDArray

Metric = Callable[["NDArray[Any]", "NDArray[Any]"], dict[str, float]]
"""(outputs, targets) → figures by name. Outputs are logits [n, k] or values [n]."""

PrepareInputs = Callable[[dict[str, "NDArray[Any]"]], "NDArray[Any]"]
"""A model's raw inputs (texts as `str`) → the features that its network takes."""

BuildModel = Callable[[Mapping[str, Any]], tuple[Any, Signature, PrepareInputs]]
"""(what a weights file says of itself) → (torch module without weights, from features to a
tuple of outputs; the signature; the preparation)."""


class Blobs(Protocol):
    """Bytes by SHA-256, per tenant. What is put is never changed."""

    def put(self, tenant: str, source: BinaryIO) -> tuple[str, int]:
        """Store a stream; return (digest, bytes). Nothing is visible until all is written."""
        ...

    def read(self, tenant: str, digest: str) -> bytes:
        """All bytes, each chunk verified. Raises `not_found`, or `internal` if damaged."""
        ...

    def copy_to(self, tenant: str, digest: str, target: Path) -> None:
        """Write the verified bytes to `target`."""
        ...

    def delete(self, tenant: str, digest: str, before_ms: int) -> bool:
        """Remove bytes that were last put before then; whether they are gone now."""
        ...


class DatasetStore(Protocol):
    def add_version(self, scope: Scope, draft: DatasetVersion) -> tuple[DatasetVersion, bool]:
        """Number and keep a version; (existing, False) when the name has this digest."""
        ...

    def get(self, scope: Scope, name: str, version: int | None = None) -> DatasetVersion:
        """A version, by default the latest. Raises `not_found`."""
        ...

    def list(self, scope: Scope) -> list[DatasetVersion]:
        """The latest version of every dataset, by name."""
        ...

    def delete(self, scope: Scope, name: str, version: int, at_ms: int) -> None:
        """Forget a version and its profiles; its number is never given again. What only it
        needed is told by `orphans`. Raises `not_found`."""
        ...

    def orphans(self) -> Sequence[tuple[Scope, str, int, Sequence[str]]]:
        """(scope, name, version, digests) of deleted versions whose blobs were not swept yet;
        digests that another version of the tenant has are left out."""
        ...

    def swept(self, scope: Scope, name: str, version: int) -> None:
        """The blobs of a deleted version are gone."""
        ...

    def profile(self, scope: Scope, name: str, version: int, asked: str) -> str | None:
        """The digest of the profile that was made for what was `asked` (a digest), if any."""
        ...

    def keep_profile(
        self, scope: Scope, name: str, version: int, asked: str, digest: str
    ) -> None: ...


class UploadStore(Protocol):
    def open(self, upload: Upload, most: int, most_bytes: int) -> tuple[Upload, bool]:
        """Keep a new upload; (the open one, False) when one of the same file under the same
        name is open. Raises `conflict` when the tenant has `most` open ones already, or they
        hold more than `most_bytes` together."""
        ...

    def get(self, scope: Scope | None, upload_id: str) -> Upload:
        """Raises `not_found`, also for another tenant's; scope None sees all."""
        ...

    def touch(self, upload_id: str, at_ms: int) -> None:
        """It is still being sent."""
        ...

    def take(self, upload_id: str, job: str, at_ms: int, instead_of: str = "") -> None:
        """A job reads it from now on. Raises `conflict` when another than `instead_of` does."""
        ...

    def idle(self, before_ms: int) -> list[Upload]:
        """Those that were last touched before then, whatever their state."""
        ...

    def delete(self, upload_id: str) -> None:
        """Forget it; no error when there is none."""
        ...


class FileStore(Protocol):
    def add(self, file: StoredFile, most_bytes: int = 0) -> None:
        """Keep a file; nothing happens when it is there already. Raises `limit_exceeded` when
        its tenant's files would have more than `most_bytes` together (0: no limit)."""
        ...

    def get(self, scope: Scope, file_id: str) -> StoredFile:
        """Raises `not_found`, also for another tenant's and for deleted ones."""
        ...

    def page(
        self, scope: Scope, limit: int, after: str | None, purpose: str | None, newest_first: bool
    ) -> list[StoredFile]:
        """In the order of their ids, which is that of time, behind the id `after`."""
        ...

    def delete(self, scope: Scope, file_id: str, at_ms: int) -> None:
        """Forget it; its bytes are told by `orphans`. Raises `not_found`."""
        ...

    def orphans(self) -> list[tuple[str, str, str]]:
        """(id, tenant, digest) of deleted files; the digest is empty where another needs it."""
        ...

    def swept(self, file_id: str) -> None:
        """The bytes of a deleted file are gone."""
        ...


class BatchStore(Protocol):
    def add(self, batch: Batch) -> None: ...

    def get(self, scope: Scope | None, batch_id: str) -> Batch:
        """Raises `not_found`, also for another tenant's; scope None sees all."""
        ...

    def page(self, scope: Scope, limit: int, after: str | None) -> list[Batch]:
        """Newest first, behind the id `after`."""
        ...

    def reading(self, scope: Scope, file_id: str) -> list[Batch]:
        """Those of this input file that have come to nothing yet."""
        ...

    def cancel(self, batch_id: str, at_ms: int) -> Batch:
        """Remember that it shall stop; when, if it is asked again, stays."""
        ...

    def conclude(self, batch_id: str, outcome: dict[str, Any]) -> None:
        """What it came to, in the place of what an attempt before may have left."""
        ...

    def delete(self, batch_id: str) -> None:
        """Forget it; no error when there is none."""
        ...


class RegistryStore(Protocol):
    def add_version(self, scope: Scope, new: NewVersion) -> ModelVersion:
        """Number and keep a version; the same job twice gives the same version."""
        ...

    def get_version(self, scope: Scope, model: str, version: int) -> ModelVersion: ...

    def versions(self, scope: Scope, model: str) -> list[ModelVersion]: ...

    def models(self, scope: Scope) -> list[str]: ...

    def set_alias(
        self, scope: Scope, model: str, alias: str, version: int, was: int | None = 0
    ) -> None:
        """Point it at a version. `was` is what it must name at this moment, None: nothing,
        0: whatever; raises `conflict` when somebody has moved it since."""
        ...

    def aliases(self, scope: Scope, model: str) -> dict[str, int]: ...

    def delete_alias(self, scope: Scope, model: str, alias: str) -> None: ...

    def set_gate(self, scope: Scope, model: str, alias: str, gate: dict[str, Any] | None) -> None:
        """What every later version must pass (a document of `registry.gate`); None: nothing."""
        ...

    def gates(self, scope: Scope, model: str) -> dict[str, dict[str, Any]]:
        """The gates of the gated aliases, by alias."""
        ...

    def add_evaluation(
        self, scope: Scope, model: str, version: int, job: str, body: dict[str, Any]
    ) -> None:
        """Keep what a version scored in a job; the same job again changes nothing."""
        ...

    def evaluations(
        self, scope: Scope, model: str, version: int, limit: int = 100
    ) -> list[StoredEvaluation]:
        """Newest first."""
        ...


class JobStore(Protocol):
    def add(self, job: Job, most_waiting: int = 0) -> None:
        """Keep a job. Raises `limit_exceeded` when its tenant has `most_waiting` jobs queued or
        paused already (0: no limit)."""
        ...

    def get(self, scope: Scope | None, job_id: str) -> Job:
        """Raises `not_found`, also for another tenant's job; scope None sees all."""
        ...

    def page(
        self,
        scope: Scope,
        limit: int,
        before: str | None,
        kind: str | None = None,
        *,
        saying: Sequence[str] = (),
        lacking: Sequence[str] = (),
    ) -> list[Job]:
        """Newest first; `before` is the id at the end of the page before. Of those of a kind, and
        whose spec, as `json.dumps` writes it, has all of the texts `saying` in it and none of
        `lacking`; whether letters are large or small may not matter."""
        ...

    def unfinished(self) -> list[Job]: ...

    def queued(self) -> list[QueuedJob]:
        """All that wait to be started, oldest first."""
        ...

    def served(self) -> dict[str, int]:
        """When a job of each tenant was last started (ms)."""
        ...

    def update(
        self,
        job_id: str,
        *,
        attempt: int | None = None,
        status: JobStatus | None = None,
        progress: float | None = None,
        metrics: dict[str, float] | None = None,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        live: dict[str, Any] | None = None,
    ) -> Job:
        """Change fields; an ended job keeps its status (raises `conflict`, also when the job
        is at another `attempt`)."""
        ...

    def request_cancel(self, job_id: str) -> Job:
        """A queued or paused job is cancelled, a running one is marked. Raises `conflict` when
        it has ended."""
        ...

    def request_pause(self, job_id: str) -> Job:
        """A queued job is paused, a running one is marked, a paused one left as it is. Raises
        `conflict` when it has ended."""
        ...

    def new_attempt(self, job_id: str, most_waiting: int = 0) -> Job:
        """A paused, failed or cancelled job is queued again, as the next attempt. Raises
        `conflict` in any other state, and `limit_exceeded` as `add` does."""
        ...

    def add_events(self, job_id: str, events: Sequence[tuple[str, dict[str, Any]]]) -> None: ...

    def events(self, job_id: str, after: int, limit: int | None = None) -> list[JobEvent]:
        """Events with a number above `after` in order, the first `limit` of them."""
        ...

    def latest(
        self, job_id: str, before: int | None, limit: int, kinds: Sequence[str]
    ) -> list[JobEvent]:
        """Events of these kinds with a number below `before`, newest first, at most `limit`."""
        ...


class DeploymentStore(Protocol):
    def put(self, deployment: Deployment, if_match: int | None = None) -> Deployment:
        """Keep the spec as the next generation. `if_match` raises `precondition_failed`."""
        ...

    def check_name(self, scope: Scope, name: str) -> None:
        """Raises `conflict` when another project of the tenant has this name."""
        ...

    def get(self, scope: Scope, name: str) -> Deployment: ...

    def list(self, scope: Scope | None) -> list[Deployment]: ...

    def delete(self, scope: Scope, name: str) -> None: ...


class RolloutStore(Protocol):
    """How the rollout of each deployment stands, as a document that only `deploy` reads."""

    def all(self) -> dict[tuple[Scope, str], dict[str, Any]]:
        """By scope and name of the deployment."""
        ...

    def put(self, scope: Scope, name: str, state: dict[str, Any]) -> None: ...

    def delete(self, scope: Scope, name: str) -> None:
        """Forget it; no error when there is none."""
        ...


class AccessStore(Protocol):
    def add_key(self, key: KeyRecord) -> None: ...

    def keys(self, scope: Scope | None) -> list[KeyRecord]:
        """Every key that is not revoked; scope None sees all."""
        ...

    def key(self, key_id: str) -> KeyRecord | None:
        """One key that is not revoked."""
        ...

    def revoke_key(self, scope: Scope | None, key_id: str, at_ms: int) -> None: ...

    def put_tenant(self, name: str, plan: str | None) -> Tenant: ...

    def tenant(self, name: str) -> Tenant: ...

    def tenants(self) -> list[Tenant]: ...

    def put_billing(self, tenant: str, body: Mapping[str, Any]) -> None:
        """Keep how a tenant is invoiced, as `core.billing` has it, in place of what was kept."""
        ...

    def billing(self, tenant: str) -> dict[str, Any] | None: ...

    def plan_changes(self, tenant: str) -> list[tuple[int, str | None]]:
        """Which plan a tenant had from when on (Unix milliseconds), oldest first."""
        ...


class LimitStore(Protocol):
    def add(self, record: LimitRecord, most: int, most_own: int) -> None:
        """Keep a limit. Raises `conflict` when there are `most` already, or `most_own` that
        its tenant's keys have made."""
        ...

    def list(self) -> list[LimitRecord]:
        """Every limit and budget of all tenants, oldest first."""
        ...

    def delete(self, limit_id: str) -> None: ...


class PlanStore(Protocol):
    def put_plan(self, plan: PlanVersion) -> PlanVersion:
        """Keep what a plan says as the next version of its name; said again, it is the one
        that there is. Version and moment are the store's. Raises `conflict` for another
        currency, once a tenant has had the plan."""
        ...

    def plan(self, name: str, version: int | None = None) -> PlanVersion: ...

    def plans(self) -> list[PlanVersion]: ...

    def versions(self, name: str) -> list[PlanVersion]:
        """All versions of one plan, oldest first; none when there is no such plan."""
        ...


class Paused(Exception):  # noqa: N818  nothing went wrong
    """Raised by work that has kept its checkpoint because `JobContext.paused` said so."""


class JobContext(Protocol):
    """What work inside a job child may do: report, keep checkpoints, write files.

    A child may end at any moment and be started again in the same folder. When the job fails
    or is cancelled, what is named `checkpoint*` stays for a later attempt, and nothing else.
    """

    @property
    def folder(self) -> Path:
        """Private to the job; survives a restart of the child."""
        ...

    @property
    def checkpoint(self) -> Path:
        """Where the last checkpoint lies; replaced as a whole by the work itself."""
        ...

    def paused(self) -> bool:
        """Whether the job shall stop for now. Cheap: asked at every safe point, after which
        work keeps a checkpoint and raises `Paused`. Work that never asks is ended after a
        grace period, and goes on from its last checkpoint."""
        ...

    def progress(
        self,
        fraction: float,
        rate: float | None = None,
        unit: str = "rows",
        eta_s: float | None = None,
        note: str | None = None,
    ) -> None:
        """How much is done (0 to 1), at how many `unit`s per second, how many seconds are left
        (by default this follows from how the fraction has grown), and what is being done."""
        ...

    def metrics(self, figures: dict[str, float], **labels: Any) -> None: ...

    def log(self, message: str, level: str = "info") -> None: ...


class Engine(Protocol):
    """Runs one version. Not safe for two threads at once.

    An engine may have `cancel()`: it makes a running `run` end early with an error and does
    nothing when none runs. It alone may be called from another thread.
    """

    @property
    def signature(self) -> Signature: ...

    def run(self, inputs: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """One batch: every input [rows, …] → every output [rows, …].

        Lets other threads run meanwhile: a process in which none does for seconds counts as hung.
        """
        ...


class JobQueue(Protocol):
    """Durable execution of jobs, when their turn comes and their memory is there."""

    def submit(self, job: Job) -> Job:
        """Keep a new job and queue it; the job with its estimate. Raises `too_large` when its
        memory can never be there, `limit_exceeded` when its tenant has too many waiting."""
        ...

    def cancel(self, job: Job) -> Job:
        """Ask a job to stop; returns at once. Raises `conflict` when it has ended."""
        ...

    def pause(self, job: Job) -> Job:
        """Ask a job to keep its checkpoint and stop for now; returns at once."""
        ...

    def resume(self, job: Job) -> Job:
        """Queue a paused job again; one that is queued or runs is left as it is."""
        ...

    def retry(self, job: Job) -> Job:
        """Queue a failed or cancelled job again; it goes on from its checkpoint if it has one."""
        ...

    def positions(self) -> dict[str, int]:
        """The place in the queue (1: next) of every queued job."""
        ...

    def folder_of(self, job: Job) -> Path:
        """Where `log.txt` lies, once it has run."""
        ...


class Launcher(Protocol):
    """Starts and stops replica processes wherever they live."""

    def start(self, replica: str, argv: list[str], label: dict[str, Any]) -> None: ...

    def stop(self, replica: str) -> None:
        """Ask it to drain and end; killed after a grace period."""
        ...

    def kill(self, replica: str) -> None:
        """End it at once: it hears nothing any more."""
        ...

    def label(self, replica: str, label: dict[str, Any]) -> None:
        """Give a replica that runs another label."""
        ...

    def running(self) -> dict[str, dict[str, Any]]:
        """Labels of live replicas by id."""
        ...

    def pids(self) -> dict[str, int]:
        """Processes on this machine by the id of their replica, ending ones included."""
        ...


class EventSink(Protocol):
    def __call__(self, kind: str, data: dict[str, Any]) -> None: ...
