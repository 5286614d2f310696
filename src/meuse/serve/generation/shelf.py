"""The adapters that an engine can be given now: brought when they are first asked for, the one
that was not asked for longest put away for another.

An adapter is named by the digest of its version's document, so that what was found of it once
stays so, and a replica needs to be told of none before it is asked for. Knows blobs by their
digest and the judge of files; knows no engine.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import ADAPTER
from meuse.serve.generation import lora, manifest
from meuse.serve.generation.lora import Layer

_MOST_JUDGED = 4096
"""Of the last so many it is known whether they are adapters of this base."""

Fetch = Callable[[str], bytes]
"""The blob with this digest, verified. Raises `MeuseError`."""
Make = Callable[[bytes, float], Any]
"""(a file for the engine, its scale) → what the engine is switched by."""


class Shelf:
    """At most `most` adapters for a base of these layers, in an engine that was made for those on
    the layers `able` alone."""

    def __init__(
        self,
        fetch: Fetch,
        layers: Mapping[str, Layer],
        able: Mapping[str, Layer],
        make: Make,
        most: int,
    ) -> None:
        self._fetch = fetch
        self._layers = layers
        self._able = able
        self._make = make
        self._most = most
        self._here: OrderedDict[str, Any] = OrderedDict()
        self._judged: dict[str, MeuseError | None] = {}
        """What is wrong with each: None for nothing. Never raised itself: an exception keeps all
        that it was raised through, and grows each time."""

    def __len__(self) -> int:
        return len(self._here)

    def check(self, digest: str) -> None:
        """Raises what `take` would, for what will never be one. Reads none twice for that, and
        puts none away, for others may be waiting for it."""
        if digest in self._here or (digest in self._judged and self._judged[digest] is None):
            return
        if len(self._here) < self._most:
            self.take(digest)
        else:
            self._read(digest)

    def take(self, digest: str) -> Any:
        """What the engine is switched by. Raises `invalid_data` for what is no adapter of this
        base, and what fetching raises."""
        found = self._here.get(digest)
        if found is None:
            read = self._read(digest)
            found = self._make(lora.for_engine(read, self._layers), read.config.scale)
        self._here[digest] = found
        self._here.move_to_end(digest)
        while len(self._here) > self._most:
            self._here.popitem(last=False)
        return found

    def _read(self, digest: str) -> lora.Lora:
        if (wrong := self._judged.get(digest)) is not None:
            raise _again(wrong)
        try:
            read = self._judge(self._fetch(digest))
        except MeuseError as error:
            if error.code == Code.NOT_FOUND:
                raise MeuseError(Code.UNAVAILABLE, "the adapter's files are not here") from None
            if error.code == Code.INVALID_DATA:
                self._remember(digest, _again(error))
            raise
        self._remember(digest, None)
        return read

    def _remember(self, digest: str, wrong: MeuseError | None) -> None:
        self._judged[digest] = wrong
        if len(self._judged) > _MOST_JUDGED:
            del self._judged[next(iter(self._judged))]

    def _judge(self, body: bytes) -> lora.Lora:
        try:
            described = manifest.decode(body)
        except msgspec.MsgspecError as error:
            raise lora.refused(f"its manifest is not understood: {error}") from None
        files = {file.name: file.digest for file in described.files}
        if described.layout != ADAPTER or set(files) != {lora.CONFIG, lora.WEIGHTS}:
            raise lora.refused(f"its manifest is of the layout {described.layout!r}")
        read = lora.read(self._fetch(files[lora.CONFIG]), self._fetch(files[lora.WEIGHTS]))
        lora.check_fits(read, self._layers)
        if other := sorted(read.pairs.keys() - self._able.keys()):
            # The engine would skip them without a word. A replica that can is on its way.
            raise MeuseError(
                Code.UNAVAILABLE,
                f"this replica was made for adapters on other layers than {other[0]}",
                field="adapter",
            )
        return read


def _again(error: MeuseError) -> MeuseError:
    return MeuseError(error.code, error.message, field=error.field, hint=error.hint)
