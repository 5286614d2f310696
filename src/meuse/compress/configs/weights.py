"""Options of the weights of language models."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meuse.compress.configs.unread import check_read
from meuse.compress.method import Method

GROUP = 64
"""Divides the widths of most models, also of those that 128 does not."""

_READ = {
    "f16": (),
    "int8": ("symmetric",),
    "int4": ("symmetric", "group_size", "ratio", "uneven"),
}


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a language model's matrices are stored as; activations stay floats.

    `int8` has a scale for each output. `int4` has one for each group of inputs; embeddings, the
    last layer and what `ratio` leaves are int8. No data is needed.
    """

    precision: Annotated[
        Literal["f16", "int8", "int4"], Meta(description="what the weights become")
    ] = "int8"
    symmetric: Annotated[
        bool | None,
        Meta(description="without zero points; by default int8 has them and int4 has not"),
    ] = None
    group_size: Annotated[
        Literal[16, 32, 64, 128, 256] | None,
        Meta(description=f"int4: weights of one output that share a scale; by default {GROUP}"),
    ] = None
    ratio: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(description="int4: share of the weights; the most sensitive stay int8"),
    ] = None
    uneven: Annotated[
        Literal["refuse", "adjust"] | None,
        Meta(
            description="int4: layers whose inputs are no multiple of group_size: refuse them "
            "(default), or take a smaller group for them"
        ),
    ] = None

    def __post_init__(self) -> None:
        check_read(self, "precision", _READ)


METHODS = (
    Method(
        "weights",
        "weights of a language model as 16-bit floats or as 8- or 4-bit integers",
        "Dettmers et al., arXiv:2208.07339; Frantar et al., arXiv:2210.17323 (groups)",
        "language",
        Weights,
        "meuse.compress.language.weights:compressed",
    ),
)
