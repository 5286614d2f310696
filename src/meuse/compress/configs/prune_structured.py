"""Options of the pruning of neurons, filters and attention heads."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meuse.compress.configs.prune import Epochs, Rate, Rounds, check_rates
from meuse.compress.configs.unread import check_read, check_trains
from meuse.compress.method import Method

MOST = 0.9


class PruneStructured(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Take out whole neurons, filters and heads, in rounds with training after each."""

    rate: Annotated[
        float,
        Meta(gt=0, lt=1, description="share of neurons, filters and heads that go; 0.3 takes "
             "about half of the multiplications"),
    ] = 0.3  # fmt: skip
    scope: Annotated[
        Literal["layer", "global"],
        Meta(description="the same rate everywhere, or compare channels of all layers; heads "
             "always have the same rate"),
    ] = "layer"  # fmt: skip
    rates: Annotated[
        dict[str, float],
        Meta(description="rates of layers by name, 0 leaves one alone; layers that are added up "
             "have one rate"),
    ] = msgspec.field(default_factory=dict)  # fmt: skip
    importance: Annotated[
        Literal["magnitude", "taylor", "bn_scale"],
        Meta(description="what tells channels apart: the size of their weights, how much the "
             "loss would change, the scale of their batch normalisation"),
    ] = "magnitude"  # fmt: skip
    most: (
        Annotated[
            float,
            Meta(gt=0, lt=1, description="with scope global: what one layer loses at most; default "
                 f"{MOST}"),
        ]
        | None
    ) = None  # fmt: skip
    multiple: Annotated[
        int, Meta(ge=1, le=256, description="widths become multiples of this, where they can")
    ] = 1
    rounds: Rounds = 2
    epochs: Epochs = 3
    learning_rate: Rate | None = None

    def __post_init__(self) -> None:
        check_rates(self.rates)
        check_read(self, "scope", {"global": ("most",)})
        check_trains(self.epochs, self.learning_rate)

    @property
    def bound(self) -> float:
        """What one layer loses at most, in force."""
        return MOST if self.most is None else self.most


METHODS = (
    Method(
        "prune_structured",
        "whole neurons, filters and attention heads go: smaller and faster on every engine",
        "Fang et al., arXiv:2301.12900; Molchanov et al., arXiv:1906.10771; Liu et al., "
        "arXiv:1708.06519; heads: Michel et al., arXiv:1905.10650",
        "network",
        PruneStructured,
        "meuse.compress.methods.structured:prune",
    ),
)
