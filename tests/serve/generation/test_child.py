"""serve.generation.child: a server as a child, with a stand-in for vLLM that is a real process"""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fake_vllm

CODE = """
import signal, sys
from pathlib import Path
from meuse.core.errors import MeuseError
from meuse.serve.generation import child, vllm
folder = Path(sys.argv[1])
made = vllm.command(Path(sys.argv[2]), folder / "model", "small:1", child.free_port(),
                    child.fresh_key(), vllm.VllmOptions())
server = child.Server(made, folder / "r1", folder / "served")
signal.signal(signal.SIGTERM, lambda *_: server.leave())
try:
    sys.exit(server.run())
except MeuseError as error:
    sys.exit(f"{error.code} {error}")
"""


def until(check: Callable[[], Any], seconds: float = 90.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def family(folder: Path) -> list[int]:
    """All processes that name the folder or are the engine of one that does."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes()
            group = os.getpgid(int(path.name))
        except OSError:
            continue
        if str(folder).encode() in line and int(path.name) != os.getpid():
            found.append((int(path.name), group))
    groups = {group for _, group in found}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(path.name)) in groups - {os.getpgid(0)}:
                found.append((int(path.name), 0))
        except OSError:
            continue
    return sorted({pid for pid, _ in found})


class Stand:
    """The process that stands for the server, started."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        for name in ("model", "served"):
            (folder / name).mkdir()
        (folder / "model" / "config.json").write_text("{}")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CODE, str(folder), str(fake_vllm.interpreter(folder))],
            stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
        )  # fmt: skip

    def ready(self) -> dict[str, Any]:
        def listens() -> bool:
            with socket.socket(socket.AF_UNIX) as probe:
                return probe.connect_ex(str(self.folder / "r1.sock")) == 0

        until(lambda: (self.folder / "r1.sock").exists() and listens())
        told: dict[str, Any] = json.loads((self.folder / "r1.upstream").read_text())
        return told

    def server(self) -> int:
        """The process of the stand-in."""
        return next(
            pid for pid in family(self.folder)
            if b"fake_vllm.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
        )  # fmt: skip

    def is_gone(self) -> bool:
        return not [pid for pid in family(self.folder) if pid != self.process.pid]


@pytest.fixture
def stands(tmp_path: Path) -> Iterator[Callable[..., Stand]]:
    made: list[Stand] = []

    def make(**environment: str) -> Stand:
        made.append(Stand(tmp_path, **environment))
        return made[-1]

    yield make
    for stand in made:
        stand.process.kill()
        stand.process.communicate()
        until(stand.is_gone)


def asked(told: dict[str, Any], key: str) -> int:
    link = http.client.HTTPConnection("127.0.0.1", told["port"], timeout=10)
    link.request("GET", "/v1/models", headers={"authorization": f"Bearer {key}"})
    status = link.getresponse().status
    link.close()
    return status


def test_it_answers_to_its_key_and_ends_with_its_family(stands: Any) -> None:
    stand = stands(FAKE_VLLM_LOAD_S="0.5", MEUSE_SECRET="x")
    told = stand.ready()
    assert (stand.folder / "r1.upstream").stat().st_mode & 0o077 == 0
    assert (asked(told, told["key"]), asked(told, "other")) == (200, 401)
    seen = Path(f"/proc/{stand.server()}/environ").read_bytes()
    assert b"MEUSE_SECRET" not in seen
    assert told["key"].encode() not in Path(f"/proc/{stand.server()}/cmdline").read_bytes()
    stand.process.terminate()
    _, said = stand.process.communicate(timeout=30)
    assert stand.process.returncode == 0
    assert told["key"] not in said  # the stand-in prints it
    until(stand.is_gone)
    assert not (stand.folder / "r1.sock").exists()


def test_it_ends_when_the_server_is_killed(stands: Any) -> None:
    stand = stands()
    stand.ready()
    os.kill(stand.server(), signal.SIGKILL)
    assert stand.process.wait(30) == 1
    until(stand.is_gone)  # its helper too


def test_nothing_stays_when_it_is_killed_itself(stands: Any) -> None:
    stand = stands()
    stand.ready()
    assert len(family(stand.folder)) >= 4  # it, the guard, the server and its helper
    stand.process.kill()
    until(stand.is_gone)
    assert not (stand.folder / "served").exists()


def test_what_was_begun_is_answered_first(stands: Any) -> None:
    stand = stands()
    told = stand.ready()
    link = http.client.HTTPConnection("127.0.0.1", told["port"], timeout=30)
    body = {"model": "small:1", "stream": True,
            "messages": [{"role": "user", "content": "pace 100 15"}]}  # fmt: skip
    headers = {"authorization": f"Bearer {told['key']}"}
    link.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    answer = link.getresponse()
    stand.process.terminate()
    text = answer.read()
    assert text.endswith(b"data: [DONE]\n\n")
    assert stand.process.poll() is None  # the connection is there
    link.close()
    assert stand.process.wait(30) == 0


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"FAKE_VLLM_FAIL": "no GPU was found"}, "unavailable vLLM ended with status 1: no GPU"),
        ({"FAKE_VLLM_OPEN": "1"}, "invalid_data the server answers without its key"),
    ],
)
def test_why_it_cannot_serve(stands: Any, setting: dict[str, str], said: str) -> None:
    stand = stands(**setting)
    _, told = stand.process.communicate(timeout=30)
    assert said in told
    assert stand.process.returncode == 1
    until(stand.is_gone)
