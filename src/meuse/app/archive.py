"""A short-lived process that writes or reads usage as Parquet, for the ledger.

`{"do": "part", "span": …, "folder": …}` writes a part of the archive; `{"do": "recount", "from":
ms, "to": ms}` counts raw records again, those of the archive too, and compares with the rollup.
Prints one line of JSON. pyarrow is loaded here: it is larger than the ledger.
"""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meuse.app import commands
from meuse.billing.archive import ROWS, SUMS, TENANT
from meuse.core.errors import Code, MeuseError
from meuse.runtime import lifeline
from meuse.settings import load
from meuse.store.blobs import FolderBlobs
from meuse.store.database import Database
from meuse.store.money_archive import DAY_MS, Digest, Part, Raw, Span, UsageArchive, sums_of

MOST_TOLD = 100
_KEY = (
    "tenant", "bucket_ms", "owner", "project", "key", "model", "version", "meter", "tier", "plan",
)  # fmt: skip


def main(argv: Sequence[str]) -> int:
    options = commands.parse("archive", argv, "work", "lifeline")
    lifeline.watch(options.lifeline, lifeline.end_now)
    settings, work = load(options.home), json.loads(options.work)
    archive = UsageArchive(Database(settings.database("money")))
    try:
        if work["do"] == "part":
            part = make_part(archive, span_of(work["span"]), Path(work["folder"]))
            answer = to_json(part)
        else:
            answer = recount(archive, FolderBlobs(settings.archive), work["from"], work["to"])
    except MeuseError as error:
        answer = {"error": error.to_dict()}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0


def make_part(archive: UsageArchive, span: Span, folder: Path) -> Part:
    """Write the records of a span and their sums into a folder."""
    from meuse.billing import parquet

    digest, sums, seen = Digest(), dict[tuple[Any, ...], int](), [0, 2**62, 0]

    def watched() -> Iterator[Raw]:
        for row in archive.rows(span):
            digest.add(row)
            for key, quantity in sums_of([row]).items():
                sums[key] = sums.get(key, 0) + quantity
            seen[:] = seen[0] + 1, min(seen[1], row[2]), max(seen[2], row[2])
            yield row

    parquet.write_rows(folder / ROWS, watched())
    parquet.write_sums(folder / SUMS, sums)
    return Part(
        span, seen[0], seen[1], seen[2], digest.hex(), parquet.digest_of(folder / ROWS),
        parquet.digest_of(folder / SUMS), (folder / ROWS).stat().st_size,
    )  # fmt: skip


def recount(
    archive: UsageArchive, blobs: FolderBlobs, start_ms: int, end_ms: int
) -> dict[str, Any]:
    """What raw records say of [start, end), day by day, beside what the rollup says. Raises
    `internal` for a part that is damaged."""
    totals = {"archived": 0, "in_database": 0, "rollup_rows": 0}
    found: list[dict[str, Any]] = []
    count, daily, at = 0, 0, start_ms
    while at < end_ms:
        until = min(at - at % DAY_MS + DAY_MS, end_ms)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / ROWS
            day = archive.recount(at, until, functools.partial(_read, blobs, path))
        for name in totals:
            totals[name] += getattr(day, name)
        count += len(day.differences)
        daily += day.daily
        for key, rollup, records in day.differences[: MOST_TOLD - len(found)]:
            named = dict(zip(_KEY, key, strict=True))
            found.append(named | {"rollup": rollup, "records": records})
        at = until
    return {
        **totals, "differences": found, "n_differences": count, "daily_differences": daily
    }  # fmt: skip


def _read(blobs: FolderBlobs, path: Path, part: Part) -> Iterable[Raw]:
    from meuse.billing import parquet

    blobs.copy_to(TENANT, part.blob, path)
    digest = Digest()
    for row in parquet.read_rows(path):
        digest.add(row)
        yield row
    if digest.hex() != part.digest:
        raise MeuseError(
            Code.INTERNAL, f"part {part.span.part} of {part.span.day} is not what was archived"
        )


def to_json(part: Part) -> dict[str, Any]:
    span = asdict(part.span)
    span |= {"first": part.span.first.hex(), "until": part.span.until.hex()}
    return asdict(part) | {"span": span}


def span_of(body: dict[str, Any]) -> Span:
    ids = {name: bytes.fromhex(body[name]) for name in ("first", "until")}
    return Span(**{**body, **ids})


def part_of(body: dict[str, Any]) -> Part:
    return Part(**{**body, "span": span_of(body["span"])})
