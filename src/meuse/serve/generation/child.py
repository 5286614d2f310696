"""A server of the OpenAI API as a child: started, waited for, watched, and ended with all it began.

It listens on loopback, where a key of its own keeps other users of the machine out; where, and the
key, stand in `<at>.upstream` before `<at>.sock` listens, which says that it answers. However this
process ends, a guard that waits for that ends the whole family. Standard library only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from meuse.core.errors import Code, MeuseError
from meuse.serve.generation.vllm import Command

log = logging.getLogger(__name__)

GUARD = "read -r _; kill -KILL 0"
SWEEP = 'read -r _; rm -rf -- "$1"'
"""Both read until the pipe's other end is closed. The guard's process group is the family's."""
ASK_S = 0.25
HEALTH_S = 5.0
PATIENCE_S = 10.0
SICK = 3
"""Questions in a row without an answer after which it counts as hung."""
QUIET_S = 120.0
"""How long it may go on with what it has begun; a little less than the reconciler grants."""
END_S = 5.0
_OURS = ("MEUSE_", "PYTHON", "VLLM_API_KEY")


class Guard:
    """Two processes that wait for the end of this one: one ends the family, one removes its
    folder. What is to be ended joins the process group `family`."""

    def __init__(self, folder: Path) -> None:
        theirs, self._lifeline = os.pipe()
        shell = ("/bin/sh", "-c")
        try:
            self._sweep = subprocess.Popen(
                [*shell, SWEEP, "sweep", str(folder)], stdin=theirs, start_new_session=True
            )
            self._guard = subprocess.Popen([*shell, GUARD], stdin=theirs, process_group=0)
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(theirs)
        self.family = self._guard.pid

    def end(self) -> None:
        """End the family now, and wait until its folder is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.family, signal.SIGKILL)
        self._guard.wait()
        os.close(self._lifeline)
        self._sweep.wait()


class Server:
    """`run` it. `at` is the path of its socket without the ending, `folder` what goes with it."""

    def __init__(self, command: Command, at: Path, folder: Path) -> None:
        self._command = command
        self._at = at
        self._folder = folder
        self._port = _port_of(command)
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._last: deque[str] = deque(maxlen=5)
        self._over = threading.Event()

    def leave(self) -> None:
        """End once what it has begun is answered. May be called by a signal's handler."""
        self._news.put("leave")

    def run(self) -> int:
        """The exit status. Raises `unavailable` where it never answers, `invalid_data` where it
        answers to anybody."""
        guard = Guard(self._folder)
        try:
            process = subprocess.Popen(
                self._command.argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(os.environ, self._command.env),
                process_group=guard.family,
            )
        except OSError as error:
            raise MeuseError(Code.UNAVAILABLE, f"vLLM cannot be started: {error}") from None
        finally:
            if "process" not in locals():
                guard.end()
        try:
            return self._stand_for(process)
        finally:
            self._over.set()
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            guard.end()
            process.wait()
            for ending in ("sock", "upstream"):
                self._at.with_name(f"{self._at.name}.{ending}").unlink(missing_ok=True)

    def _stand_for(self, process: subprocess.Popen[bytes]) -> int:
        threading.Thread(target=self._copy, args=(process,), daemon=True).start()
        threading.Thread(target=self._ask, daemon=True).start()
        while True:
            match self._news.get():
                case "ready":
                    self._publish()
                case "leave":
                    return self._drain(process)
                case "sick":
                    log.error("the server does not answer any more")
                    return 1
                case "open":
                    raise MeuseError(Code.INVALID_DATA, "the server answers without its key")
                case _:
                    return self._ended(process)

    def _ended(self, process: subprocess.Popen[bytes]) -> int:
        status = process.wait()
        log.error("the server has ended with status %d", status)
        if self._is_published():
            return 1
        words = " ".join(self._last)[-1000:] or "it said nothing"
        raise MeuseError(Code.UNAVAILABLE, f"vLLM ended with status {status}: {words}")

    def _copy(self, process: subprocess.Popen[bytes]) -> None:
        """What it says goes to our log; then it has ended."""
        assert process.stdout is not None
        key = self._command.env["VLLM_API_KEY"]
        for line in process.stdout:
            said = line.decode(errors="replace").rstrip().replace(key, "…")
            if said:
                self._last.append(said)
                sys.stderr.write(said + "\n")
                sys.stderr.flush()
        process.wait()
        self._news.put("ended")

    def _ask(self) -> None:
        """Until it answers for the first time, then now and then."""
        while not self._over.wait(ASK_S):
            if _status(self._port, "/health") == 200:
                break
        else:
            return
        key, path = self._command.env["VLLM_API_KEY"], "/v1/models"
        if _status(self._port, path) != 401 or _status(self._port, path, key) != 200:
            self._news.put("open")
            return
        self._news.put("ready")
        failures = 0
        while failures < SICK and not self._over.wait(HEALTH_S):
            failures = 0 if _status(self._port, "/health") == 200 else failures + 1
        self._news.put("sick")

    def _publish(self) -> None:
        told = {"port": self._port, "key": self._command.env["VLLM_API_KEY"]}
        path = self._at.with_name(f"{self._at.name}.upstream")
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(told, file)
        path = self._at.with_name(f"{self._at.name}.sock")
        path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listening.bind(str(path))
        listening.listen()
        threading.Thread(target=_greet, args=(listening,), daemon=True).start()
        log.info("the server answers on port %d", self._port)

    def _is_published(self) -> bool:
        return self._at.with_name(f"{self._at.name}.sock").exists()

    def _drain(self, process: subprocess.Popen[bytes]) -> int:
        """Workers ask it no more: each closes its connections as they have been answered."""
        until = time.monotonic() + QUIET_S
        while process.poll() is None and time.monotonic() < until and connections(self._port):
            time.sleep(0.1)
        return 0


def free_port() -> int:
    """One on loopback that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fresh_key() -> str:
    return secrets.token_urlsafe(32)


def connections(port: int) -> int:
    """Established ones to a port of 127.0.0.1, as the server has them."""
    here = f"0100007F:{port:04X}" if sys.byteorder == "little" else f"7F000001:{port:04X}"
    rows = [row.split() for row in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1] == here and row[3] == "01" for row in rows)


def _environment(ours: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Ours without what is meant for this platform, or for its Python."""
    return {k: v for k, v in ours.items() if not k.startswith(_OURS)} | dict(more)


def _port_of(command: Command) -> int:
    return int(command.argv[command.argv.index("--port") + 1])


def _status(port: int, path: str, key: str = "") -> int:
    """Of a GET; 0 where there is no answer."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        link.request("GET", path, headers={"authorization": f"Bearer {key}"} if key else {})
        return link.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        link.close()


def _greet(listening: socket.socket) -> None:
    """Who connects learns that we are there, and no more."""
    while True:
        link, _ = listening.accept()
        link.close()
