"""A spare: a replica process with everything imported, that waits to be told its model.

The other end is `deploy.spares`. Until then it costs memory and no time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from meuse.app import commands, replica
from meuse.runtime import lifeline

log = logging.getLogger(__name__)

SENT_WITHIN_S = 1.0


def main(argv: Sequence[str]) -> int:
    options = commands.parse("spare", argv, "sockets id engine", "lifeline cores")
    commands.log_to_stderr(options.id)
    lifeline.watch(options.lifeline, lifeline.end_now)
    prepare(options.engine, options.cores)
    path = Path(options.sockets) / f"{options.id}.spare"
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(8)
        command = wait(listener)
        path.unlink(missing_ok=True)
    # As the supervisor fills it in, for a process that it has already started.
    places = {"{sockets}": options.sockets, "{lifeline}": str(options.lifeline)}
    return replica.run([places.get(part, part) for part in command])


def prepare(engine: str, cores: int) -> None:
    """Import what a replica of this engine needs. Raises ImportError."""
    replica.set_pools(cores)
    import meuse.serve.replica  # noqa: F401
    from meuse.serve import engines

    engines.prepare(engine)


def wait(listener: socket.socket) -> list[str]:
    """Answer pings until a command line comes; its arguments after the role."""
    while True:
        link, _ = listener.accept()
        with link, contextlib.suppress(OSError, ValueError, TypeError):
            link.settimeout(SENT_WITHIN_S)
            message: dict[str, Any] = json.loads(link.makefile("rb").readline())
            link.sendall(b'{"ok": true}\n')
            if "argv" in message:
                role, *rest = message["argv"][3:]
                if role == "replica":
                    return [str(part) for part in rest]
