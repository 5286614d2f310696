"""Options of the clipping of weights."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from meuse.compress.configs.prune import Epochs, Rate
from meuse.compress.configs.unread import check_read, check_trains
from meuse.compress.method import Method
from meuse.core.errors import invalid

BITS, SAMPLES = 8, 512

_READ = {
    "calibrated": ("bits", "error", "channels", "samples"),
    "percentile": ("percentile", "channels"),
    "value": ("value",),
    "norm": ("norm",),
}


class Clip(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bring the largest weights down, so that rounding has finer steps."""

    by: Annotated[
        Literal["calibrated", "percentile", "value", "norm"],
        Meta(description="where to clip: where rounding to `bits` errs least, at a percentile "
             "of the magnitudes, at `value`, or each output's weights to the length `norm`"),
    ] = "calibrated"  # fmt: skip
    value: Annotated[float, Meta(gt=0, le=1e9, description="largest magnitude")] | None = None
    norm: Annotated[float, Meta(gt=0, le=1e9, description="largest Euclidean length")] | None = None
    percentile: (
        Annotated[float, Meta(gt=0, lt=100, description="of the magnitudes; default 99.9")] | None
    ) = None
    bits: (
        Annotated[
            int,
            Meta(ge=2, le=8, description=f"calibrated: what will be rounded to; default {BITS}"),
        ]
        | None
    ) = None
    error: Annotated[
        Literal["outputs", "weights"] | None,
        Meta(description="calibrated: squared error of a layer's outputs on training rows (default)"
             ", or of its weights"),
    ] = None  # fmt: skip
    channels: Annotated[
        bool | None,
        Meta(description="calibrated, percentile: a limit of its own for every output, as rounding "
             "per channel has; default true"),
    ] = None  # fmt: skip
    samples: (
        Annotated[
            int,
            Meta(ge=2, le=100_000, description="calibrated on outputs: training rows to look at; "
                 f"default {SAMPLES}"),
        ]
        | None
    ) = None  # fmt: skip
    layers: Annotated[
        tuple[str, ...], Meta(description="layers to clip by name; none: all")
    ] = ()  # fmt: skip
    epochs: Epochs = 0
    learning_rate: Rate | None = None

    def __post_init__(self) -> None:
        check_read(self, "by", _READ)
        check_read(self, "error", {None: ("samples",), "outputs": ("samples",)})
        check_trains(self.epochs, self.learning_rate)
        for name in ("value", "norm"):
            if self.by == name and getattr(self, name) is None:
                raise invalid(name, f"by {name} needs a {name}", f"Set `{name}` to a number.")


METHODS = (
    Method(
        "clip",
        "the largest weights come down, so that rounding to few bits errs less",
        "Zhao et al., arXiv:1901.09504; Banner et al., arXiv:1810.05723; max-norm: Hinton et "
        "al., arXiv:1207.0580",
        "network",
        Clip,
        "meuse.compress.methods.clip:clip",
    ),
)
