"""Options of the pruning of weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meuse.compress.configs.unread import check_trains
from meuse.compress.method import Method
from meuse.core.errors import invalid

DEFAULT_RATE = 0.8
_PATTERN = re.compile(r"([0-9]{1,3}):([0-9]{1,3})")

Rounds = Annotated[int, Meta(ge=1, le=100, description="times that something is removed")]
Epochs = Annotated[int, Meta(ge=0, le=1000, description="of training after each round")]
Rate = Annotated[float, Meta(gt=0, le=1000, description="default: half of the parent's")]


class Prune(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Set the smallest weights to zero, in rounds with training after each."""

    rate: (
        Annotated[
            float,
            Meta(gt=0, lt=1, description="share of weights that are zero in the end; default 0.8"),
        ]
        | None
    ) = None
    scope: Annotated[
        Literal["global", "layer"] | None,
        Meta(description="compare weights of all layers (default), or prune each at the same rate"),
    ] = None
    rates: Annotated[
        Literal["sensitivity"] | dict[str, float],
        Meta(
            description="rates of layers by name, 0 leaves one alone; or 'sensitivity': each "
            "layer as far as it can bear, so that all together reach the rate"
        ),
    ] = msgspec.field(default_factory=dict)
    pattern: (
        Annotated[str, Meta(description="n:m, such as 2:4: of every m inputs in a row n stay")]
        | None
    ) = None
    rounds: Rounds = 4
    epochs: Epochs = 2
    learning_rate: Rate | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rates, dict):
            check_rates(self.rates)
        check_trains(self.epochs, self.learning_rate)
        if self.scope is not None and (self.pattern is not None or self.rates == "sensitivity"):
            told = "a pattern" if self.pattern is not None else "rates by sensitivity"
            raise invalid("scope", f"scope has no effect with {told}", "Leave scope out.")
        if self.pattern is None:
            return
        kept, among = self.kept
        if self.rates == "sensitivity" or (self.rates and any(self.rates.values())):
            raise invalid(
                "rates",
                "a pattern has the same rate in every layer",
                "Leave pattern out, or use rates of 0 for the layers to leave alone.",
            )
        if self.rate is not None and not math.isclose(self.rate, 1 - kept / among):
            raise invalid(
                "rate",
                f"the pattern {self.pattern} has a rate of {1 - kept / among:g}",
                "Leave rate or pattern out.",
            )

    @property
    def kept(self) -> tuple[int, int]:
        """n and m of the pattern."""
        found = _PATTERN.fullmatch(self.pattern or "")
        kept, among = (int(part) for part in found.groups()) if found else (0, 0)
        if not 1 <= kept < among:
            raise invalid(
                "pattern",
                f"{self.pattern!r} is not a pattern",
                "Use n:m with n from 1 to m - 1, such as 2:4 or 4:8.",
            )
        return kept, among

    @property
    def share(self) -> float:
        """The rate in force."""
        return DEFAULT_RATE if self.rate is None else self.rate


def check_rates(rates: Mapping[str, float]) -> None:
    """Refuse a rate by layer that is none. Raises `invalid_field` at `rates.NAME`."""
    for name, rate in rates.items():
        if not 0 <= rate < 1:
            raise invalid(
                f"rates.{name}", f"{rate!r} is not a rate", "Use a number from 0 to below 1."
            )


METHODS = (
    Method(
        "prune",
        "the smallest weights become zero: the packed file shrinks, speed stays",
        "Han et al., arXiv:1506.02626; Zhu and Gupta, arXiv:1710.01878; n:m: arXiv:2104.08378",
        "network",
        Prune,
        "meuse.compress.methods.prune:prune",
    ),
)
