"""A platform of its own: started in a fresh home on free loopback ports, stopped at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from meuse.client import Client
from meuse.core.errors import Code, MeuseError

START_S = 60.0
STOP_S = 30.0


@contextlib.contextmanager
def running(home: Path) -> Iterator[tuple[str, str, str]]:
    """A platform in `home`: (HTTP URL, gRPC address, administrator key), stopped at the end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
    log = home.parent / "up.log"
    with log.open("wb") as output:
        options = ["--home", str(home), "--http-port", "0", "--grpc-port", "0"]
        process = subprocess.Popen(
            [sys.executable, "-m", "meuse.app", "up", *options],
            stdout=output,
            stderr=output,
            env=environment,
        )
    try:
        what = _started(process, home, log)
        address = f"{what['host']}:{what['http_port']}"
        key = (home / "admin.key").read_text().strip()
        yield f"http://{address}", f"{what['host']}:{what['grpc_port']}", key
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _started(process: subprocess.Popen[bytes], home: Path, log: Path) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(FileNotFoundError, ValueError, MeuseError):
            what: dict[str, Any] = json.loads((home / "run.json").read_text())
            key = (home / "admin.key").read_text().strip()
            with Client(f"http://{what['host']}:{what['http_port']}", key) as client:
                client.models()
                client.usage()
            return what
        time.sleep(0.1)
    tail = "\n".join(
        f"{path.name}: {path.read_text(errors='replace')[-2000:]}"
        for path in (log, *sorted((home / "logs").glob("*.log")))
    )
    raise MeuseError(Code.UNAVAILABLE, f"the platform did not start\n{tail}")
