"""Options of quantization, of the finished graph and in training."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

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

GroupSize = Annotated[
    Literal[16, 32, 64, 128, 256],
    Meta(description="weights of one output that share a scale (int4)"),
]


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
        Literal["minmax", "percentile", "entropy"],
        Meta(description="how a range follows from the values of the rows"),
    ] = "minmax"
    percentile: Annotated[
        float,
        Meta(gt=50, le=100, description="share of the values that lie in the range, in percent"),
    ] = 99.99
    rows: Annotated[
        int, Meta(ge=LEAST_ROWS, le=1024, description="rows to calibrate on, at most")
    ] = 512
    embeddings: Annotated[bool, Meta(description="tables of embeddings too")] = True
    group_size: GroupSize = 32
    algorithm: Annotated[
        Literal["rtn", "hqq", "gptq"],
        Meta(
            description="how int4 weights are rounded: to the nearest, by half-quadratic "
            "splitting, or so that later weights make up for it"
        ),
    ] = "rtn"
    uneven: Annotated[
        Literal["refuse", "pad"],
        Meta(description="layers whose inputs are no multiple of group_size"),
    ] = "refuse"
    max_drop: Annotated[
        float,
        Meta(ge=0, le=1, description="mixed: how far the metric may fall on the validation split"),
    ] = 0.005
    least_bits: Annotated[
        Literal[8, 4],
        Meta(description="mixed: 4: also int4 weights, where group_size divides the inputs"),
    ] = 8

    def __post_init__(self) -> None:
        if self.percentile != 99.99 and self.calibration != "percentile":
            raise ValueError("percentile needs calibration: percentile")
        if self.least_bits != 8 and self.mode != "mixed":
            raise invalid("least_bits", f"{self.mode} has bits of its own", "Use mode mixed.")


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
