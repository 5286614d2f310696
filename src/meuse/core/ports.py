"""Ports: the seams between stages and what they run on.

A stage asks for one of these and never names who provides it; `meuse.app` does.
Adapters live in `store`, `runtime` and `jobs`. Each port states its whole size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from meuse.core.nouns import (
    DatasetVersion,
    Deployment,
    Job,
    JobEvent,
    KeyRecord,
    LimitRecord,
    ModelVersion,
    NewVersion,
    PlanVersion,
    Scope,
    Signature,
    Tenant,
)
from meuse.core.states import JobStatus

if TYPE_CHECKING:
    from numpy.typing import NDArray

Metric = Callable[["NDArray[Any]", "NDArray[Any]"], dict[str, float]]
"""(outputs, targets) → figures by name. Outputs are logits [n, k] or values [n]."""

BuildModel = Callable[[Mapping[str, Any]], tuple[Any, Signature]]
"""(what a weights file says of itself) → (torch module without weights, its signature)."""


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


class RegistryStore(Protocol):
    def add_version(self, scope: Scope, new: NewVersion) -> ModelVersion:
        """Number and keep a version; the same job twice gives the same version."""
        ...

    def get_version(self, scope: Scope, model: str, version: int) -> ModelVersion: ...

    def versions(self, scope: Scope, model: str) -> list[ModelVersion]: ...

    def models(self, scope: Scope) -> list[str]: ...

    def set_alias(self, scope: Scope, model: str, alias: str, version: int) -> None: ...

    def aliases(self, scope: Scope, model: str) -> dict[str, int]: ...

    def delete_alias(self, scope: Scope, model: str, alias: str) -> None: ...


class JobStore(Protocol):
    def add(self, job: Job) -> None: ...

    def get(self, scope: Scope | None, job_id: str) -> Job:
        """Raises `not_found`, also for another tenant's job; scope None sees all."""
        ...

    def page(self, scope: Scope, limit: int, before: str | None) -> list[Job]:
        """Newest first; `before` is the id at the end of the page before."""
        ...

    def unfinished(self) -> list[Job]: ...

    def update(
        self,
        job_id: str,
        *,
        status: JobStatus | None = None,
        progress: float | None = None,
        metrics: dict[str, float] | None = None,
        result: dict[str, Any] | None = None,
        error: dict[str, Any] | None = None,
        cancel_requested: bool | None = None,
    ) -> Job:
        """Change fields; an ended job keeps its status (raises `conflict`)."""
        ...

    def add_events(self, job_id: str, events: Sequence[tuple[str, dict[str, Any]]]) -> None: ...

    def events(self, job_id: str, after: int) -> list[JobEvent]: ...


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
    def put_plan(
        self, name: str, currency: str, prices: Sequence[dict[str, Any]]
    ) -> PlanVersion: ...

    def plan(self, name: str, version: int | None = None) -> PlanVersion: ...

    def plans(self) -> list[PlanVersion]: ...


class JobContext(Protocol):
    """What work inside a job child may do: report, keep checkpoints, write files."""

    @property
    def folder(self) -> Path:
        """Private to the job; survives a restart of the child."""
        ...

    @property
    def checkpoint(self) -> Path:
        """Where the last checkpoint lies; replaced as a whole by the work itself."""
        ...

    def progress(self, fraction: float) -> None: ...

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
        """One batch: every input [rows, …] → every output [rows, …]."""
        ...


class JobQueue(Protocol):
    """Durable execution of jobs. `submit` is called after the jobs row is written."""

    def submit(self, job: Job) -> None: ...

    def cancel(self, job: Job) -> None:
        """Ask a queued or running job to stop; returns at once."""
        ...


class Launcher(Protocol):
    """Starts and stops replica processes wherever they live."""

    def start(self, replica: str, argv: list[str], label: dict[str, Any]) -> None: ...

    def stop(self, replica: str) -> None:
        """Ask it to drain and end; killed after a grace period."""
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
