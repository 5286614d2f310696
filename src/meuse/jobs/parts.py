"""A file that grows part by part and survives kill -9: no part twice, none missing.

Beside the file lies a list of its parts: one JSON line each, with where the part ends. A part
is on disk before its line is, and a line before the next part begins; what lies behind the
last whole line is cut off when the work starts again.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any


class Parts:
    """Appends to `output`, with the list in `manifest`; one writer at a time."""

    def __init__(self, output: Path, manifest: Path) -> None:
        self.done: list[dict[str, Any]] = []
        """What was told of each part, in order; `end` is where it ends in the file."""
        self._manifest = manifest.open("a+b")
        self._output = output.open("a+b")
        whole = 0
        self._manifest.seek(0)
        for line in self._manifest:
            if not line.endswith(b"\n"):
                break  # torn: its part counts as not written
            self.done.append(json.loads(line))
            whole += len(line)
        self._manifest.truncate(whole)
        if self._output.seek(0, os.SEEK_END) < self._end:
            self.close()
            raise ValueError(f"{output} is shorter than its parts: it was changed from outside")
        self._output.truncate(self._end)

    @property
    def _end(self) -> int:
        return self.done[-1]["end"] if self.done else 0

    def append(self, data: bytes, **facts: Any) -> None:
        """Add a part; when this returns it stays, with `facts` (JSON) in `done`."""
        entry = {**facts, "end": self._end + len(data)}
        self._output.write(data)
        _sync(self._output)
        self._manifest.write(json.dumps(entry).encode() + b"\n")
        _sync(self._manifest)
        self.done.append(entry)

    def __enter__(self) -> Parts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._output.close()
        self._manifest.close()


def _sync(file: Any) -> None:
    file.flush()
    os.fdatasync(file.fileno())
