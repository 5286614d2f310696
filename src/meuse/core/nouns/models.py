"""Versions of models: their files, what they take and answer, where they come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


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

ADAPTER = "adapter"
"""The layout (`serve.generation.manifest`) of a version that is an adapter alone."""

EXTERNAL = "external"
"""The format of the document of a version that another server runs, and the engine of those."""

CUSTOM = "custom"
"""The task of a version that was uploaded: what it predicts is its owner's business."""


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

    @property
    def is_external(self) -> bool:
        """Whether another server answers for it, without a replica."""
        return self.artifacts[0].format == EXTERNAL


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
