"""A platform as its user starts it, and hands to kill its processes one by one.

Only processes whose command line names this platform's own home are ever sent a signal.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from meuse.client import Client
from meuse.core.errors import Code, MeuseError
from meuse.serve import snapshot

T = TypeVar("T")


def until(condition: Callable[[], T], seconds: float = 60.0, pause: float = 0.02) -> T:
    """The first true value of a condition; fails when it stays false."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds:g} s in vain"
        time.sleep(pause)
    return value


def command_of(pid: int) -> list[str]:
    """The command line of a process; empty when it is gone (or a zombie)."""
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return []
    # A job that was forked has given itself a title, in which words are parted by spaces.
    words = line.strip("\0").split("\0")
    return words if len(words) > 1 else line.strip("\0").split()


class Platform:
    """`meuse up` with two gateway workers on a home; may be started again after its end."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = home.parent / f"{home.name}.up.log"
        self._up: subprocess.Popen[bytes] | None = None
        self._clients: list[Client] = []

    # -- start and end -------------------------------------------------------------------

    def start(self) -> Platform:
        """Start `meuse up` and wait until control and ledger answer."""
        self.spawn()
        self.wait_up()
        return self

    def spawn(self, http_port: int = 0, grpc_port: int = 0) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
        options = ["--home", str(self.home), "--workers", "2"]
        options += ["--http-port", str(http_port), "--grpc-port", str(grpc_port)]
        with self.log.open("ab") as log:
            self._up = subprocess.Popen(
                [sys.executable, "-m", "meuse.app", "up", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def wait_up(self, seconds: float = 120.0) -> None:
        assert self._up is not None
        supervisor = self._up

        def answers() -> bool:
            assert supervisor.poll() is None, f"`meuse up` ended: {self.log.read_text()[-2000:]}"
            with contextlib.suppress(FileNotFoundError, ValueError, KeyError, MeuseError):
                if self.run()["pid"] == supervisor.pid:
                    with Client(self.url, self.admin_key, timeout_s=10) as client:
                        client.models()
                        client.usage()
                    return True
            return False

        until(answers, seconds, 0.05)

    @property
    def supervisor(self) -> subprocess.Popen[bytes]:
        assert self._up is not None
        return self._up

    def terminate(self) -> None:
        """Ask `meuse up` to drain and end, and do not wait."""
        self.supervisor.send_signal(signal.SIGTERM)

    def stop(self, seconds: float = 60.0) -> int:
        """End `meuse up` in order; its exit status."""
        self.terminate()
        return self.supervisor.wait(seconds)

    def meuse(self, *arguments: str, seconds: float = 200.0) -> subprocess.CompletedProcess[str]:
        """The command line, as a user of this home types it."""
        return subprocess.run(
            [sys.executable, "-m", "meuse", *arguments],
            env={**os.environ, "MEUSE_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def restart(self, *options: str) -> dict[str, Any]:
        """`meuse restart`; what it says."""
        done = self.meuse("restart", "--json", *options)
        assert done.returncode == 0, done.stderr + self.log.read_text()[-2000:]
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def kill_supervisor(self) -> None:
        self.supervisor.kill()
        self.supervisor.wait()

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        for client in self._clients:
            client.close()
        if self._up is not None:
            if self._up.poll() is None:
                self._up.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._up.wait(20)
            if self._up.poll() is None:
                self._up.kill()
                self._up.wait()
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # -- the public API ------------------------------------------------------------------

    def run(self) -> dict[str, Any]:
        """run.json: ports and processes."""
        document: dict[str, Any] = json.loads((self.home / "run.json").read_text())
        return document

    @property
    def port(self) -> int:
        return int(self.run()["http_port"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_key(self) -> str:
        return (self.home / "admin.key").read_text().strip()

    def client(self, key: str | None = None) -> Client:
        """A client that is closed with the platform."""
        client = Client(self.url, key or self.admin_key, timeout_s=30)
        self._clients.append(client)
        return client

    # -- processes -----------------------------------------------------------------------

    def pids(self) -> list[int]:
        """Every process whose command line names this home."""
        home = str(self.home)
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                arguments = command_of(int(entry.name))
                if any(part == home or part.startswith(home + "/") for part in arguments):
                    found.append(int(entry.name))
        return found

    def processes(self) -> dict[str, int]:
        """Live children of the supervisor by name, as it last wrote them down."""
        named = {name: child["pid"] for name, child in self.run()["processes"].items()}
        return {name: pid for name, pid in named.items() if self._is_ours(pid)}

    def children(self, role: str) -> list[int]:
        """Pids of a role that control starts itself: job, inspect."""
        return [pid for pid in self.pids() if command_of(pid)[1:4] == ["-m", "meuse.app", role]]

    def pid(self, name: str, seconds: float = 15.0) -> int:
        """The process of this name, once it runs."""
        return until(lambda: self.processes().get(name), seconds)

    def replicas(self, deployment: str | None = None) -> dict[str, int]:
        """Live replicas by id: all, or those that workers may route to for "owner/name"."""
        running = {n: p for n, p in self.processes().items() if n.startswith("replica-")}
        if deployment is None:
            return running
        routes = snapshot.read(self.home / "snapshot" / "current.msgpack").deployments[deployment]
        routed = {replica.id for target in routes.targets for replica in target.replicas}
        return {name: pid for name, pid in running.items() if name in routed}

    def kill(self, pid: int) -> bool:
        """SIGKILL a process of this home; False when it is gone already."""
        if not self._is_ours(pid):
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    @contextlib.contextmanager
    def slow(self, pid: int) -> Iterator[None]:
        """A process that gets no time until the block ends."""
        assert self._is_ours(pid)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def freeze(self, pid: int) -> None:
        """SIGSTOP: it hangs from now on."""
        assert self._is_ours(pid)
        os.kill(pid, signal.SIGSTOP)

    def thaw(self, pid: int) -> bool:
        """SIGCONT; False when it is gone."""
        if not self._is_ours(pid):
            return False
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            return False
        return True

    def is_gone(self, pid: int) -> bool:
        return not self._is_ours(pid)

    def keep_down(self, names: list[str], condition: Callable[[], bool], seconds: float) -> None:
        """Kill these, and each new one as it appears, until a condition holds."""

        def killing() -> bool:
            processes = self.processes()
            for name in names:
                if name in processes:
                    self.kill(processes[name])
            return condition()

        until(killing, seconds, 0.005)

    def control_answers(self) -> bool:
        """Whether /api answers, in full, now."""
        try:
            with Client(self.url, self.admin_key, timeout_s=10) as client:
                client.models()
                client.usage()
        except MeuseError as error:
            if error.code is not Code.UNAVAILABLE:
                raise
            return False
        return True

    def _is_ours(self, pid: int) -> bool:
        return str(self.home) in command_of(pid)
