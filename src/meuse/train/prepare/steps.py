"""What a preparation does, as data: it holds figures and lists, no code and no path.

Standard library and msgspec only: whoever describes a version reads it without numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

DATE_FEATURES = 7


class Numbers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Numeric columns, each by its own figures, in this order for every value:

    missing → `fill`; below `low` → `low`, above `high` → `high`; sign(v)·log(1 + |v|) where
    `log`; then (v - `shift`) / `scale`. Lists are as long as `columns`.
    """

    columns: tuple[str, ...]
    fill: tuple[float, ...] | None
    low: tuple[float, ...] | None
    high: tuple[float, ...] | None
    log: tuple[bool, ...] | None
    shift: tuple[float, ...]
    scale: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("fill", "low", "high", "log", "shift", "scale"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.columns):
                raise ValueError(f"{name} has {len(values)} values for {len(self.columns)} columns")


class Category(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of known values, texts or numbers.

    onehot    one feature per value; an unknown or missing one gives zeros
    ordinal   one feature: the value's place from 1, divided by their number; unknown: 0
    hash      `buckets` features: MurmurHash3 of the text modulo `buckets`; no values are kept
    """

    column: str
    encode: Literal["onehot", "ordinal", "hash"]
    values: tuple[str | float, ...] = ()
    buckets: int = 0

    def __post_init__(self) -> None:
        if self.encode == "hash" and (self.values or not 2 <= self.buckets <= 65_536):
            raise ValueError(f"{self.column!r} is hashed into 2 to 65,536 buckets")
        if self.encode != "hash" and not self.values:
            raise ValueError(f"{self.column!r} has no values")

    @property
    def width(self) -> int:
        """How many features it gives."""
        return {"onehot": len(self.values), "ordinal": 1, "hash": self.buckets}[self.encode]

    @property
    def numeric(self) -> bool:
        return bool(self.values) and not isinstance(self.values[0], str)


class Date(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """ISO 8601 texts → days since 1970 less `shift`, divided by `scale`; and sine and cosine of
    month, weekday and hour. What is no date counts as `fill`."""

    column: str
    fill: str
    shift: float
    scale: float


class Tokens(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text → token ids [length]: 0 padding, 1 unknown, from 2 on `vocabulary` in its order."""

    column: str
    vocabulary: tuple[str, ...]
    length: int
    lowercase: bool


class Pieces(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A text → ids [length] as BERT's tokenizer gives them (WordPiece, arXiv:1609.08144): the
    place of each piece in `vocabulary`, between `first` and `last`; 0 is padding.

    `unknown` stands for a word that has no pieces. What single characters come to is said by
    the flags (`prepare.characters`). Only the first 32 · `length` characters are looked at.
    """

    column: str
    vocabulary: tuple[str, ...]
    length: int
    first: int
    last: int
    unknown: int
    lowercase: bool
    accents: bool
    clean: bool
    chinese: bool

    def __post_init__(self) -> None:
        most = len(self.vocabulary)
        if self.length < 3 or not all(0 < i < most for i in (self.first, self.last, self.unknown)):
            raise ValueError("pieces have three ids within the vocabulary and a length from 3 on")


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image column → uint8 [height, width, channels]; resized when `resize`.

    With `pixels` the image is made of the numeric columns instead, and stays as it is.
    """

    column: str
    height: int
    width: int
    channels: int
    resize: bool = False
    grey: bool = False
    pixels: bool = False

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.channels) < 1:
            raise ValueError("an image has at least one pixel")


class Preparation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How raw rows become `features`.

    `columns` are (name, kind) of all raw columns that the model takes, in their order; kind
    is `number`, `string` or `image`. A table gives numbers, categories and dates side by side
    (float32 [n, f]); a text alone gives token ids (int64 [n, length]), an image alone uint8
    [n, height, width, channels] (float32 when made of numeric columns).
    """

    columns: tuple[tuple[str, str], ...]
    numbers: Numbers | None = None
    categories: tuple[Category, ...] = ()
    dates: tuple[Date, ...] = ()
    tokens: Tokens | None = None
    image: Image | None = None
    pieces: Pieces | None = None

    def __post_init__(self) -> None:
        names = [name for name, _ in self.columns]
        table = [*(self.numbers.columns if self.numbers else ())]
        table += [category.column for category in self.categories]
        table += [date.column for date in self.dates]
        alone = [part.column for part in (self.tokens, self.pieces, self.image) if part is not None]
        if self.image is not None and self.image.pixels:
            alone = []
            if len(names) != self.image.height * self.image.width * self.image.channels:
                raise ValueError("the image has another number of pixels than there are columns")
            table = names
        if not names or len(set(names)) != len(names) or sorted(table + alone) != sorted(names):
            raise ValueError("every column is prepared once")
        if alone and (table or len(alone) > 1):
            raise ValueError("a text or an image is prepared alone")

    @property
    def text(self) -> Tokens | Pieces | None:
        """How a text is cut, if it is one that is prepared."""
        return self.tokens or self.pieces

    @property
    def kind(self) -> Literal["table", "text", "image"]:
        """What networks take it for."""
        if self.text is not None:
            return "text"
        return "table" if self.image is None else "image"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one row's features."""
        if self.text is not None:
            return (self.text.length,)
        if self.image is not None:
            return (self.image.height, self.image.width, self.image.channels)
        numbers = len(self.numbers.columns) if self.numbers else 0
        categories = sum(category.width for category in self.categories)
        return (numbers + categories + DATE_FEATURES * len(self.dates),)

    @property
    def dtype(self) -> str:
        """The type of the features: float32, uint8 or int64."""
        if self.text is not None:
            return "int64"
        return "uint8" if self.image is not None and not self.image.pixels else "float32"

    @property
    def nullable(self) -> bool:
        """Whether numbers may be missing."""
        filled = self.numbers is not None and self.numbers.fill is not None
        return filled or any(category.numeric for category in self.categories)

    @classmethod
    def of_numbers(cls, columns: Sequence[str]) -> Preparation:
        """Numeric columns, taken as they are."""
        names = tuple(columns)
        same = Numbers(names, None, None, None, None, (0.0,) * len(names), (1.0,) * len(names))
        return cls(tuple((name, "number") for name in names), same)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `from_dict` gives it back."""
        built: dict[str, Any] = msgspec.to_builtins(self)
        return built

    @classmethod
    def from_dict(cls, body: dict[str, Any]) -> Preparation:
        """Raises msgspec.ValidationError for another shape of document."""
        return msgspec.convert(body, cls)
