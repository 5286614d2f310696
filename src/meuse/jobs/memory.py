"""What a job that ran out of memory looks like, and what is said about it.

Three ways: an allocation is refused in the child (its own limit, RLIMIT_DATA), a library
aborts because of that, or the kernel kills the process when the machine has nothing left.
"""

from __future__ import annotations

import errno
import resource
import signal
from pathlib import Path

from meuse.core.errors import Code, MeuseError

_HINT = (
    "Use fewer rows, a smaller batch or a smaller network, or let the operator raise "
    "job_memory_bytes."
)
# PyTorch on the CPU, ONNX Runtime, C++ libraries; threads need memory for their stacks.
_PHRASES = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "can't start new thread",
)
_TAIL = 8192


def is_exhausted(error: BaseException | None) -> bool:
    """Whether an exception, or what caused it, says that memory was refused."""
    while error is not None:
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        if isinstance(error, RuntimeError) and _speaks_of_memory(str(error)):
            return True
        error = error.__cause__
    return False


def exhausted(error: BaseException | None = None) -> MeuseError:
    """The error of a job whose process was refused memory; called in that process."""
    limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
    bound = "" if limit == resource.RLIM_INFINITY else f"; it may have {limit / 2**30:.2f} GiB"
    text = str(error).strip().splitlines() if error is not None else []
    what = f" ({text[0][:200]})" if text else ""
    return MeuseError(
        Code.TOO_LARGE, f"the job ran out of memory{bound}{what}", field="memory", hint=_HINT
    )


def aborted(status: int, log: Path, start: int) -> MeuseError | None:
    """The error of a process that ended itself for want of memory: exit `status` as Popen
    gives it, and what it has written to its log since `start`."""
    if status not in (-signal.SIGABRT, -signal.SIGSEGV, 1):
        return None
    with log.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(start, size - _TAIL))
        text = file.read().decode(errors="replace")
    if not _speaks_of_memory(text):
        return None
    return MeuseError(Code.TOO_LARGE, "the job ran out of memory", field="memory", hint=_HINT)


def kernel_kills(path: Path = Path("/proc/vmstat")) -> int:
    """How many processes the kernel has killed for want of memory; 0 where it does not tell."""
    try:
        lines = path.read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    except (OSError, StopIteration, ValueError):
        return 0


def _speaks_of_memory(text: str) -> bool:
    lower = text.lower()
    return any(phrase in lower for phrase in _PHRASES)
