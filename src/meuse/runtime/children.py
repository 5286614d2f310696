"""One child of the supervisor: its process, its lifeline, its log. Standard library only."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(slots=True)
class Child:
    """`lifeline` is the write end that the child waits on; `label` is control's."""

    name: str
    process: subprocess.Popen[bytes]
    lifeline: int
    started: float
    epoch: int
    label: dict[str, Any] = field(default_factory=dict)
    kill_at: float | None = None

    @property
    def status(self) -> str:
        code = self.process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"exit {code}"


def spawn(
    name: str,
    command: list[str],
    epoch: int,
    logs: Path,
    fds: tuple[int, ...],
    values: Mapping[str, object],
) -> Child:
    """Start `command`, whose parts that begin with a brace are filled in from `values`.

    Output goes to `<logs>/<kind of name>.log`. Raises OSError, and then leaves nothing open.
    """
    logs.mkdir(parents=True, exist_ok=True)
    read_end, write_end = os.pipe()
    try:
        filled = [
            part.format(lifeline=read_end, **values) if part.startswith("{") else part
            for part in command
        ]
        with (logs / f"{name.partition('-')[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                filled,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(read_end, *fds),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which drains
            )
    except BaseException:
        os.close(write_end)
        raise
    finally:
        os.close(read_end)
    return Child(name, process, write_end, time.monotonic(), epoch)
