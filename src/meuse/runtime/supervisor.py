"""The supervisor: owns the listening sockets and every process of the platform.

Standard library only, one thread, no database: there is little in it that can fail. It
starts control, ledger and the gateway workers, starts them again when they die, and starts
and stops replicas when control asks over a pipe. Replicas outlive control. It knows
nothing of models, keys or money.

Every child gets the read end of a pipe whose only write end is here (`runtime.lifeline`):
however this process dies, its children see the end of file and leave. Argument lists of
children come from the composition root; `{name}` in them is filled in here.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meuse.runtime.children import Child, spawn

GRACE_S = 12.0
REPLICA_GRACE_S = 10.0
BACKOFF_S = (0.05, 0.2, 1.0, 3.0, 5.0)
STEADY_S = 10.0
LEFTOVER_S = 5.0
OWED_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. Commands may use {sockets} {lifeline} {epoch} {http}
    (a listening socket) {http_port} {grpc_port}, workers {slot}, control {control} (its pipe).

    `roles` maps a name (`control`, `ledger`, `worker-0` …) to its command. What runs is
    written to `run_file` at every change.
    """

    home: Path
    host: str
    http_port: int
    grpc_port: int
    roles: dict[str, list[str]]
    run_file: Path
    logs: Path


class AlreadyRunningError(Exception):
    """Another supervisor holds this home."""


class PortError(Exception):
    """The address cannot be listened on."""


