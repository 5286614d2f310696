"""A replica whose tokens are bytes and whose engine obeys: `run_scripted.py <json>`.

The prompt's first letter says what happens: `t` counts out letters, one a step; `f` floods with
kilobytes a step; `e` fails with the step, `E` for good; `h` holds Python's lock for a second in
each step; `u` says which adapter is on, a letter a step, `-` for none; `c` says what follows it, a
letter a step; everything else ends at once. Adapters are named by a letter and a number of
milliseconds, `b20`, that switching to them takes; one that begins with `x` is bad, with `X` fails
within the engine. Its family is hermes, and it holds no text to a grammar.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from meuse.core.errors import Code, MeuseError, invalid
from meuse.serve.generation.engine import Progress, Work
from meuse.serve.generation.load import choices
from meuse.serve.generation.messages import Format
from meuse.serve.generation.prompt import Reader
from meuse.serve.generation.replica import Config, Parts, serve
from meuse.serve.generation.shelf import Shelf


class Bytes:
    """One token for each byte."""

    def __init__(self) -> None:
        self.pieces = [bytes([n]) for n in range(256)]
        self.special = {"<|end|>": 0}

    def encode(self, *texts: str, whole: bool = False, most: int | None = None) -> Any:
        return np.frombuffer("".join(texts).encode(), np.uint8).astype(np.int64)

    def decode(self, ids: list[int]) -> str:
        return bytes(ids).decode("utf-8", "replace")


class Obedient:
    """A `Generator`."""

    context = 1_000_000_000
    cached_tokens = 0

    def __init__(self, max_sequences: int, pause_s: float) -> None:
        self.max_sequences = max_sequences
        self._pause_s = pause_s
        self._works: dict[int, tuple[Work, int]] = {}
        self._number = 0
        self._lost = False
        self._adapter = "-"

    def use(self, adapter: Any) -> None:
        assert not self._works, "what is in progress would go on with another adapter"
        if adapter is not None and adapter.startswith("X"):
            raise RuntimeError("a switch failed, as asked")
        time.sleep(int(adapter[1:] or "0") / 1000 if adapter is not None else 0)
        self._adapter = "-" if adapter is None else adapter[0]

    @property
    def busy(self) -> bool:
        return bool(self._works)

    def check(self, format: Format) -> None:
        if format.kind != "text":
            raise invalid("response_format", "no")

    def add(self, work: Work) -> int:
        self._number += 1
        self._works[self._number] = work, 0
        return self._number

    def cancel(self, handle: int) -> None:
        self._works.pop(handle, None)

    def reset(self) -> bool:
        self._works.clear()
        return not self._lost

    def step(self) -> list[Progress]:
        time.sleep(self._pause_s)
        return [self._advance(handle, *work) for handle, work in list(self._works.items())]

    def _advance(self, handle: int, work: Work, given: int) -> Progress:
        letter = chr(work.ids[0])
        if letter in "eE":
            self._lost = letter == "E"
            raise RuntimeError("a step failed, as asked")
        if letter == "h":
            ctypes.PyDLL(None).usleep(900_000)  # with the lock held
        if letter == "c":
            return self._say(handle, work, given)
        count = {"t": 1, "f": 4096, "h": 1, "u": 1}.get(letter, 0)
        ids = (
            [ord(self._adapter)]
            if letter == "u"
            else [97 + (given + i) % 26 for i in range(min(count, work.max_tokens - given))]
        )
        given += len(ids)
        self._works[handle] = work, given
        ended = "" if count and given < work.max_tokens else "length" if count else "stop"
        if ended:
            del self._works[handle]
        return Progress(handle, ids, [], ended)

    def _say(self, handle: int, work: Work, given: int) -> Progress:
        ids = [int(number) for number in work.ids[1 + given : 2 + given]]
        self._works[handle] = work, given + 1
        if not ids:
            del self._works[handle]
        return Progress(handle, ids, [], "" if ids else "stop")


class Names:
    """As a `Shelf`."""

    def check(self, digest: str) -> None:
        if digest.startswith("x"):
            raise MeuseError(Code.INVALID_DATA, "the adapter: it is bad", field="adapter")

    def take(self, digest: str) -> str:
        return digest


def main() -> None:
    given = json.loads(sys.argv[1])
    home = Path(given.pop("home"))
    engine = Obedient(given.pop("max_sequences", 8), given.pop("pause_s", 0.002))
    serve(
        Parts(
            generator=engine,
            reader=Reader(Bytes(), engine.context, 256, None),
            choice=choices(Bytes(), "hermes"),
            family="hermes",
            shelf=cast("Shelf", Names()),
        ),
        Config(id="r1", version="m:1", socket=home / "r1.sock", page=home / "r1.page", **given),
    )


if __name__ == "__main__":
    main()
