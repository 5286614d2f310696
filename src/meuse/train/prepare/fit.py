"""Fitting: the figures of a preparation, from the rows of the training split alone.

Knows numpy and what each kind of column needs; knows no graph but the one that cuts texts.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.nouns import Column, Frame
from meuse.train.prepare import graph
from meuse.train.prepare.numbers import fit_numbers
from meuse.train.prepare.options import PrepareOptions
from meuse.train.prepare.steps import Category, Date, Image, Pieces, Preparation, Tokens
from meuse.train.prepare.words import vocabulary

Told = Callable[[str], None]


class Cutter(Protocol):
    """What cuts texts in its own way, instead of by the words of the rows to train on."""

    def cut(self, column: str, length: int) -> Pieces: ...


_DATE = re.compile(graph.DATE_PATTERN)
_DATE_SHARE = 0.99
_WORDS = 4  # a text column with more words a row, on average, is free text


def fit(
    frame: Frame,
    columns: Sequence[Column],
    options: PrepareOptions | None = None,
    kinds: frozenset[str] = frozenset({"table"}),
    told: Told = lambda message: None,
    cutter: Cutter | None = None,
) -> Preparation:
    """The preparation of these columns for a recipe that takes `kinds` of features.

    By default numbers are standardised with gaps filled by the median, texts that are dates
    become figures of the calendar, other texts one feature per value. A column that is
    missing everywhere is left out, and `told` hears of it. Raises `invalid_data` (field
    `columns.<name>`) for a column that cannot be used as asked, `invalid_field` for options
    that name no column.
    """
    options = options or PrepareOptions()
    _check_names(columns, options)
    kept = [c for c in columns if options.of(c.name).kind != "drop"]
    kept = [c for c in kept if not _empty(frame, c, told)]
    if not kept:
        raise MeuseError(
            Code.INVALID_DATA,
            "no column is left to learn from",
            field="columns",
            hint="Drop fewer columns, or add some that hold values.",
        )
    if "image" in kinds and (made := _image(frame, kept, options, told)) is not None:
        return made
    if "text" in kinds and (made := _text(frame, kept, options, told, cutter)) is not None:
        return made
    if "table" not in kinds:
        wanted = " or ".join(sorted(kinds))
        raise MeuseError(
            Code.INVALID_DATA,
            f"the recipe takes one {wanted} column, and the data has none",
            field="recipe",
            hint="Use mlp or gbdt for tables"
            + (
                "; for pixels in numeric columns set prepare.image.pixels."
                if "image" in kinds
                else "."
            ),
        )
    return _table(frame, kept, options)


def _table(frame: Frame, columns: Sequence[Column], options: PrepareOptions) -> Preparation:
    numeric, categories, dates = [], [], []
    gaps = {c.name: c.missing for c in columns if c.numeric and c.missing}
    _refuse_gaps(gaps, options)
    for column in columns:
        kind = options.of(column.name).kind or _kind(frame, column)
        if column.kind == "image" or kind in ("image", "text"):
            held = "images" if column.kind == "image" else "texts"
            raise MeuseError(
                Code.INVALID_DATA,
                f"the column {column.name!r} holds {held}, which this recipe does not take",
                field=f"columns.{column.name}",
                hint="Drop the column (prepare.drop), set its kind to category, or use another "
                "recipe.",
            )
        if kind == "number":
            if not column.numeric:
                raise invalid(
                    f"prepare.columns.{column.name}.kind", "the column holds text, not numbers"
                )
            numeric.append(column.name)
        elif kind == "date":
            dates.append(_date(column.name, frame.texts[column.name]))
        else:
            categories.append(_category(frame, column, options))
    return Preparation(
        tuple((c.name, "number" if c.numeric else "string") for c in columns),
        fit_numbers(frame, numeric, options, gaps=bool(gaps)) if numeric else None,
        tuple(categories),
        tuple(dates),
    )


def _refuse_gaps(gaps: dict[str, int], options: PrepareOptions) -> None:
    for name, missing in gaps.items():
        if options.of(name).missing == "refuse":
            raise MeuseError(
                Code.INVALID_DATA,
                f"the column {name!r} is missing in {missing:,} rows",
                field=f"columns.{name}",
                hint="Fill the gaps, drop the rows, or let prepare fill them "
                f'(prepare.columns.{name} = {{"missing": "median"}}).',
            )


def _kind(frame: Frame, column: Column) -> str:
    """What a column is when nobody says."""
    if column.numeric:
        return "number"
    if column.kind == "image":
        return "image"
    present = [text for text in frame.texts[column.name].tolist() if text]
    if sum(_DATE.fullmatch(text) is not None for text in present) >= _DATE_SHARE * len(present):
        return "date"
    return "category"


def _category(frame: Frame, column: Column, options: PrepareOptions) -> Category:
    name, chosen = column.name, options.of(column.name)
    if chosen.encode == "hash":
        if column.numeric:
            raise invalid(f"prepare.columns.{name}.encode", "only texts can be hashed")
        return Category(name, "hash", buckets=chosen.buckets)
    values: tuple[str | float, ...]
    if column.numeric:
        found = frame.numbers[:, frame.numeric.index(name)]
        values = tuple(np.unique(found[~np.isnan(found)]).tolist())
    else:
        values = tuple(sorted(set(frame.texts[name].tolist()) - {""}))
    if len(values) > options.max_categories:
        raise MeuseError(
            Code.INVALID_DATA,
            f"the column {name!r} has {len(values):,} distinct values in the rows to train on; "
            f"at most {options.max_categories:,} become features",
            field=f"columns.{name}",
            hint=f'Hash it (prepare.columns.{name} = {{"encode": "hash"}}), drop it '
            "(prepare.drop), or raise prepare.max_categories.",
        )
    return Category(name, chosen.encode, values)


def _date(name: str, texts: NDArray[np.object_]) -> Date:
    days = sorted(
        day for text in texts.tolist() if _DATE.fullmatch(text) and (day := _day(text)) is not None
    )
    if not days:
        raise MeuseError(
            Code.INVALID_DATA,
            f"no value of the column {name!r} is a date",
            field=f"columns.{name}",
            hint="Write dates as 2026-11-24 or 2026-11-24T10:00:00.",
        )
    fill = datetime.date(1970, 1, 1) + datetime.timedelta(days=days[len(days) // 2])
    spread = float(np.std(days))
    return Date(name, fill.isoformat(), float(np.mean(days)), spread if spread > 0 else 1.0)


def _day(text: str) -> int | None:
    try:
        return (datetime.date.fromisoformat(text[:10]) - datetime.date(1970, 1, 1)).days
    except ValueError:
        return None


def _text(
    frame: Frame,
    columns: Sequence[Column],
    options: PrepareOptions,
    told: Told,
    cutter: Cutter | None,
) -> Preparation | None:
    """Token ids of the one text column: the one that is said to be, or the wordiest."""
    texts = [c.name for c in columns if c.kind == "string"]
    chosen = [name for name in texts if options.of(name).kind == "text"]
    if not chosen and texts:
        chosen = [max(texts, key=lambda name: _words(frame.texts[name]))]
    if not chosen:
        return None
    _leave_out(columns, chosen[0], told)
    settings = options.text
    if cutter is not None:
        pieces = cutter.cut(chosen[0], settings.length)
        if pieces.length < settings.length:
            told(f"the encoder has {pieces.length} positions; what is beyond is not looked at")
        return Preparation(((chosen[0], "string"),), pieces=pieces)
    known = vocabulary(frame.texts[chosen[0]], settings)
    tokens = Tokens(chosen[0], known, settings.length, settings.lowercase)
    return Preparation(((chosen[0], "string"),), tokens=tokens)


def _words(texts: NDArray[np.object_]) -> float:
    return float(np.mean([len(text.split()) for text in texts[:1000].tolist()]))


def _image(
    frame: Frame, columns: Sequence[Column], options: PrepareOptions, told: Told
) -> Preparation | None:
    settings = options.image
    if settings.pixels is not None:
        return _pixels(columns, settings.pixels)
    names = [c.name for c in columns if c.kind == "image"]
    if not names:
        return None
    name = names[0]
    _leave_out(columns, name, told)
    _, height, width, channels = frame.images[name].shape
    if settings.size is not None:
        height, width = settings.size
    grey = settings.grey and channels == 3
    image = Image(
        name, height, width, 1 if grey else channels, resize=settings.size is not None, grey=grey
    )
    return Preparation(((name, "image"),), image=image)


def _pixels(columns: Sequence[Column], pixels: Sequence[int]) -> Preparation:
    names = [c.name for c in columns if c.numeric]
    height, width, channels = (*pixels, 1)[:3]
    if len(names) != height * width * channels or len(names) != len(columns):
        raise invalid(
            "prepare.image.pixels",
            f"{height} × {width} × {channels} pixels are {height * width * channels} numeric "
            f"columns; there are {len(names)}, and {len(columns) - len(names)} others",
            "Name other sizes, or drop the columns that are no pixels (prepare.drop).",
        )
    image = Image("", height, width, channels, pixels=True)
    return Preparation(tuple((name, "number") for name in names), image=image)


def _leave_out(columns: Sequence[Column], kept: str, told: Told) -> None:
    others = [c.name for c in columns if c.name != kept]
    if others:
        shown = ", ".join(others[:10]) + (", …" if len(others) > 10 else "")
        told(f"the model learns from {kept!r} alone; left out: {shown}")


def _empty(frame: Frame, column: Column, told: Told) -> bool:
    if column.numeric:
        values = frame.numbers[:, frame.numeric.index(column.name)]
        empty = bool(np.isnan(values).all())
    else:
        empty = column.name in frame.texts and not any(frame.texts[column.name].tolist())
    if empty:
        told(f"the column {column.name!r} is missing in all rows to train on; left out")
    return empty


def _check_names(columns: Sequence[Column], options: PrepareOptions) -> None:
    names = {column.name for column in columns}
    for place, given in (("columns", options.columns), ("drop", options.drop)):
        for name in given:
            if name not in names:
                shown = ", ".join(sorted(names)[:30])
                raise invalid(
                    f"prepare.{place}", f"there is no feature {name!r}", f"Known: {shown}."
                )
