"""The nouns that stages share, as frozen records. No behaviour beyond small derivations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from meuse.core.plans import PlanVersion as PlanVersion  # noqa: PLC0414  # offered here too
from meuse.core.plans import Price as Price  # noqa: PLC0414
from meuse.core.states import JobStatus

if TYPE_CHECKING:
    from pathlib import Path

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
    # Numbers that may be missing: NaN in a tensor, null in JSON. The model fills them in.
    nullable: bool = False


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
                TensorSpec(
                    r["name"],
                    r["datatype"],
                    tuple(int(n) for n in r["shape"]),
                    bool(r.get("nullable", False)),
                )
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
    """A column of a dataset. `kind`: integer, float, string or image.

    Booleans and dates are strings (`true`, ISO 8601). `shape` of an image is (height, width,
    channels), -1 where rows differ.
    """

    name: str
    kind: str
    missing: int = 0
    shape: tuple[int, ...] = ()

    @property
    def numeric(self) -> bool:
        return self.kind in ("integer", "float")


@dataclass(frozen=True, slots=True)
class DatasetVersion:
    """Data by digest (of the uploaded bytes). `format` is what was uploaded.

    `table_digest` is the blob with the rows in the canonical form, as they were read with
    `options`; empty for versions that are older than that form.
    """

    name: str
    version: int
    digest: str
    format: str
    rows: int
    columns: tuple[Column, ...]
    bytes: int
    created_ms: int
    table_digest: str = ""
    table_bytes: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """Files of an archive that were broken and left out."""

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"


PLAIN_PROFILE = "plain"
"""What a profile without target and split was asked for."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file on its way to a dataset version, in parts or whole.

    `bytes` and `sha256` are what the caller announced (0 and empty: it did not). `options` are
    those of reading. `job` is the id of the job that reads it; empty while parts may come.
    """

    id: str
    scope: Scope
    name: str
    format: str | None
    bytes: int
    part_bytes: int
    sha256: str
    options: dict[str, Any]
    created_ms: int
    updated_ms: int
    job: str = ""


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the OpenAI API: what batches and fine-tuning read, and what they give."""

    id: str
    scope: Scope
    filename: str
    purpose: str
    digest: str
    bytes: int
    created_ms: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Requests of a file, to be answered in idle capacity by the `job` in the name of a `key`.

    `cancelling_ms` is when somebody asked to stop it. `outcome` (JSON) is what the job came to;
    None as long as it has not: how it stands is then how its job stands.
    """

    id: str
    scope: Scope
    key: str
    job: str
    input_file: str
    endpoint: str
    metadata: dict[str, str] | None
    created_ms: int
    expires_ms: int
    cancelling_ms: int | None = None
    outcome: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Inspected:
    """What an upload holds, and the canonical file that it was written to."""

    rows: int
    columns: tuple[Column, ...]
    table: Path
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows by column, raw, as a caller of the served model would send them.

    `names` are all columns in the order of the dataset, `numeric` those that stand in
    `numbers` (float32 [n, len(numeric)], NaN where missing). `texts` are arrays [n] of `str`
    (empty: missing), `images` uint8 [n, height, width, channels].
    """

    names: tuple[str, ...]
    numeric: tuple[str, ...]
    numbers: NDArray[np.float32]
    texts: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: NDArray[np.int64] | slice) -> Frame:
        """These rows, in this order."""
        return Frame(
            self.names,
            self.numeric,
            self.numbers[rows],
            {name: values[rows] for name, values in self.texts.items()},
            {name: values[rows] for name, values in self.images.items()},
        )

    def select(self, names: Sequence[str]) -> Frame:
        """These columns only, in this order."""
        numeric = tuple(name for name in names if name in self.numeric)
        numbers = self.numbers
        if numeric != self.numeric:
            numbers = numbers[:, [self.numeric.index(name) for name in numeric]]
        return Frame(
            tuple(names),
            numeric,
            numbers,
            {name: self.texts[name] for name in names if name in self.texts},
            {name: self.images[name] for name in names if name in self.images},
        )

    @classmethod
    def of_numbers(cls, numbers: NDArray[np.float32], names: Sequence[str] = ()) -> Frame:
        """Numeric columns only; without names they are called `x0`, `x1`, …."""
        named = tuple(names) or tuple(f"x{i}" for i in range(numbers.shape[1]))
        return cls(named, named, numbers)


@dataclass(frozen=True, slots=True)
class Examples:
    """Raw rows and their targets `y`: int64 class indices [n], float32 [n], or for several
    labels a row float32 0 and 1 [n, k]."""

    frame: Frame
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, slots=True)
class Splits:
    """One dataset, split once by seed: what is trained on, selected on and judged on."""

    train: Examples
    validation: Examples
    test: Examples
    features: tuple[Column, ...]
    target: str
    task: str  # classification | multilabel | regression
    classes: tuple[str | int, ...] | None
    positions: tuple[NDArray[np.int64], ...] = ()
    """Rows of the dataset, for each split."""
    warnings: tuple[str, ...] = ()
    spec: dict[str, Any] = field(default_factory=dict)
    """How it was split (`SplitSpec`), for the lineage."""
    by: tuple[NDArray[Any], ...] = ()
    """What it was split by, for each split: the values [n] of the spec's column, if it has one."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file of a version, by digest. `format` is on the allow-list (`onnx`, …)."""

    name: str
    format: str
    digest: str
    bytes: int


