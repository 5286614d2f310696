"""The config of boosted trees. Knows no LightGBM: control reads it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Positive = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(gt=0, le=1)]


class Gbdt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Boosted trees: how many, how large, how fast they learn."""

    trees: Annotated[int, Meta(ge=1, le=20_000, description="most trees (per class)")] = 1000
    rate: Annotated[float, Meta(gt=0, le=1, description="share of each tree that counts")] = 0.05
    leaves: Annotated[int, Meta(ge=2, le=4096, description="leaves of a tree")] = 31
    depth: Annotated[int, Meta(ge=0, le=64, description="deepest leaf; 0: any")] = 0
    leaf_rows: Annotated[Positive, Meta(description="fewest rows in a leaf")] = 20
    row_share: Annotated[Share, Meta(description="rows that a tree sees")] = 1.0
    feature_share: Annotated[Share, Meta(description="features that a tree sees")] = 1.0
    l1: Annotated[float, Meta(ge=0)] = 0.0
    l2: Annotated[float, Meta(ge=0)] = 0.0
    bins: Annotated[int, Meta(ge=2, le=4096, description="values told apart per feature")] = 255
    loss: Annotated[
        Literal["l2", "l1", "huber", "quantile"], Meta(description="of a regression")
    ] = "l2"
    quantile: Annotated[
        float, Meta(gt=0, lt=1, description="the quantile that loss `quantile` aims at")
    ] = 0.5
    patience: Annotated[
        int, Meta(ge=0, description="trees without a better validation, then stop; 0: never")
    ] = 50
    class_weights: Annotated[
        Literal["none", "balanced"], Meta(description="balanced: by the inverse of their share")
    ] = "none"
    seed: Annotated[int, Meta(ge=0, lt=2**31)] = 0
