"""Options of conversion."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meuse.compress.method import Method

Numbers = Literal["float32", "float16", "int8"]


class Convert(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another format. LiteRT's converter is TensorFlow's, in the toolchain of that name."""

    to: Annotated[
        Literal["openvino", "litert"],
        Meta(description="the format; litert needs the toolchain tensorflow"),
    ] = "openvino"
    numbers: Annotated[
        Numbers,
        Meta(
            description="litert: float32, weights in float16, or weights and activations in int8 "
            "by ranges from rows of the training split"
        ),
    ] = "float32"

    def __post_init__(self) -> None:
        if self.to == "openvino" and self.numbers != "float32":
            raise ValueError(f"numbers: {self.numbers} is for litert; use the method quantize")

    @property
    def toolchain(self) -> str | None:
        """What must be installed for it."""
        return "tensorflow" if self.to == "litert" else None


METHODS = (
    Method(
        "convert",
        "another format: OpenVINO IR, or LiteRT in float32, float16 or int8",
        "",
        "graph",
        Convert,
        "meuse.compress.methods.convert:convert",
    ),
)
