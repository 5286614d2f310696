"""How much memory a model takes in the serving engine: loaded and run in a process of its own.

The process is this module: it reads a folder with the file and some rows, and prints one line of
JSON. Knows engines and the kernel's counters (VmRSS, VmHWM in /proc/self/status).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import ENGINES
from meuse.serve import strings

TIMEOUT_S = 120.0
_CALLS = 10


def peaks(format: str, model: bytes, rows: Mapping[str, NDArray[Any]]) -> dict[int, int]:
    """Bytes by which a fresh process grew at most while it loaded `model` and ran it, by the rows
    of a call: first one at a time, then 32 at once.

    The engine's own code is loaded before it is counted; the file's bytes in memory are part of
    it, as they are in a replica that loads it. Raises `internal`, with the reason, when the
    process does not end well.
    """
    with tempfile.TemporaryDirectory(prefix="memory-") as name:
        folder = Path(name)
        (folder / "model").write_bytes(model)
        names = list(rows)
        texts = {n: strings.decoded(v).tolist() for n, v in rows.items() if v.dtype.kind == "O"}
        numbers = {n: v for n, v in rows.items() if n not in texts}
        arrays: dict[str, Any] = {f"a{names.index(n)}": v for n, v in numbers.items()}
        np.savez(folder / "rows.npz", **arrays)
        order = {"format": format, "names": names, "texts": texts}
        (folder / "order.json").write_text(json.dumps(order))
        # The job's limit holds in it too; its threads must not add to the machine's load.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "meuse.compress.memory", str(folder)]
        try:
            done = subprocess.run(
                command, capture_output=True, timeout=TIMEOUT_S, env=environment, check=True
            )
            found = json.loads(done.stdout.splitlines()[-1])
        except (subprocess.SubprocessError, OSError, ValueError, LookupError) as error:
            raise MeuseError(Code.INTERNAL, f"memory was not measured: {_why(error)}") from error
        return {int(batch): int(grown) for batch, grown in found.items()}


def _why(error: Exception) -> str:
    """What the process said last, or how it ended."""
    said = getattr(error, "stderr", None) or b""
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:300] if lines else str(error)[:300]


def _inside(folder: Path) -> dict[int, int]:
    """The measurement itself, in the fresh process."""
    from meuse.compress.latency import BATCHES, feeds_of
    from meuse.serve import engines

    order = json.loads((folder / "order.json").read_text())
    kept = np.load(folder / "rows.npz")
    texts = {
        name: strings.encoded(np.array(value, object)) for name, value in order["texts"].items()
    }
    rows = {
        name: texts[name] if name in texts else kept[f"a{index}"]
        for index, name in enumerate(order["names"])
    }
    feeds = {batch: feeds_of(rows, batch)[0] for batch in BATCHES}
    for name in next(([n] for n, formats in ENGINES.items() if order["format"] in formats), []):
        engines.prepare(name)
    before = _start()
    engine = engines.load(order["format"], (folder / "model").read_bytes(), threads=1)
    found = {}
    for batch, feed in feeds.items():
        for _ in range(_CALLS):
            engine.run(feed)
        found[batch] = max(0, _status("VmHWM") - before)
    return found


def _start() -> int:
    """Bytes from which growth is counted. The high-water mark is set back where the kernel lets
    us; elsewhere growth below an earlier mark is not seen."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return _status("VmHWM")
    return _status("VmRSS")


def _status(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


if __name__ == "__main__":
    try:
        sys.stdout.write(json.dumps(_inside(Path(sys.argv[1]))) + "\n")
    except MeuseError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(1)
