"""Options of quantization, of the finished graph and in training."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meuse.compress.configs.unread import check_read
from meuse.compress.method import Method
from meuse.core.errors import invalid

LEAST_ROWS = 16
"""Fewer rows say nothing of the range of an activation."""

Mode = Literal[
    "int8_static",
    "int8_dynamic",
    "mixed",
    "int4",
    "float16",
    "bfloat16",
    "openvino_int8",
    "openvino_int8_weights",
    "openvino_int4_weights",
]

ROWS, PERCENTILE, GROUP_SIZE, MAX_DROP = 512, 99.99, 32, 0.005

_STATIC = ("calibration", "percentile", "rows", "embeddings")
_GROUPS = ("embeddings", "group_size", "uneven")
_READ: dict[Mode, tuple[str, ...]] = {
    "int8_static": _STATIC,
    "int8_dynamic": ("embeddings",),
    "mixed": (*_STATIC, "max_drop", "least_bits", "group_size", "algorithm"),
    "int4": (*_GROUPS, "algorithm", "rows"),
    "float16": (),
    "bfloat16": (),
    "openvino_int8": ("rows",),
    "openvino_int8_weights": (),
    "openvino_int4_weights": _GROUPS,
}


class Quantize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What becomes of the numbers of a finished graph.

    `int8_static` takes ranges of activations from rows of the training split; `int8_dynamic`
    takes them from every batch anew. `mixed` leaves those layers in float32 that cost most, and
    takes those to int4 that cost least.
    `int4`, `float16` and `bfloat16` change what weights are stored as. The `openvino_…` modes
    give OpenVINO IR, which the engine of that name runs.
    """

    mode: Annotated[Mode, Meta(description="what the numbers become")] = "int8_static"
    calibration: Annotated[
        Literal["minmax", "percentile", "entropy"] | None,
        Meta(description="int8_static, mixed: how a range follows from the values of the rows; "
             "default minmax"),
    ] = None  # fmt: skip
    percentile: (
        Annotated[
            float,
            Meta(gt=50, le=100, description="share of the values that lie in the range, in percent;"
                 f" default {PERCENTILE}"),
        ]
        | None
    ) = None  # fmt: skip
    rows: (
        Annotated[
            int,
            Meta(ge=LEAST_ROWS, le=1024, description="rows to calibrate on, at most; default "
                 f"{ROWS}"),
        ]
        | None
    ) = None  # fmt: skip
    embeddings: Annotated[
        bool | None, Meta(description="tables of embeddings too; default true")
    ] = None  # fmt: skip
    group_size: Annotated[
        Literal[16, 32, 64, 128, 256] | None,
        Meta(description=f"int4: weights of one output that share a scale; default {GROUP_SIZE}"),
    ] = None
    algorithm: Annotated[
        Literal["rtn", "hqq", "gptq"] | None,
        Meta(
            description="how int4 weights are rounded: to the nearest (default), by half-quadratic "
            "splitting, or so that later weights make up for it"
        ),
    ] = None
    uneven: Annotated[
        Literal["refuse", "pad"] | None,
        Meta(description="int4: layers whose inputs are no multiple of group_size; default refuse"),
    ] = None
    max_drop: (
        Annotated[
            float,
            Meta(ge=0, le=1, description="mixed: how far the metric may fall on the validation "
                 f"split; default {MAX_DROP}"),
        ]
        | None
    ) = None  # fmt: skip
    least_bits: Annotated[
        Literal[8, 4] | None,
        Meta(description="mixed: 4: also int4 weights, where group_size divides the inputs; "
             "default 8"),
    ] = None  # fmt: skip

    def __post_init__(self) -> None:
        check_read(self, "mode", _READ)
        check_read(self, "calibration", {"percentile": ("percentile",)})
        if self.mode == "mixed":
            check_read(self, "least_bits", {4: ("group_size", "algorithm")})
        if self.mode == "int4":
            check_read(self, "algorithm", {"gptq": ("rows",)})

    @property
    def tables(self) -> bool:
        """Whether tables of embeddings are quantized too."""
        return self.embeddings is not False

    @property
    def size(self) -> int:
        """Weights of a group, in force."""
        return GROUP_SIZE if self.group_size is None else self.group_size

    @property
    def bound(self) -> float:
        """How far the metric may fall, in force."""
        return MAX_DROP if self.max_drop is None else self.max_drop


class Qat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Training with 8-bit weights and activations simulated; exported with its scales.

    The backend `own` gives ONNX with pairs of quantize and dequantize, and a network that later
    steps can change; `nncf` gives OpenVINO IR, which the engine of that name runs.
    """

    backend: Annotated[
        Literal["own", "nncf"],
        Meta(description="who simulates, and what is exported: ONNX, or OpenVINO IR by NNCF"),
    ] = "own"

    epochs: Annotated[int, Meta(ge=1, le=1000, description="epochs of training")] = 3
    learning_rate: Annotated[
        float, Meta(gt=0, le=1, description="of Adam, whatever the parent was trained with")
    ] = 5e-4
    scales: Annotated[
        Literal["learned", "minmax"],
        Meta(description="scales are trained with the weights, or follow the values seen"),
    ] = "learned"
    rows: Annotated[
        int, Meta(ge=LEAST_ROWS, le=8192, description="rows that the first ranges are taken from")
    ] = 512

    def __post_init__(self) -> None:
        if self.backend == "nncf" and self.scales != "learned":
            raise invalid("scales", "NNCF trains its scales", "Leave scales out, or use own.")


METHODS = (
    Method(
        "qat",
        "train with 8-bit weights and activations simulated",
        "Jacob et al., arXiv:1712.05877; Esser et al., arXiv:1902.08153; "
        "Bengio et al., arXiv:1308.3432",
        "network",
        Qat,
        "meuse.compress.methods.qat:qat",
    ),
    Method(
        "quantize",
        "weights and activations as 8-bit integers, or weights as 4-bit integers or halves",
        "Jacob et al., CVPR 2018; Frantar et al., arXiv:2210.17323; Badri & Shaji, HQQ (2023)",
        "graph",
        Quantize,
        "meuse.compress.methods.quantize:quantize",
    ),
)
