"""Plain text as a table: one row a line, in one column `text`. Knows nothing of archives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from meuse.data.canonical import Batch, Field, Places, Reading
from meuse.data.csv_format import raise_not_text
from meuse.data.faults import bad_data, check_size
from meuse.data.options import ReadOptions
from meuse.data.text_input import utf8

_PIECE = 4 << 20
MAX_LINE = 16 << 20


def readings(
    path: Path, options: ReadOptions, scratch: Path, tick: Callable[[float], None]
) -> Iterator[Reading]:
    """The one way to read the file; blank lines are passed over."""
    size = path.stat().st_size
    check_size(size, options.max_bytes)
    text = utf8(path, options.encoding, scratch, options.max_bytes)
    size = max(1, text.stat().st_size)
    options.check_columns(["text"])
    blank = False

    def batches() -> Iterator[Batch]:
        nonlocal blank
        done = number = 0
        with text.open("rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            while lines := file.readlines(_PIECE):
                rows = [row for line in lines if (row := line.strip())]
                blank = blank or len(rows) != len(lines)
                for line in lines:
                    number += 1
                    if len(line) > MAX_LINE:
                        raise bad_data(
                            f"the line has more than {MAX_LINE:,} bytes",
                            field=f"line {number}",
                            hint="Send long texts as files of their own, in a zip.",
                        )
                try:
                    yield [pa.array([row.decode() for row in rows], pa.string())]
                except UnicodeDecodeError:
                    raise_not_text(text, "utf-8")
                done += sum(map(len, lines))
                tick(min(1.0, done / size))

    def places() -> Places:
        return Places() if blank else Places("line", ((0, 1),))

    yield Reading((Field("text", "string"),), batches(), places=places)