class Supervisor:
    """Runs a `Plan` until SIGTERM or SIGINT. One per home."""

    def __init__(self, plan: Plan, ready: Callable[[dict[str, Any]], None]) -> None:
        self._plan = plan
        self._ready = ready
        self._selector = selectors.DefaultSelector()
        self._roles: dict[str, Child] = {}
        self._replicas: dict[str, Child] = {}
        self._deaths: dict[str, int] = {}
        self._restart_at: dict[str, float] = {}
        self._epoch = time.time_ns() // 1_000_000  # grows across restarts of the supervisor
        self._pipe: socket.socket | None = None
        self._pipe_buffer = b""
        self._owed = False
        self._stopping = False

    def run(self) -> None:
        """Start everything, keep it running, stop everything.

        Raises `AlreadyRunningError`, `PortError`.
        """
        self._plan.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (self._plan.home / "supervisor.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(str(self._plan.home)) from None
        patience = LEFTOVER_S if self._sweep() else 0.0
        self._sockets = Path(tempfile.mkdtemp(prefix="meuse-"))  # 0700 and short
        try:
            try:
                self._listen(patience)
            except OSError as error:
                raise PortError(f"cannot listen on {self._plan.host}: {error.strerror}") from None
            self._watch_signals()
            for name in self._plan.roles:
                self._start_role(name)
            self._write_run_file()
            self._ready(self._describe())
            while not self._stopping:
                self._turn()
            self._stop_all()
        finally:
            self._plan.run_file.unlink(missing_ok=True)
            shutil.rmtree(self._sockets, ignore_errors=True)
            lock.close()

    def _sweep(self) -> bool:
        """Remove what a killed predecessor left: this home's lock is ours, so it is dead.

        True when there was one; its workers may need a moment to see that and leave.
        """
        try:
            left = Path(json.loads(self._plan.run_file.read_text())["sockets"])
        except (OSError, ValueError, KeyError):
            return False
        if left.name.startswith("meuse-") and left.parent == Path(tempfile.gettempdir()):
            shutil.rmtree(left, ignore_errors=True)
        return True

    # -- sockets ---------------------------------------------------------------------

    def _listen(self, patience: float) -> None:
        self._http = socket.socket(_family(self._plan.host), socket.SOCK_STREAM)
        self._http.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        deadline = time.monotonic() + patience
        while True:
            try:
                self._http.bind((self._plan.host, self._plan.http_port))
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        # Queued here, a connection survives the death of any worker.
        self._http.listen(2048)
        # grpcio cannot take a listening socket: workers listen with SO_REUSEPORT, and this
        # one, bound and never listening, keeps the port ours while no worker runs.
        self._grpc = socket.socket(_family(self._plan.host), socket.SOCK_STREAM)
        self._grpc.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._grpc.bind((self._plan.host, self._plan.grpc_port))

    def _describe(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "host": self._plan.host,
            "http_port": self._http.getsockname()[1],
            "grpc_port": self._grpc.getsockname()[1],
            "sockets": str(self._sockets),
            "processes": {
                child.name: {"pid": child.process.pid, "epoch": child.epoch}
                for child in (*self._roles.values(), *self._replicas.values())
            },
        }

    def _write_run_file(self) -> None:
        fresh = self._plan.run_file.with_suffix(".new")
        try:
            fresh.write_text(json.dumps(self._describe(), indent=1))
            fresh.replace(self._plan.run_file)
        except OSError as error:  # a full disk must not end what runs
            _say(f"{self._plan.run_file} cannot be written: {error}")

    # -- children --------------------------------------------------------------------

    def _spawn(
        self, name: str, command: list[str], fds: tuple[int, ...] = (), **values: object
    ) -> Child:
        self._epoch += 1
        values |= {
            "sockets": self._sockets,
            "epoch": self._epoch,
            "http": self._http.fileno(),
            "http_port": self._http.getsockname()[1],
            "grpc_port": self._grpc.getsockname()[1],
        }
        return spawn(name, command, self._epoch, self._plan.logs, fds, values)

    def _start_role(self, name: str) -> None:
        command = self._plan.roles[name]
        try:
            if name == "control":
                self._start_control(command)
            elif name.startswith("worker-"):
                slot = name.removeprefix("worker-")
                self._roles[name] = self._spawn(name, command, (self._http.fileno(),), slot=slot)
            else:
                self._roles[name] = self._spawn(name, command)
        except OSError as error:  # no memory, no process, no disk: those that run go on
            self._again(name, f"cannot start: {error}")
        self._tell_control()

    def _again(self, name: str, why: str) -> None:
        deaths = self._deaths[name] = self._deaths.get(name, 0) + 1
        delay = BACKOFF_S[min(deaths, len(BACKOFF_S)) - 1]
        _say(f"{name} {why}, again in {delay} s")
        self._restart_at[name] = time.monotonic() + delay

    def _start_control(self, command: list[str]) -> None:
        if self._pipe is not None:
            self._selector.unregister(self._pipe)
            self._pipe.close()
            self._pipe = None
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        fd = theirs.fileno()
        try:
            self._roles["control"] = self._spawn("control", command, (fd,), control=fd)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.setblocking(False)
        self._pipe, self._pipe_buffer = ours, b""
        self._selector.register(ours, selectors.EVENT_READ, self._read_pipe)

    def _reap(self) -> None:
        changed = False
        for child in [c for c in self._roles.values() if c.process.poll() is not None]:
            changed = True
            os.close(child.lifeline)
            del self._roles[child.name]
            if time.monotonic() - child.started > STEADY_S:
                self._deaths[child.name] = 0
            if not self._stopping:
                self._again(child.name, f"ended ({child.status})")
        for child in [c for c in self._replicas.values() if c.process.poll() is not None]:
            changed = True
            os.close(child.lifeline)
            del self._replicas[child.name]
            if child.kill_at is None and not self._stopping:
                _say(f"replica {child.name} ended ({child.status})")
        if changed and not self._stopping:
            self._write_run_file()
            self._tell_control()

    # -- control's pipe: lines of JSON -------------------------------------------------

    def _read_pipe(self) -> None:
        assert self._pipe is not None
        try:
            data = self._pipe.recv(65536)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(self._pipe)
            self._pipe.close()
            self._pipe = None
            return
        *lines, self._pipe_buffer = (self._pipe_buffer + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))

    def _obey(self, message: dict[str, Any]) -> None:
        replica = str(message.get("replica", ""))
        failed = []
        if message["op"] == "start" and replica not in self._replicas:
            try:
                child = self._spawn(replica, message["argv"])
            except OSError as error:
                _say(f"replica {replica} cannot start: {error}")
                failed.append(replica)
            else:
                child.label = message["label"]
                self._replicas[replica] = child
        elif message["op"] == "label" and replica in self._replicas:
            self._replicas[replica].label = message["label"]
        elif message["op"] == "stop" and replica in self._replicas:
            child = self._replicas[replica]
            if child.kill_at is None:
                child.kill_at = time.monotonic() + REPLICA_GRACE_S
                child.process.terminate()
        self._write_run_file()
        self._tell_control(failed)

    def _tell_control(self, failed: Sequence[str] = ()) -> None:
        """Send the whole picture: control compares, nothing is lost by a lost message.

        `failed` are starts that came to nothing.
        """
        self._owed = False
        if self._pipe is None:
            return
        picture = {
            "failed": list(failed),
            "replicas": {
                c.name: {"pid": c.process.pid, "label": c.label, "stopping": c.kill_at is not None}
                for c in self._replicas.values()
            },
            "workers": {
                c.name: {"pid": c.process.pid, "epoch": c.epoch}
                for c in self._roles.values()
                if c.name.startswith("worker-")
            },
        }
        try:
            self._pipe.setblocking(True)
            self._pipe.settimeout(1.0)
            # A line of its own, whatever was cut off before it.
            self._pipe.sendall(b"\n" + json.dumps(picture).encode() + b"\n")
        except OSError:
            self._owed = True  # control is gone or stuck: it, or its successor, is told again
        finally:
            self._pipe.setblocking(False)

    # -- the loop ----------------------------------------------------------------------

    def _watch_signals(self) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

        def drain() -> None:
            for number in os.read(read_end, 4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._stopping = True

        self._selector.register(read_end, selectors.EVENT_READ, drain)

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            key.data()
        self._reap()
        if self._owed:
            self._tell_control()
        now = time.monotonic()
        for name in [n for n, at in self._restart_at.items() if at <= now]:
            del self._restart_at[name]
            if not self._stopping:
                self._start_role(name)
                self._write_run_file()
        for child in self._replicas.values():
            if child.kill_at is not None and child.kill_at <= now:
                child.process.kill()

    def _patience(self) -> float:
        moments = [*self._restart_at.values()]
        if self._owed:
            moments.append(time.monotonic() + OWED_S)
        moments += [c.kill_at for c in self._replicas.values() if c.kill_at is not None]
        return max(0.0, min(moments, default=time.monotonic() + 5.0) - time.monotonic())

    def _stop_all(self) -> None:
        """Workers drain first, while replicas still answer; the ledger last, to read the rest."""
        self._http.close()
        self._grpc.close()
        names = list(self._roles)
        self._end([self._roles[n] for n in names if n.startswith("worker-")])
        self._end([*self._replicas.values(), *(self._roles[n] for n in names if n == "control")])
        self._end([self._roles[n] for n in names if n == "ledger"])

    def _end(self, children: list[Child]) -> None:
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + GRACE_S
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _say(f"{child.name} did not end in {GRACE_S:g} s: killed")
                child.process.kill()
                child.process.wait()


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _say(text: str) -> None:
    sys.stderr.write(f"meuse: {text}\n")
    sys.stderr.flush()
