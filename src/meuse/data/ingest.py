"""From an upload in any allowed format to the canonical file. Knows who reads which format."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from meuse.core.errors import invalid
from meuse.core.nouns import Column
from meuse.data import (
    archive_format,
    arrow_format,
    canonical,
    csv_stream,
    jsonl_format,
    npz_format,
    text_format,
)
from meuse.data.canonical import Reading
from meuse.data.faults import Retry
from meuse.data.formats import FORMATS
from meuse.data.options import ReadOptions

TICK_S = 0.5
SKIPPED_TOLD = 1000
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Ingested:
    """What the canonical file holds, and what its owner should know of the reading."""

    rows: int
    columns: tuple[Column, ...]
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """Files that were broken and left out (the first 1,000)."""


def ingest(
    path: Path,
    format: str,
    out: Path,
    options: ReadOptions | None = None,
    progress: Progress = lambda fraction: None,
) -> Ingested:
    """Write the upload at `path` to `out` as canonical Parquet.

    `progress` gets fractions 0…1, at most two a second. Raises `invalid_data` with the line,
    column, array or file at fault, `too_large` above `options.max_bytes` uncompressed, and
    `invalid_field` for another format or an override of a column that is not there. Memory is
    bounded, whatever the size (NPZ: the arrays are in memory, at most 512 MiB). `out` is written
    whole or not at all.
    """
    chosen = options or ReadOptions()
    with tempfile.TemporaryDirectory(dir=out.parent, prefix="ingest-") as scratch:
        part = Path(scratch) / "table"
        for reading in _readings(path, format, chosen, Path(scratch), _Ticker(progress)):
            try:
                written = canonical.write(reading, part)
            except Retry:
                continue
            part.replace(out)
            warnings = (*reading.warnings, *_warnings(reading, written))
            return Ingested(
                written.rows, written.columns, warnings, tuple(reading.skipped[:SKIPPED_TOLD])
            )
    raise AssertionError("the last way to read a format gives a table or refuses the file")


def _readings(
    path: Path, format: str, options: ReadOptions, scratch: Path, tick: Progress
) -> Iterator[Reading]:
    ways: dict[str, Callable[[], Iterator[Reading]]] = {
        "csv": lambda: csv_stream.readings(path, options, ",", scratch, tick),
        "tsv": lambda: csv_stream.readings(path, options, "\t", scratch, tick),
        "jsonl": lambda: jsonl_format.readings(path, options, scratch, tick),
        "parquet": lambda: arrow_format.parquet(path, options, tick),
        "arrow": lambda: arrow_format.ipc(path, options, tick),
        "npz": lambda: npz_format.readings(path, options),
        "zip": lambda: archive_format.readings(path, options, scratch, tick),
        "tar": lambda: archive_format.readings(path, options, scratch, tick),
        "txt": lambda: text_format.readings(path, options, scratch, tick),
    }
    if format not in ways:
        raise invalid(
            "format", f"{format!r} is not a format of data", f"Use one of: {', '.join(FORMATS)}."
        )
    return ways[format]()


def _warnings(reading: Reading, written: canonical.Written) -> Iterator[str]:
    for column in written.columns:
        if column.missing == written.rows:
            yield f"the column {column.name!r} has no value: training leaves it out"
    if reading.skipped:
        yield f"{len(reading.skipped):,} broken files were left out, first {reading.skipped[0]!r}"


class _Ticker:
    """Passes progress on, forwards only and not too often."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._next = 0.0
        self._furthest = 0.0

    def __call__(self, fraction: float) -> None:
        now = time.monotonic()
        if fraction > self._furthest and now >= self._next:
            self._furthest, self._next = fraction, now + TICK_S
            self._progress(min(fraction, 1.0))
