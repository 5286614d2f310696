"""Options of weight sharing."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meuse.compress.configs.unread import check_trains
from meuse.compress.method import Method

Bits = Annotated[int, Meta(ge=2, le=8)]
Names = Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(min_length=2)]


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights take one of 2^bits values of their layer; zeros of pruned weights stay zero."""

    bits: Annotated[Bits, Meta(description="of a code: 4 means 16 values per layer")] = 4
    layers: Annotated[
        dict[str, Bits], Meta(description="bits of single layers, by their names")
    ] = {}
    init: Annotated[
        Literal["optimal", "linear", "density", "random"],
        Meta(
            description="where k-means starts: at the best clusters of bins, evenly spaced, at "
            "quantiles, at weights drawn"
        ),
    ] = "optimal"
    epochs: Annotated[
        int, Meta(ge=0, le=1000, description="of training the values, the codes held")
    ] = 3
    learning_rate: Annotated[float, Meta(gt=0, le=1000)] | None = None
    groups: Annotated[
        tuple[Names, ...] | Literal["all"],
        Meta(description="layers that have one codebook together; all: all of them"),
    ] = ()
    tied: Annotated[
        tuple[Names, ...],
        Meta(
            description="layers of one shape that get one weight, the mean of theirs, such as "
            "an embedding and the output"
        ),
    ] = ()
    vectors: Annotated[
        Literal["float32", "bfloat16"],
        Meta(
            description="what biases and normalisation are rounded to: bfloat16 takes half of "
            "their bytes in a packed file"
        ),
    ] = "float32"

    def __post_init__(self) -> None:
        check_trains(self.epochs, self.learning_rate)


METHODS = (
    Method(
        "share",
        "weights that take one of a few trained values",
        "Han et al., arXiv:1510.00149",
        "network",
        Share,
        "meuse.compress.methods.share:share",
    ),
)
