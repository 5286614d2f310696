"""Canonical files as arrays: the columns that are wanted, and a target set apart.

Knows the canonical file; knows nothing of tasks or splits. Memory is the arrays and one row group.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from meuse.core.errors import invalid
from meuse.core.nouns import Column, Frame
from meuse.data import images
from meuse.data.canonical import Canonical, open_table
from meuse.data.faults import MAX_BYTES, bad_data
from meuse.data.ingest import ingest
from meuse.data.options import ReadOptions

IMAGE_SIZE = (64, 64)
"""Height and width that images of different sizes get when nobody says."""
_FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True, slots=True)
class Table:
    """Features and one target, not yet split.

    `y` is [rows]: int64, float64 or text (object), none missing. `aside` holds columns that are
    no features (to split by), as `column` gives them. `place(row)` says where a row stands in
    the upload: `line 7` or `row 6`.
    """

    features: tuple[Column, ...]
    frame: Frame
    target: Column
    y: NDArray[Any]
    place: Callable[[int], str]
    aside: dict[str, NDArray[Any]]
    warnings: tuple[str, ...] = ()


def inspect(
    path: Path, format: str, *, max_bytes: int = MAX_BYTES
) -> tuple[int, tuple[Column, ...]]:
    """(rows, columns) of the upload at `path`, as `ingest` finds them."""
    with tempfile.TemporaryDirectory(prefix="meuse-") as folder:
        found = ingest(path, format, Path(folder) / "table", ReadOptions(max_bytes=max_bytes))
    return found.rows, found.columns


def read(
    path: Path,
    target: str | None = None,
    *,
    drop: Collection[str] = (),
    aside: Collection[str] = (),
    image_size: tuple[int, int] | None = None,
    labels_may_miss: bool = False,
) -> Table:
    """The canonical file at `path` with `target` (None: the last column) set apart.

    `drop` names columns that are no features; those in `aside` are read all the same, to split
    by. Columns without any value are left out, with a warning. Images that differ in size, or
    for which `image_size` is given, are resized.

    Raises `invalid_field` (field `target`) for an unknown column; `invalid_data` (field
    `columns.<name>`) for a number that float32 cannot hold, and (field `target`) for a target that
    is missing or an image.
    """
    table = open_table(path)
    chosen = choose_target(table.columns, target)
    empty = [c for c in table.columns if c.missing == table.rows and c.name != chosen.name]
    left_out = {chosen.name, *drop, *(c.name for c in empty)}
    features = tuple(c for c in table.columns if c.name not in left_out)
    if not features:
        raise bad_data(
            f"no feature is left beside the target {chosen.name!r}",
            field="columns",
            hint="Training needs a column that has values and is not set aside.",
        )
    frame = read_frame(table, features, image_size)
    return Table(
        tuple(_sized(column, frame) for column in features),
        frame,
        chosen,
        _target(table, chosen, labels_may_miss),
        table.place,
        {name: column(table, name) for name in aside},
        tuple(f"the column {c.name!r} has no value: it is left out" for c in empty),
    )


def read_frame(
    table: Canonical, columns: Sequence[Column], image_size: tuple[int, int] | None = None
) -> Frame:
    """These columns of all rows. Raises `invalid_data` for a number that is not finite in float32,
    or a missing image."""
    numeric = tuple(c.name for c in columns if c.kind in ("integer", "float"))
    numbers = np.empty((table.rows, len(numeric)), np.float32)
    texts = {c.name: np.empty(table.rows, object) for c in columns if c.kind == "string"}
    pictures = {
        c.name: np.empty((table.rows, *_size(c, image_size)), np.uint8)
        for c in columns
        if c.kind == "image"
    }
    for start, group in table.groups([c.name for c in columns]):
        end = start + len(group)
        for index, name in enumerate(numeric):
            _put(numbers[start:end, index], group[name], name, start, table.place)
        for name, into in texts.items():
            into[start:end] = _objects(group[name])
        for name, pixels in pictures.items():
            _draw(pixels[start:end], group[name], name, start, table.place)
    return Frame(tuple(c.name for c in columns), numeric, numbers, texts, pictures)


def column(table: Canonical, name: str) -> NDArray[Any]:
    """One column [rows]: int64 when none is missing, else float64 with NaN; text as objects."""
    kind = next(c for c in table.columns if c.name == name)
    if kind.kind == "string":
        parts = [_objects(group[name]) for _, group in table.groups([name])]
        return np.concatenate(parts)
    if kind.kind == "integer" and kind.missing == 0:
        return np.concatenate([group[name].to_numpy() for _, group in table.groups([name])])
    return np.concatenate([_floats(group[name]) for _, group in table.groups([name])])


def choose_target(columns: tuple[Column, ...], target: str | None) -> Column:
    """The column of that name (None: the last). Raises `invalid_field`, `invalid_data`."""
    if len(columns) < 2:
        raise bad_data(
            f"the only column is {columns[0].name!r}; training needs a feature and a target",
            field="columns",
            hint="Separate columns by commas and give at least two.",
        )
    if target is None:
        return columns[-1]
    for candidate in columns:
        if candidate.name == target:
            return candidate
    names = ", ".join(c.name for c in columns[:50]) + (", …" if len(columns) > 50 else "")
    raise invalid("target", f"there is no column {target!r}", f"The columns are: {names}.")


def _sized(column: Column, frame: Frame) -> Column:
    """The column as the frame has it: images are of one size now."""
    if column.kind != "image":
        return column
    return Column(column.name, column.kind, column.missing, frame.images[column.name].shape[1:])


def _size(column: Column, wanted: tuple[int, int] | None) -> tuple[int, int, int]:
    height, width, channels = column.shape
    if wanted is None:
        wanted = IMAGE_SIZE if -1 in (height, width) else (height, width)
    return wanted[0], wanted[1], channels


def _floats(values: pa.ChunkedArray) -> NDArray[np.float64]:
    found: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy()
    return found


def _objects(values: pa.ChunkedArray) -> NDArray[np.object_]:
    """Texts as str, "" for null; equal texts of a row group are one object."""
    coded = pc.dictionary_encode(values.combine_chunks().fill_null(""))
    words = np.empty(len(coded.dictionary), object)
    words[:] = coded.dictionary.to_pylist()
    found: NDArray[np.object_] = words[coded.indices.to_numpy()]
    return found


def _put(
    into: NDArray[np.float32],
    values: pa.ChunkedArray,
    name: str,
    start: int,
    place: Callable[[int], str],
) -> None:
    numbers = _floats(values)
    bad = np.abs(numbers) > _FLOAT32_MAX  # infinity too; false for NaN
    if bad.any():
        row = int(np.argmax(bad))
        raise bad_data(
            f"the column {name!r} has a value that is {numbers[row]} (not finite in float32), "
            f"first at {place(start + row)}",
            field=f"columns.{name}",
            hint="Scale the column, or drop infinite values before uploading.",
        )
    into[:] = numbers


def _draw(
    into: NDArray[np.uint8],
    values: pa.ChunkedArray,
    name: str,
    start: int,
    place: Callable[[int], str],
) -> None:
    if values.null_count:
        row = pc.index(values.is_null().combine_chunks(), True).as_py()
        raise bad_data(
            f"the column {name!r} has no image at {place(start + row)}",
            field=f"columns.{name}",
            hint="Every row needs its image.",
        )
    height, width, channels = into.shape[1:]
    if not pa.types.is_fixed_size_binary(values.type):
        for row, value in enumerate(values):
            into[row] = images.decode(value.as_py(), (height, width), channels)
        return
    flat = values.combine_chunks()
    size = values.type.byte_width
    raw = np.frombuffer(flat.buffers()[1], np.uint8, len(flat) * size, flat.offset * size)
    if size == height * width * channels:
        into[:] = raw.reshape(into.shape)
        return
    raise AssertionError("raw images keep their size")


def check_complete(table: Table) -> None:
    """Every feature is a number and none is missing. Raises `invalid_data`."""
    for feature in table.features:
        if not feature.numeric:
            what = "images" if feature.kind == "image" else "text"
            raise bad_data(
                f"the column {feature.name!r} holds {what}, a feature must be a number",
                field=f"columns.{feature.name}",
                hint="Encode the text as numbers, drop the column, or make it the target.",
            )
    for index, name in enumerate(table.frame.numeric):
        absent = np.isnan(table.frame.numbers[:, index])
        if absent.any():
            raise bad_data(
                f"the column {name!r} has a value that is missing, "
                f"first at {table.place(int(np.argmax(absent)))}",
                field=f"columns.{name}",
                hint="Fill in or drop missing and infinite values before uploading.",
            )


def _target(table: Canonical, target: Column, labels_may_miss: bool) -> NDArray[Any]:
    if target.kind == "image":
        raise bad_data(
            f"the target {target.name!r} is an image",
            field="target",
            hint="Choose the column of labels or numbers: target=label.",
        )
    if target.missing == table.rows:
        raise bad_data(
            f"the target {target.name!r} has no value at all",
            field="target",
            hint="Choose another target.",
        )
    y = column(table, target.name)
    if y.dtype.kind == "O" and labels_may_miss:
        return y
    if y.dtype.kind == "O":
        good = y != ""
    elif y.dtype.kind == "f":
        good = np.abs(y) <= _FLOAT32_MAX
    else:
        return y
    if not good.all():
        row = int(np.argmin(good))
        raise bad_data(
            f"the target {target.name!r} is missing or not finite at {table.place(row)}",
            field="target",
            hint="Every row needs a target: fill it in or drop the row.",
        )
    return y
