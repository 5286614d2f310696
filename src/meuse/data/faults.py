"""How bad data is told: one way to name the place and the fix.

Knows the error type only.
"""

from __future__ import annotations

from meuse.core.errors import Code, MeuseError

MIB = 1024 * 1024
MAX_BYTES = 16 * 1024 * MIB
"""Largest upload, uncompressed, of the formats that are read as streams."""
MAX_LOADED_BYTES = 512 * MIB
"""Largest upload, uncompressed, of those that are read whole (NPZ)."""
MAX_COLUMNS = 100_000
"""Widest table; every column has a name and a place in the dataset's record."""
MAX_NAME = 256
"""Longest name of a column, in characters."""


class Retry(Exception):  # noqa: N818
    """A fast way to read the file gave up; the next one may read it, or name the fault."""


def bad_data(message: str, *, field: str = "body", hint: str | None = None) -> MeuseError:
    """Data that cannot be accepted; `field` is a line, a column, an array or the body."""
    return MeuseError(Code.INVALID_DATA, message, field=field, hint=hint)


def check_size(size: int, max_bytes: int) -> None:
    """Raise `too_large` when a table of `size` uncompressed bytes goes over `max_bytes`."""
    if size > max_bytes:
        raise MeuseError(
            Code.TOO_LARGE,
            f"the table has {size:,} bytes uncompressed; the limit is {max_bytes:,}",
            field="body",
            hint="Split it into several datasets, or drop columns.",
        )


def check_names(names: list[str], place: str) -> None:
    """Column names are present, short, unlike each other and not too many.

    `place` is the field; a name that is too long for one is told by its position.
    """
    header = "The first line must name every column once: age,income,label."
    if len(names) > MAX_COLUMNS:
        raise bad_data(
            f"there are {len(names):,} columns; the limit is {MAX_COLUMNS:,}",
            field=place,
            hint="Drop columns.",
        )
    seen: set[str] = set()
    folded: dict[str, str] = {}
    for position, name in enumerate(names, 1):
        if not name:
            raise bad_data(f"column {position} has no name", field=place, hint=header)
        if len(name) > MAX_NAME:
            raise bad_data(
                f"the name of column {position} has {len(name):,} characters; "
                f"the limit is {MAX_NAME}",
                field=f"column {position}",
                hint="Give the column a short name; CSV names its columns in the first line.",
            )
        if name in seen:
            raise bad_data(f"the column name {name!r} stands twice", field=place, hint=header)
        seen.add(name)
        other = folded.setdefault(name.casefold(), name)
        if other != name:
            raise bad_data(
                f"the column names {other!r} and {name!r} differ in case only",
                field=place,
                hint="Rename one: many tools take them for the same column.",
            )
