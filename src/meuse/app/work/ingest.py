"""An ingest job: bring the file together, read it into the canonical form, look at it."""

from __future__ import annotations

import io
import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meuse.core.ports import Blobs, JobContext

# The shares of an ingest job's time that its stages take, roughly.
_ARRIVED, _STORED, _READ, _PROFILED = 0.15, 0.2, 0.7, 0.95


def work(blobs: Blobs, context: JobContext, job: dict[str, Any]) -> dict[str, Any]:
    from meuse.data import formats
    from meuse.data.ingest import ingest
    from meuse.data.options import ReadOptions
    from meuse.data.profile import profile

    spec, inputs = job["spec"], job["inputs"]
    path, table = context.folder / "data", context.folder / "table"
    _bring(context, spec, inputs, path)
    size = path.stat().st_size
    format = spec["format"] or formats.sniff(path, spec.get("url", "").partition("?")[0])
    context.metrics({"bytes": float(size)})
    context.log(f"{size:,} bytes are here, to be read as {format}")
    tenant = inputs["tenant"]
    with path.open("rb") as file:
        digest, _ = blobs.put(tenant, file)
    reading = _Stage(context, _STORED, _READ, size, "bytes", "reading")
    found = ingest(path, format, table, ReadOptions.from_dict(spec["options"]), reading)
    path.unlink()
    context.metrics({"rows": float(found.rows), "columns": float(len(found.columns))})
    context.log(f"{found.rows:,} rows of {len(found.columns):,} columns")
    for warning in found.warnings:
        context.log(warning, "warning")
    looking = _Stage(context, _READ, _PROFILED, found.rows, "rows", "profiling")
    seen = json.dumps(profile(table, progress=looking), allow_nan=False).encode()
    with table.open("rb") as file:
        table_digest, table_bytes = blobs.put(tenant, file)
    profile_digest, _ = blobs.put(tenant, io.BytesIO(seen))
    context.progress(1.0)
    return {
        "digest": digest,
        "bytes": size,
        "format": format,
        "rows": found.rows,
        "columns": [asdict(column) for column in found.columns],
        "warnings": list(found.warnings),
        "skipped": list(found.skipped),
        "table_digest": table_digest,
        "table_bytes": table_bytes,
        "profile_digest": profile_digest,
    }


def _bring(context: JobContext, spec: dict[str, Any], inputs: dict[str, Any], path: Path) -> None:
    """The file to `path`: from a URL, or out of its parts."""
    from meuse.data import fetch, hosts, parts

    if "url" in spec:
        allowed = hosts.parse(inputs["hosts"])
        fetching = _Stage(context, 0.0, _ARRIVED, 0, "bytes", "fetching")
        fetch.fetch(
            spec["url"],
            allowed,
            path,
            max_bytes=inputs["max_bytes"],
            max_seconds=inputs["max_seconds"],
            progress=fetching.at,
        )
        return
    bringing = _Stage(context, 0.0, _ARRIVED, inputs["bytes"], "bytes", "checking parts")
    parts.assemble(Path(inputs["parts"]), path, inputs["sha256"], bringing.of_total)


class _Stage:
    """A stage's progress as a share of the job's, with its pace."""

    def __init__(
        self, context: JobContext, low: float, high: float, total: float, unit: str, note: str
    ) -> None:
        self._context = context
        self._low, self._high = low, high
        self._total, self._unit, self._note = total, unit, note
        self._began = time.monotonic()
        self._next = 0.0

    def __call__(self, fraction: float) -> None:
        self.at(fraction * self._total, self._total)

    def of_total(self, done: float) -> None:
        self.at(done, self._total)

    def at(self, done: float, total: float | None) -> None:
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + 0.25
        fraction = min(1.0, done / total) if total else 0.0
        rate = done / (now - self._began) if now > self._began else 0.0
        self._context.progress(
            self._low + fraction * (self._high - self._low),
            round(rate, 1),
            self._unit,
            note=f"{self._note}: {done:,.0f} {self._unit}",
        )
