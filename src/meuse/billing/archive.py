"""Raw usage records that are older than a week, from the database into blobs, a day at a time.

Knows the order of things: write the file, name it, put it, then delete the records and call it
done. Killed between any two of these, the next pass goes on: what is named and there is finished,
what is named and not there is forgotten and made anew, so no record is lost or kept twice and no
blob is left that nobody names. The file is written by another process (`make`): Parquet's
library is larger than the ledger.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from meuse.core.clock import Clock, now_ms

_log = logging.getLogger(__name__)

KEEP_MS = 7 * 86_400_000
"""Raw records stay in the database so long."""
TENANT = "usage"
"""Whose blobs they are: a part holds records of many tenants."""
_EVER = 2**62
"""Whenever it was put: nobody else puts blobs there."""
ROWS, SUMS = "rows.parquet", "sums.parquet"


class Store(Protocol):
    """What of the store is needed; a part is a `store.money_archive.Part`."""

    def next_span(self, before_ms: int) -> Any: ...
    def begin(self, part: Any) -> None: ...
    def finish(self, part: Any) -> bool: ...
    def forget(self, part: Any) -> None: ...
    def parts(self, state: str = "done") -> list[Any]: ...


class Blobs(Protocol):
    def put(self, tenant: str, source: BinaryIO) -> tuple[str, int]: ...
    def exists(self, tenant: str, digest: str) -> bool: ...
    def delete(self, tenant: str, digest: str, before_ms: int) -> bool: ...


class Archiver:
    """`make(span, folder)` writes `ROWS` and `SUMS` of a span into a folder and describes the
    part. One at a time."""

    def __init__(
        self,
        store: Store,
        blobs: Blobs,
        make: Callable[[Any, Path], Any],
        folder: Path,
        clock: Clock = now_ms,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._make = make
        self._folder = folder
        self._clock = clock

    def run_once(self, complete_to_ms: int) -> int:
        """Archive what is old enough; how many records. Nothing that was made a
        week before `complete_to_ms` or later: of that more may come, under the same id."""
        self._go_on()
        # Of the earlier one: where the journal is damaged, or the clock has leapt, streams that are
        # a little older than what is complete may still grow.
        before = max(min(self._clock(), complete_to_ms) - KEEP_MS, 0)
        records = 0
        while (span := self._store.next_span(before)) is not None:
            part = self._written(span)
            if not self._store.finish(part):
                # The next pass takes it as it is then.
                self._drop(part)
                break
            records += part.records
            _log.info("archived %d records of %s", part.records, part.span.day)
        return records

    def _written(self, span: Any) -> Any:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir(parents=True)
        try:
            part = self._make(span, self._folder)
            self._store.begin(part)
            for name, digest in ((ROWS, part.blob), (SUMS, part.sums)):
                with (self._folder / name).open("rb") as file:
                    put, _ = self._blobs.put(TENANT, file)
                if put != digest:
                    raise OSError(f"{name} was {digest} when it was made, and is {put}")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)
        return part

    def _go_on(self) -> None:
        """Finish or forget what an earlier pass has left."""
        for part in self._store.parts("putting"):
            there = all(self._blobs.exists(TENANT, d) for d in (part.blob, part.sums))
            if there and self._store.finish(part):
                _log.info("archived %d records of %s, begun before", part.records, part.span.day)
            else:
                self._drop(part)

    def _drop(self, part: Any) -> None:
        kept = {digest for one in self._store.parts() for digest in (one.blob, one.sums)}
        for digest in {part.blob, part.sums} - kept:
            self._blobs.delete(TENANT, digest, _EVER)
        self._store.forget(part)
