"""The configs of the recipes that fine-tune language models. Knows no torch: control reads it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MaxTokens = Annotated[
    int, Meta(ge=16, le=1 << 20, description="of an example; by default 1,024 or the context")
]
TooLong = Annotated[
    Literal["truncate", "refuse"], Meta(description="what happens to examples over max_tokens")
]
Every = Annotated[
    int, Meta(ge=0, le=1_000_000, description="updates between validations; 0: each epoch alone")
]


class Full(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every weight of the model is trained."""

    max_tokens: MaxTokens | None = None
    too_long: TooLong = "truncate"
    packing: Annotated[
        bool, Meta(description="several examples in a row, kept apart; changes speed alone")
    ] = True
    gradient_checkpointing: Annotated[
        bool, Meta(description="compute activations twice instead of keeping them")
    ] = False
    evaluate_every: Every = 0


class Lora(Full, frozen=True, forbid_unknown_fields=True):
    """Low-rank updates of some matrices are trained: LoRA (arXiv:2106.09685), with `dora` its
    direction alone, beside a magnitude (arXiv:2402.09353)."""

    rank: Annotated[int, Meta(ge=1, le=512)] = 8
    alpha: (
        Annotated[float, Meta(gt=0, le=4096, description="scale; by default twice the rank")] | None
    ) = None
    dropout: Annotated[float, Meta(ge=0, le=0.9, description="of the adapter's input")] = 0.05
    dora: bool = False
    targets: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...],
        Meta(
            max_length=64,
            description="names of linear layers; by default the projections of attention",
        ),
    ] = ()
    merge: Annotated[
        bool, Meta(description="make a version of the whole model, with the adapter in it, too")
    ] = False

    @property
    def scale(self) -> float:
        """The alpha in force."""
        return float(2 * self.rank) if self.alpha is None else self.alpha
