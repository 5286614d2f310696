"""The harness of a sandboxed program: read the order, work, write the outcome.

The program lies in its working folder: `order.json` in, `outcome.json` out, which holds
`result`, `error` (of `MeuseError`) or `failed` (any other exception, with a hint of what the
sandbox had refused). Standard library only.
"""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meuse.core.errors import MeuseError

ORDER, OUTCOME = "order.json", "outcome.json"
_REFUSALS = {errno.EPERM, errno.EACCES, errno.EAGAIN, errno.EROFS, errno.ENOSYS, errno.ENETUNREACH}
_NETWORK = ("socket.__new__", "socket.connect", "socket.bind", "socket.getaddrinfo")
_PROCESSES = ("os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen", "os.exec", "os.spawn")


class _Watch:
    """What was tried, for the hint alone: nothing depends on it."""

    def __init__(self) -> None:
        self.network = self.processes = False
        self.written = ""

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _NETWORK:
            self.network = True
        elif event in _PROCESSES:
            self.processes = True

    def hint(self, error: BaseException) -> str:
        chain: BaseException | None = error
        while chain is not None:
            if isinstance(chain, MemoryError):
                return "The sandbox's memory was used up."
            if isinstance(chain, OSError) and self._is_refusal(chain):
                if self.network and chain.filename is None and not self.processes:
                    return "The sandbox has no network: the code tried to use a socket."
                if self.processes and chain.filename is None:
                    return "The sandbox allows no further process: the code tried to start one."
                return "The sandbox lets code write to its own folder only, and read little else."
            chain = chain.__cause__ or chain.__context__
        return ""

    def _is_refusal(self, error: OSError) -> bool:
        resolver = type(error).__name__ == "gaierror"
        return resolver or error.errno in _REFUSALS


def main(work: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Run `work` on the order; exit status 0 when an outcome was written."""
    watch = _Watch()
    sys.addaudithook(watch)
    order = json.loads(Path(ORDER).read_text())
    outcome: dict[str, Any]
    try:
        outcome = {"result": work(order)}
    except MeuseError as error:
        outcome = {"error": error.to_dict()}
    except BaseException as error:  # foreign code may raise anything, SystemExit too
        traceback.print_exc(file=sys.stdout)
        text = "".join(traceback.format_exception_only(error)).strip()
        outcome = {"failed": text[-1000:], "hint": watch.hint(error)}
    Path(OUTCOME).write_text(json.dumps(outcome))
    sys.stdout.flush()
    return 0