ENGINES = {
    "onnx": ("onnx", "packed"),
    "openvino": ("openvino", "onnx"),
    "litert": ("litert",),
    "torch": ("safetensors",),
    "genai": ("llm",),
    "vllm": ("llm",),
    "external": ("external",),
}
"""The formats of artifacts that each engine runs. Nothing of another format is loaded."""

ENCODER = "encoder"
"""The format of an artifact that a text classifier can start from. No engine runs it."""

GENERATION = "text-generation"
"""The task of a version that is a language model."""

CUSTOM = "custom"
"""The task of a version that was uploaded: what it predicts is its owner's business."""


@dataclass(frozen=True, slots=True)
class PromptLookup:
    """Guess what comes next from what followed the last words, `max_ngram_size` at most, earlier
    in the text: `num_assistant_tokens` for each step, which the model then checks."""

    max_ngram_size: int = 3
    num_assistant_tokens: int = 5


@dataclass(frozen=True, slots=True)
class Draft:
    """Let a smaller model of the same vocabulary guess `num_assistant_tokens` for each step, which
    the model then checks. `digest` is its manifest's; found when the deployment is made."""

    model: str
    num_assistant_tokens: int = 3
    digest: str = ""
    weight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How replicas run a version; None leaves it to the artifact and to the settings.

    Of language models alone: `cache_mb` is the memory of the cache of keys and values (MiB),
    `max_sequences` how many are generated at once, `max_batched_tokens` how many tokens one
    step of the engine takes, `max_adapters` how many adapters a replica holds in memory,
    `adapter_turn_ms` for how long it starts requests of one while others wait, `kv_precision` how
    the cache is kept. `prefix_cache`, `prompt_lookup` and `draft_model` are off unless given.
    Of the engine `vllm` alone: those that bear the names of its flags, and `max_loras`, how many
    adapters are active in one batch.
    """

    name: str | None = None
    cores: int | None = None
    cache_mb: int | None = None
    max_sequences: int | None = None
    max_batched_tokens: int | None = None
    max_adapters: int | None = None
    adapter_turn_ms: int | None = None
    kv_precision: str | None = None
    prefix_cache: bool | None = None
    prompt_lookup: PromptLookup | None = None
    draft_model: Draft | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    max_loras: int | None = None


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
    split: dict[str, Any] = field(default_factory=dict)
    """How the data was split (a `SplitSpec`); empty: by ratio and `seed`."""


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
    card: dict[str, Any] = field(default_factory=dict)
    """What its job noted for the card (`registry.card.note`)."""

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
    card: dict[str, Any] = field(default_factory=dict)
    part: int = 0
    """Which of the versions that one job makes: each is registered once."""


@dataclass(frozen=True, slots=True)
class StoredEvaluation:
    """What a version scored in one job; `body` is a record of `evaluate.record`."""

    model: str
    version: int
    job: str
    body: dict[str, Any]
    created_ms: int

    @property
    def ref(self) -> str:
        return f"{self.model}:{self.version}"


PRIORITIES = ("high", "normal", "low")
"""In which order a tenant's own jobs start. No priority overtakes another tenant's jobs."""


@dataclass(frozen=True, slots=True)
class Job:
    """Durable work. `result` is set on success, `error` (an error dict) on failure.

    `started_ms` and `ended_ms` are of the present attempt. `live` is what a running job last
    said of its pace: any of rate (per second), unit, note, and ends_ms, when it will end if it
    goes on like that. `estimate_bytes` is the memory that it will need; None: not known.
    """

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
    priority: str = "normal"
    pause_requested: bool = False
    started_ms: int | None = None
    ended_ms: int | None = None
    estimate_bytes: int | None = None
    live: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """What decides when a job starts: of a queued job, or of one that runs."""

    id: str
    attempt: int
    tenant: str
    priority: str
    created_ms: int
    estimate_bytes: int | None

    @classmethod
    def of(cls, job: Job) -> QueuedJob:
        return cls(
            job.id, job.attempt, job.scope.tenant, job.priority, job.created_ms, job.estimate_bytes
        )


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
class Adapter:
    """A LoRA adapter on a deployment: clients call `deployment:name` for it."""

    name: str
    model: str
    """The version, `polite:1`."""


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
    adapters: tuple[Adapter, ...] = ()

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
        engine = self.engine
        parts: tuple[object, ...] = (engine.name, engine.cores, *bounds)
        generation = (engine.cache_mb, engine.max_sequences, engine.max_batched_tokens)
        parts += generation if any(part is not None for part in generation) else ()
        # A word for each, so that options that came later change no revision that had none.
        for name in (
            "kv_precision", "prefix_cache", "prompt_lookup", "draft_model",
            "tensor_parallel_size", "pipeline_parallel_size", "max_model_len",
            "gpu_memory_utilization", "max_loras",
        ):  # fmt: skip
            if (option := getattr(engine, name)) is not None:
                parts += (f"{name}={option}",)
        # Not which ones: those that come later are brought when they are asked for.
        if self.adapters and engine.name == "vllm":
            # It is told of them when it starts.
            parts += tuple(f"{adapter.name}={adapter.model}" for adapter in self.adapters)
        elif self.adapters:
            parts += ("adapters", engine.max_adapters, engine.adapter_turn_ms)
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
