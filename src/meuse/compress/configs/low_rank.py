"""Options of low-rank factors."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meuse.compress.configs.unread import check_trains
from meuse.compress.method import Method
from meuse.core.errors import invalid

DEFAULT_ENERGY = 0.9


class LowRank(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two thin layers for one, where they are smaller. One of energy, rank and budget."""

    energy: (
        Annotated[
            float,
            Meta(gt=0, le=1, description="share of each layer's output that is kept; default 0.9"),
        ]
        | None
    ) = None
    rank: Annotated[int, Meta(ge=1, description="of every layer")] | None = None
    budget: (
        Annotated[int, Meta(ge=1, description="parameters of the whole network, at most")] | None
    ) = None
    layers: Annotated[
        tuple[str, ...], Meta(description="by name; none: all but the classifier")
    ] = ()
    data: Annotated[
        bool, Meta(description="weigh errors by what the layers see of the training rows")
    ] = True
    convolutions: Annotated[
        Literal["channel", "spatial"],
        Meta(description="fewer channels and a 1x1 kernel, or columns and then rows of the kernel"),
    ] = "channel"
    epochs: Annotated[int, Meta(ge=0, le=1000, description="of training afterwards")] = 3
    learning_rate: Annotated[float, Meta(gt=0, le=1000)] | None = None

    def __post_init__(self) -> None:
        given = [n for n in ("energy", "rank", "budget") if getattr(self, n) is not None]
        if len(given) > 1:
            raise invalid(given[1], f"{' and '.join(given)} ask for different ranks", "Use one.")
        check_trains(self.epochs, self.learning_rate)


METHODS = (
    Method(
        "low_rank",
        "two thin layers for one: fewer parameters and operations",
        "Wang et al., SVD-LLM, arXiv:2403.07378; Jaderberg et al., arXiv:1405.3866",
        "network",
        LowRank,
        "meuse.compress.methods.low_rank:low_rank",
    ),
)
