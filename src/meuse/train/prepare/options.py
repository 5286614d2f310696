"""What a caller may choose of a preparation. Names and ranges only: control checks with it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

Size = Annotated[int, Meta(ge=1, le=4096)]
Kind = Literal["number", "category", "date", "text", "image", "drop"]


class ColumnOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one column is read. What is not said is taken from the data.

    `kind`: a number, a category (also of numbers), a date (ISO 8601), free text, an image, or
    left out. Numbers: `missing` is what fills gaps, `clip` two quantiles beyond which values
    are cut off, `log` takes sign(v)·log(1 + |v|) first, `scale` how the rest is scaled.
    Categories: `encode` as one feature per value, as one number, or hashed into `buckets`.
    """

    kind: Kind | None = None
    missing: Literal["median", "mean", "zero", "refuse"] | float = "median"
    clip: tuple[Annotated[float, Meta(ge=0, le=1)], Annotated[float, Meta(ge=0, le=1)]] | None = (
        None
    )
    log: bool = False
    scale: Literal["standard", "minmax", "none"] = "standard"
    encode: Literal["onehot", "ordinal", "hash"] = "onehot"
    buckets: Annotated[int, Meta(ge=2, le=65_536)] = 256

    def __post_init__(self) -> None:
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError("clip is two quantiles, the lower first, such as [0.01, 0.99]")


class TextOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How texts become token ids: words and single signs, the most frequent of them known."""

    vocabulary: Annotated[int, Meta(ge=4, le=200_000)] = 8192
    length: Annotated[int, Meta(ge=1, le=4096, description="tokens kept of a text")] = 128
    lowercase: bool = True


class ImageOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How images reach the network.

    `size` resizes to (height, width), so that callers may send any size; without it images
    must have the size of the data. `grey` makes one channel of three. `pixels` says that the
    numeric columns are the pixels of one image (height, width, channels), row by row.
    """

    size: tuple[Size, Size] | None = None
    grey: bool = False
    pixels: Annotated[tuple[Size, ...], Meta(min_length=2, max_length=3)] | None = None


class PrepareOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How raw rows are cleaned and transformed; `columns` by name, `default` for the others.

    `duplicates` drop leaves out rows to train on that say the same as one before them.
    """

    default: ColumnOptions = ColumnOptions()
    columns: dict[str, ColumnOptions] = msgspec.field(default_factory=dict)
    drop: tuple[str, ...] = ()
    duplicates: Literal["keep", "drop"] = "keep"
    max_categories: Annotated[int, Meta(ge=2, le=10_000)] = 200
    text: TextOptions = TextOptions()
    image: ImageOptions = ImageOptions()

    def of(self, column: str) -> ColumnOptions:
        """The options of a column."""
        if column in self.drop:
            return ColumnOptions(kind="drop")
        return self.columns.get(column, self.default)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built
