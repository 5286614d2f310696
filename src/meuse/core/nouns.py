"""The nouns that stages share, as frozen records. No behaviour beyond small derivations."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from meuse.core.states import JobStatus

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DEFAULT_TENANT = "default"
DEFAULT_PROJECT = "default"

SCOPES = frozenset(
    {"infer", "data", "train", "models", "deploy", "keys", "usage", "billing", "admin"}
)
"""What a key may be allowed to do. `admin` acts for every tenant."""

METERS = (
    "requests", "rows", "prompt_tokens", "cached_tokens", "completion_tokens", "images",
    "audio_ms", "compute_ms", "replica_ms", "training_tokens", "training_ms",
    "storage_byte_hours", "egress_bytes", "cache_hits",
)  # fmt: skip
"""The closed list of meters; every quantity is an integer in the unit that the name says."""


@dataclass(frozen=True, slots=True)
class Scope:
    """Whose things: every row and every blob belongs to a tenant and a project."""

    tenant: str
    project: str = DEFAULT_PROJECT


@dataclass(frozen=True, slots=True)
class Principal:
    """Who acts: the key that called, for whom, and what it may do."""

    key: str
    tenant: str
    project: str
    scopes: frozenset[str]

    @property
    def scope(self) -> Scope:
        return Scope(self.tenant, self.project)

    def may(self, scope: str) -> bool:
        return scope in self.scopes or "admin" in self.scopes


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: `shape` has -1 where the batch is, `datatype` is an OIP name."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Signature:
    """What a version takes and gives. The first output answers `/predict`."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    # Labels by class index for classifiers; the first output then holds indices.
    classes: tuple[str | int, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Signature:
        def specs(rows: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(
                TensorSpec(r["name"], r["datatype"], tuple(int(n) for n in r["shape"]))
                for r in rows
            )

        classes = body.get("classes")
        return cls(
            specs(body["inputs"]),
            specs(body["outputs"]),
            None if classes is None else tuple(classes),
        )


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a dataset. `kind`: integer, float or string."""

    name: str
    kind: str
    missing: int = 0


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """Data by digest (of the stored bytes). `format` is csv or npz."""

    name: str
    version: int
    digest: str
    format: str
    rows: int
    columns: tuple[Column, ...]
    bytes: int
    created_ms: int

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class Examples:
    """Features `x` (float32 [n, f]) and targets `y` (int64 class indices or float32, [n])."""

    x: NDArray[np.float32]
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class Splits:
    """One dataset, split once by seed: what is trained on, selected on and judged on."""

    train: Examples
    validation: Examples
    test: Examples
    features: tuple[str, ...]
    target: str
    task: str  # classification | regression
    classes: tuple[str | int, ...] | None


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of a version, by digest. `format` is on the allow-list (`onnx`, …)."""

    name: str
    format: str
    digest: str
    bytes: int


ENGINES = {
    "onnx": ("onnx",),
    "openvino": ("openvino", "onnx"),
    "torch": ("safetensors",),
}
"""The formats of artifacts that each engine runs. Nothing of another format is loaded."""

CUSTOM = "custom"
"""The task of a version that was uploaded: what it predicts is its owner's business."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How replicas run a version; None leaves it to the artifact and to the settings."""

    name: str | None = None
    cores: int | None = None


@dataclass(frozen=True, slots=True)
class Lineage:
    """Where a version came from; enough to make it again."""

    job: str
    dataset: str
    dataset_digest: str
    code_digest: str
    seed: int
    target: str
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """Immutable. `report` holds what a compress job measured, before and after."""

    model: str
    version: int
    task: str
    artifacts: tuple[Artifact, ...]
    signature: Signature
    metrics: dict[str, float]
    lineage: Lineage
    created_ms: int
    report: dict[str, Any] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        return f"{self.model}:{self.version}"


@dataclass(frozen=True, slots=True)
class NewVersion:
    """A version before it has a number: what a job hands to the registry."""

    model: str
    task: str
    artifacts: tuple[Artifact, ...]
    signature: Signature
    metrics: dict[str, float]
    lineage: Lineage
    report: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """Durable work. `result` is set on success, `error` (an error dict) on failure."""

    id: str
    scope: Scope
    kind: str
    spec: dict[str, Any]
    status: JobStatus
    progress: float
    attempt: int
    metrics: dict[str, float]
    result: dict[str, Any] | None
    error: dict[str, Any] | None
    cancel_requested: bool
    created_ms: int
    updated_ms: int


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One line of a job's story. `kind`: status, progress, metrics or log."""

    seq: int
    ts_ms: int
    kind: str
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeploymentTarget:
    """`model` is a reference as given (`digits:1`, `digits@champion`); weight in percent."""

    model: str
    weight: int = 100


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas of each target, and what decides between `min` and `max`.

    `target` is the ongoing requests that one replica should have; windows and delays are in
    seconds, named as in Knative: averages over `stable_s` decide, over `panic_s` in a burst.
    """

    min: int = 1
    max: int = 1
    target: float = 8.0
    stable_s: float = 20.0
    panic_s: float = 2.0
    zero_after_s: float = 300.0
    """With min 0: how long nothing may be asked before the last replica goes."""
    queue_wait_ms: int | None = None
    """Objective: the mean wait in a replica's queue above which one more is wanted."""


@dataclass(frozen=True, slots=True)
class Batching:
    """Bounds of a replica's batches (rows) and of its queue (requests)."""

    max_rows: int = 64
    max_queue: int = 1024


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that is asked as well for `percent` of the requests; its answers are compared
    with those given, never returned, and metered as internal."""

    model: str
    percent: int = 100


@dataclass(frozen=True, slots=True)
class Canary:
    """How a new version of a followed alias takes over: weight by weight, each for `step_s`
    and at least `min_requests`; back to the old one when it does worse than allowed."""

    steps: tuple[int, ...] = (1, 10, 50, 100)
    step_s: float = 60.0
    min_requests: int = 20
    max_error_rate: float = 0.02
    max_p95_ratio: float | None = 1.5
    """p95 of the new one against the old one's over the same time."""
    max_p95_ms: float | None = None
    min_agreement: float | None = None
    """With a shadow: least share of equal answers."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Answers kept by (version, inputs) in each gateway worker."""

    ttl_s: float = 60.0
    max_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a tenant asked for under a name. `access` is a tuple of tenants or `("*",)`."""

    name: str
    scope: Scope
    generation: int
    targets: tuple[DeploymentTarget, ...]
    scale: Scale
    access: tuple[str, ...]
    timeout_ms: int
    updated_ms: int
    objective_ms: int | None = None
    """The latency that batching and reports aim at; `timeout_ms` is when an answer is late."""
    batching: Batching = Batching()
    sticky: str | None = None
    """What keeps a caller on one target: "key", or "header:<name>"."""
    shadow: Shadow | None = None
    canary: Canary | None = None
    cache: Cache | None = None
    engine: EngineOptions = EngineOptions()

    @property
    def full_name(self) -> str:
        """What clients of other tenants call."""
        return f"{self.scope.tenant}/{self.name}"

    @property
    def key(self) -> str:
        """What it is known by inside: the same name in another project is another one."""
        return f"{self.scope.tenant}/{self.scope.project}/{self.name}"

    @property
    def revision(self) -> str:
        """Names how its replicas are started: they are replaced when it is another."""
        bounds = (self.batching.max_rows, self.batching.max_queue, self.objective_ms)
        parts: tuple[object, ...] = (self.engine.name, self.engine.cores, *bounds)
        return "/".join("" if part is None else str(part) for part in parts)


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key at rest: `hash` is HMAC-SHA-256(pepper, key). The key itself is never stored."""

    id: str
    hash: bytes
    name: str
    scope: Scope
    scopes: frozenset[str]
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Tenant:
    name: str
    plan: str | None
    created_ms: int


@dataclass(frozen=True, slots=True)
class Price:
    """`amount` of the plan's currency (decimal text) per `per` units of a meter."""

    meter: str
    amount: str
    per: int = 1
    model: str = "*"  # "*", a deployment's bare name, or owner/name


@dataclass(frozen=True, slots=True)
class PlanVersion:
    """A price list at a moment. Immutable: a change makes the next version."""

    name: str
    version: int
    currency: str
    prices: tuple[Price, ...]
    created_ms: int

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class Limit:
    """One rule that a request must keep to be admitted, as the gateway knows it.

    It is about the requests that match every subject given: whose they are (`tenant`,
    `project`, `key`) and which deployment they call (`model`, "owner/name"). `kind` says what
    the rest means: `rate`: `amount` requests per `period` (second, minute, hour), at most
    `burst` at once; `concurrency`: `amount` requests in flight; `budget`: `amount` units of
    `meter` per `period` (minute, day, month, total; UTC), refused beyond it when `hard`.
    """

    id: str
    kind: str
    amount: int
    period: str = "total"
    meter: str = "requests"
    burst: int = 0
    hard: bool = True
    tenant: str | None = None
    project: str | None = None
    key: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class LimitRecord:
    """A limit at rest: who made it, and whether with an administrator's key (then only one
    may take it away)."""

    limit: Limit
    scope: Scope
    by_admin: bool
    created_ms: int


@dataclass(frozen=True, slots=True)
class Spent:
    """What a budget's present period holds: used for good, and reserved by requests in flight."""

    used: int
    reserved: int
    resets_ms: int | None
