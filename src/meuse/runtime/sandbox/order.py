"""What is to run in a sandbox, what it may use, and how it ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20


class NoSandboxError(Exception):
    """The machine offers no tier that is good enough; the text says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandboxed command may use, its descendants included where it says so."""

    wall_s: float = 300.0
    cpu_s: int = 1200
    """Of one process."""
    memory_bytes: int = 4096 * MIB
    """Data of one process, and resident memory of all together."""
    file_bytes: int = 2048 * MIB
    """Of one file."""
    processes: int = 64
    """Processes and threads together."""
    open_files: int = 1024
    output_bytes: int = 4 * MIB
    """Of standard output and error; a command that writes more is ended."""


@dataclass(frozen=True, slots=True)
class Order:
    """`module` is run by this interpreter with `folder` as the working directory: the only
    place that it may write to, beside a private folder for temporary files."""

    module: str
    folder: Path
    arguments: tuple[str, ...] = ()
    readable: tuple[Path, ...] = ()
    """Seen beside the interpreter, its packages and the system's libraries."""
    interpreter: Path | None = None
    """Another interpreter (its environment must be in `readable`); None: this one."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """All that is set, beside PATH, HOME, TMPDIR and the like. No secret gets in by itself."""
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Ended:
    """`status` as of `subprocess` (negative: signal). `stopped` says which limit ended it:
    `time`, `memory` or `output`; None when it ended by itself."""

    tier: int
    status: int
    stopped: str | None
    output: str
    """The end of what it wrote to standard output and error."""
    seconds: float

    @property
    def ok(self) -> bool:
        return self.status == 0 and self.stopped is None

    def why(self, limits: Limits) -> str:
        """What ended it, for people."""
        if self.stopped == "time":
            return f"it ran longer than the {limits.wall_s:g} s allowed"
        if self.stopped == "memory":
            return f"it took more memory than the {limits.memory_bytes / MIB:.0f} MiB allowed"
        if self.stopped == "output":
            return f"it wrote more than the {limits.output_bytes / MIB:.0f} MiB of text allowed"
        status = self.status - 128 if self.status > 128 else -self.status
        if status in (24, 9) and (self.status > 128 or self.status < 0):
            return f"it was ended by signal {status}: processor time or memory ran out"
        if self.status > 128 or self.status < 0:
            return f"it was ended by signal {status}"
        return f"it ended with status {self.status}"
