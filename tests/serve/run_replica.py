"""A replica as a process: `run_replica.py <json>`; see `gateway.rig`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from meuse.core.nouns import Signature
from meuse.core.ports import Engine
from meuse.serve import engines
from meuse.serve.replica import ReplicaConfig, serve


class PoisonedEngine:
    """Dies for real when an input holds 666: what a crash in native code does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def signature(self) -> Signature:
        return self._engine.signature

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        if any((array == 666).any() for array in inputs.values()):
            os.kill(os.getpid(), signal.SIGKILL)
        return self._engine.run(inputs)


def main() -> None:
    given = json.loads(sys.argv[1])
    engine: Engine = engines.load("onnx", Path(given.pop("model")).read_bytes())
    if given.pop("poison", False):
        engine = PoisonedEngine(engine)
    for name in ("socket", "page"):
        given[name] = Path(given[name])
    serve(engine, ReplicaConfig(**given))


if __name__ == "__main__":
    main()
