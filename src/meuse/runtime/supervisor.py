"""The supervisor: owns the listening sockets and every process of the platform.

Standard library only, one thread, no database: there is little in it that can fail. It
starts control, ledger and the gateway workers, starts them again when they die, and starts
and stops replicas when control asks over a pipe. Replicas outlive control. It knows
nothing of models, keys or money.

Every child gets the read end of a pipe whose only write end is here (`runtime.lifeline`):
however this process dies, its children see the end of file and leave. Argument lists of
children come from the composition root; `{name}` in them is filled in here.

SIGTERM and SIGINT drain and end. SIGHUP replaces the workers one by one; SIGUSR2 makes this
process execute the code on the disk (`runtime.takeover`), which then replaces all the others.
"""

from __future__ import annotations

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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meuse.runtime import rolling, takeover
from meuse.runtime.children import KILL_AFTER_S, Child, spawn
from meuse.runtime.listening import listen

REPLICA_GRACE_S = 10.0
BACKOFF_S = (0.05, 0.2, 1.0, 3.0, 5.0)
STEADY_S = 10.0
LEFTOVER_S = 5.0
OWED_S = 0.5
RESTARTING_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. Commands may use {sockets} {lifeline} {ready} {epoch} {build} {http}
    (a listening socket) {http_port} {grpc_port}, the worker's {slot}, control {control} (its
    pipe), `again` {state}.

    `roles` maps a name (`control`, `ledger`) to its command; `worker` is run `workers` times,
    each as `worker-<slot>`. No two live workers share a slot: a successor takes a free one of
    twice as many. `again` executes this program anew, after `check` has run well. What runs
    is written to `run_file` at every change.
    """

    home: Path
    host: str
    http_port: int
    grpc_port: int
    roles: dict[str, list[str]]
    worker: list[str]
    workers: int
    again: list[str]
    check: list[str]
    version: str
    run_file: Path
    logs: Path


class AlreadyRunningError(Exception):
    """Another supervisor holds this home."""


@dataclass(slots=True)
class Restart:
    """What `run_file` says of the last restart: of "workers" or of the "platform"."""

    number: int = 0
    what: str = ""
    state: str = "done"  # running, done, failed
    step: str = ""
    error: str | None = None
    work: Iterator[str] | None = field(default=None, repr=False)

    def describe(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in ("number", "what", "state", "step", "error")}


class Supervisor:
    """Runs a `Plan` until SIGTERM or SIGINT. One per home.

    `memory` is what an earlier image of this process has left (`runtime.takeover`).
    """

    def __init__(
        self, plan: Plan, ready: Callable[[dict[str, Any]], None], memory: int | None = None
    ) -> None:
        self._plan = plan
        self._ready = ready
        self._memory = memory
        self._selector = selectors.DefaultSelector()
        self._roles: dict[str, Child] = {}
        self._replicas: dict[str, Child] = {}
        self._deaths: dict[str, int] = {}
        self._restart_at: dict[str, float] = {}
        self._epoch = time.time_ns() // 1_000_000  # grows across restarts of the supervisor
        self._build = f"{plan.version}.{self._epoch}"  # of what this image starts
        self._restart = Restart()
        self._pipe: socket.socket | None = None
        self._pipe_buffer = b""
        self._owed = False
        self._stopping = False
        self._has_terminal = _has_terminal()

    def run(self) -> None:
        """Start everything, keep it running, stop everything.

        Raises `AlreadyRunningError`, `PortError`.
        """
        if self._memory is None:
            self._begin()
        else:
            self._take_over(self._memory)
        try:
            while not self._stopping:
                self._turn()
            self._stop_all()
        finally:
            self._clean_up()

    def _begin(self) -> None:
        self._plan.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self._plan.home / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise AlreadyRunningError(str(self._plan.home)) from None
        patience = LEFTOVER_S if self._sweep() else 0.0
        self._sockets = Path(tempfile.mkdtemp(prefix="meuse-"))  # 0700 and short
        try:
            plan = self._plan
            self._http, self._grpc = listen(plan.host, plan.http_port, plan.grpc_port, patience)
            self._watch_signals()
            for name in plan.roles:
                self.start_role(name)
            for slot in range(plan.workers):
                self.start_role(f"worker-{slot}")
            self._write_run_file()
            self._ready(self._describe())
        except BaseException:
            self._clean_up()
            raise

    def _clean_up(self) -> None:
        self._plan.run_file.unlink(missing_ok=True)
        shutil.rmtree(self._sockets, ignore_errors=True)
        os.close(self._lock)

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

    def _describe(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "build": self._build,
            "host": self._plan.host,
            "http_port": self._http.getsockname()[1],
            "grpc_port": self._grpc.getsockname()[1],
            "sockets": str(self._sockets),
            "restart": self._restart.describe(),
            "processes": {
                child.name: {
                    "pid": child.process.pid,
                    "epoch": child.epoch,
                    "ready": child.is_ready,
                    "label": child.label,
                }
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
            "build": self._build,
            "http": self._http.fileno(),
            "http_port": self._http.getsockname()[1],
            "grpc_port": self._grpc.getsockname()[1],
        }
        child = spawn(name, command, self._epoch, self._plan.logs, fds, values)
        self._listen_to(child)
        return child

    def _listen_to(self, child: Child) -> None:
        if child.ready is None:
            return
        fd = child.ready

        def hear() -> None:
            self._selector.unregister(fd)
            child.hear()
            self._write_run_file()

        self._selector.register(fd, selectors.EVENT_READ, hear)

    def _forget(self, child: Child) -> None:
        if child.ready is not None:
            self._selector.unregister(child.ready)
        child.close()

    def child(self, name: str) -> Child | None:
        return self._roles.get(name)

    def workers(self) -> list[str]:
        names = self._roles.keys() | self._restart_at.keys()
        return sorted(name for name in names if name.startswith("worker-"))

    def start_role(self, name: str) -> None:
        try:
            if name == "control":
                self._start_control(self._plan.roles[name])
            elif name.startswith("worker-"):
                self._start_worker(name)
            else:
                self._roles[name] = self._spawn(name, self._plan.roles[name])
        except OSError as error:  # no memory, no process, no disk: those that run go on
            self._again(name, f"cannot start: {error}")
        self._tell_control()

    def start_worker(self) -> Child:
        taken = self.workers()
        slot = next(n for n in range(len(taken) + 1) if f"worker-{n}" not in taken)
        child = self._start_worker(f"worker-{slot}")
        child.on_trial = True
        self._write_run_file()
        self._tell_control()
        return child

    def _start_worker(self, name: str) -> Child:
        slot, http = name.removeprefix("worker-"), self._http.fileno()
        child = self._roles[name] = self._spawn(name, self._plan.worker, (http,), slot=slot)
        return child

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
        self._use_pipe(ours, b"")

    def dismiss(self, name: str) -> None:
        self._restart_at.pop(name, None)
        if name in self._roles:
            self._roles[name].end()

    def _again(self, name: str, why: str) -> None:
        deaths = self._deaths[name] = self._deaths.get(name, 0) + 1
        delay = BACKOFF_S[min(deaths, len(BACKOFF_S)) - 1]
        _say(f"{name} {why}, again in {delay} s")
        self._restart_at[name] = time.monotonic() + delay

    def _reap(self) -> None:
        changed = False
        for child in [c for c in self._roles.values() if c.process.poll() is not None]:
            changed = True
            self._forget(child)
            del self._roles[child.name]
            if time.monotonic() - child.started > STEADY_S:
                self._deaths[child.name] = 0
            if child.kill_at is None and not child.on_trial and not self._stopping:
                self._again(child.name, f"ended ({child.status})")
        for child in [c for c in self._replicas.values() if c.process.poll() is not None]:
            changed = True
            self._forget(child)
            del self._replicas[child.name]
            if child.kill_at is None and not self._stopping:
                _say(f"replica {child.name} ended ({child.status})")
        if changed and not self._stopping:
            self._write_run_file()
            self._tell_control()

    # -- control's pipe: lines of JSON -------------------------------------------------

    def _use_pipe(self, pipe: socket.socket, begun: bytes) -> None:
        pipe.setblocking(False)
        self._pipe, self._pipe_buffer = pipe, begun
        self._selector.register(pipe, selectors.EVENT_READ, self._read_pipe)

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
        elif message["op"] == "stop" and replica in self._replicas:
            self._replicas[replica].end(REPLICA_GRACE_S)
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
                if c.is_worker
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

    # -- restarts ------------------------------------------------------------------------

    def _restart_workers(self) -> None:
        self._begin_restart("workers", rolling.workers(self, self._plan.workers))

    def _restart_platform(self) -> None:
        self._begin_restart("platform", self._checked())

    def _begin_restart(self, what: str, work: Iterator[str]) -> None:
        if self._restart.work is not None:
            _say(f"restart {self._restart.number} goes on; this one is ignored")
            return
        number = self._restart.number + 1
        _say(f"restart {number} of the {what} begins")
        self._restart = Restart(number, what, "running", work=work)
        self._write_run_file()

    def _go_on_restarting(self) -> None:
        restart = self._restart
        if restart.work is None:
            return
        before = restart.describe()
        try:
            restart.step = next(restart.work)
        except StopIteration:
            restart.state, restart.step, restart.work = "done", "", None
            _say(f"restart {restart.number} is done")
        except rolling.RestartError as error:
            restart.state, restart.error, restart.work = "failed", str(error), None
            _say(f"restart {restart.number} failed: {error}")
        if restart.describe() != before:
            self._write_run_file()

    @property
    def check_log(self) -> Path:
        return self._plan.logs / "check.log"

    def start_check(self) -> Child:
        self.check_log.unlink(missing_ok=True)
        return self._spawn("check", self._plan.check)

    def _checked(self) -> Iterator[str]:
        yield from rolling.check(self)
        restart = self._restart
        restart.step = "the new code takes over"
        self._write_run_file()
        state = {
            "sockets": str(self._sockets),
            "epoch": self._epoch,
            "terminal": self._has_terminal,
            "restart": restart.describe(),
            "lock": self._lock,
            "http": self._http.fileno(),
            "grpc": self._grpc.fileno(),
            "pipe": None if self._pipe is None else self._pipe.fileno(),
            "begun": self._pipe_buffer.decode("latin-1"),
            "roles": [child.to_dict() for child in self._roles.values()],
            "replicas": [child.to_dict() for child in self._replicas.values()],
        }
        try:
            takeover.hand_over(self._plan.again, state, _descriptors(state))
        except OSError as error:
            raise rolling.RestartError(f"the new code cannot be executed: {error}") from None

    def _take_over(self, memory: int) -> None:
        state = takeover.take(memory)
        takeover.keep(_descriptors(state))
        self._lock, self._sockets = state["lock"], Path(state["sockets"])
        self._http, self._grpc = (
            socket.socket(fileno=state["http"]),
            socket.socket(fileno=state["grpc"]),
        )
        self._epoch = max(self._epoch, state["epoch"])
        self._has_terminal = state["terminal"]
        for kept, family in ((state["roles"], self._roles), (state["replicas"], self._replicas)):
            for what in kept:
                child = family[what["name"]] = Child.from_dict(what)
                self._listen_to(child)
        if state["pipe"] is not None:
            self._use_pipe(socket.socket(fileno=state["pipe"]), state["begun"].encode("latin-1"))
        work = rolling.platform(self, self._plan.roles, self._plan.workers)
        self._restart = Restart(**state["restart"], work=work)
        self._watch_signals()
        takeover.listen_to_signals()
        _say(f"{self._build} has taken over {len(self._roles) + len(self._replicas)} processes")
        self._reap()
        self._write_run_file()

    # -- the loop ----------------------------------------------------------------------

    def _watch_signals(self) -> None:
        read_end, write_end = os.pipe()
        os.set_blocking(read_end, False)
        os.set_blocking(write_end, False)
        signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
        for number in takeover.SIGNALS:
            signal.signal(number, lambda *_: None)

        def arrived() -> None:
            for number in os.read(read_end, 4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    self._stopping = True
                elif number == signal.SIGHUP and self._has_terminal and not _has_terminal():
                    self._stopping = True  # our terminal was closed
                elif number == signal.SIGHUP:
                    self._restart_workers()
                elif number == signal.SIGUSR2:
                    self._restart_platform()

        self._selector.register(read_end, selectors.EVENT_READ, arrived)

    def _turn(self) -> None:
        for key, _ in self._selector.select(self._patience()):
            key.data()
        self._reap()
        if self._stopping:
            return
        self._go_on_restarting()
        if self._owed:
            self._tell_control()
        now = time.monotonic()
        for name in [n for n, at in self._restart_at.items() if at <= now]:
            del self._restart_at[name]
            self.start_role(name)
            self._write_run_file()
        for child in (*self._roles.values(), *self._replicas.values()):
            if child.kill_at is not None and child.kill_at <= now:
                child.process.kill()

    def _patience(self) -> float:
        now = time.monotonic()
        children = (*self._roles.values(), *self._replicas.values())
        moments = [now + 5.0, *self._restart_at.values()]
        moments += [c.kill_at for c in children if c.kill_at is not None]
        if self._owed:
            moments.append(now + OWED_S)
        if self._restart.work is not None:
            moments.append(now + RESTARTING_S)
        return max(0.0, min(moments) - now)

    def _stop_all(self) -> None:
        """Workers drain first, while replicas still answer; the ledger last, to read the rest."""
        self._http.close()
        self._grpc.close()
        self._end([child for child in self._roles.values() if child.is_worker])
        self._end(
            [*self._replicas.values(), *(c for n, c in self._roles.items() if n == "control")]
        )
        self._end([child for name, child in self._roles.items() if name == "ledger"])

    def _end(self, children: list[Child]) -> None:
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        deadline = time.monotonic() + KILL_AFTER_S
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _say(f"{child.name} did not end in {KILL_AFTER_S:g} s: killed")
                child.process.kill()
                child.process.wait(KILL_AFTER_S)


def _descriptors(state: dict[str, Any]) -> list[int]:
    """Those that `state` names by number."""
    found = [state["lock"], state["http"], state["grpc"], state["pipe"]]
    for child in (*state["roles"], *state["replicas"]):
        found += [child["lifeline"], child["ready"]]
    return [fd for fd in found if fd is not None]


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _say(text: str) -> None:
    sys.stderr.write(f"meuse: {text}\n")
    sys.stderr.flush()
