"""What `survey` runs inside a tier to see whether it holds; exit status 0: it does.

Tries what must work (write in its folder) and what must not: a socket, a file elsewhere, the
supervisor's secrets, more processes than allowed.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path


def main(secret: str) -> int:
    Path("probe.txt").write_text("here")
    Path(os.environ["TMPDIR"], "probe.txt").write_text("here")
    faults = []
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
        faults.append("a socket could be opened")
    except OSError:
        pass
    try:
        Path(secret).read_text()
        faults.append("a file outside could be read")
    except OSError:
        pass
    try:
        os.kill(os.getppid(), 0)
        if os.getppid() > 2:  # 1 is the first process of a namespace of its own
            faults.append("another process could be signalled")
    except OSError:
        pass
    sys.stdout.write("; ".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
