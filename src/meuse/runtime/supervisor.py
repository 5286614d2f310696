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

import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meuse.runtime import rolling, takeover
from meuse.runtime.children import KILL_AFTER_S, Child, spawn
from meuse.runtime.home import Home
from meuse.runtime.listening import listen
from meuse.runtime.pipe import ControlPipe
from meuse.runtime.rolling import Restart

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
        self._build = f"{plan.version}.{self._epoch}"  # of all that this image starts
        self._restart = Restart()
        self._home = Home(plan.home, plan.run_file)
        self._pipe = ControlPipe(self._selector, self._obey)
        self._stopping = False
        # Under nohup the end of the terminal is not ours.
        self._has_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

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
            self._home.release()

    def _begin(self) -> None:
        patience = LEFTOVER_S if self._home.claim() else 0.0
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
            self._home.release()
            raise

    def _describe(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "build": self._build,
            "host": self._plan.host,
            "http_port": self._http.getsockname()[1],
            "grpc_port": self._grpc.getsockname()[1],
            "sockets": str(self._home.sockets),
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
        self._home.write(self._describe())

    # -- children --------------------------------------------------------------------

    def _spawn(
        self, name: str, command: list[str], fds: tuple[int, ...] = (), **values: object
    ) -> Child:
        self._epoch += 1
        values |= {
            "sockets": self._home.sockets,
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
        with self._pipe.renew() as theirs:
            fd = theirs.fileno()
            self._roles["control"] = self._spawn("control", command, (fd,), control=fd)

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

    # -- control -------------------------------------------------------------------------

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
        self._pipe.tell(picture)

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
        if restart.go_on():
            self._write_run_file()
            if restart.work is None:
                why = f": {restart.error}" if restart.error else ""
                _say(f"restart {restart.number} is {restart.state}{why}")

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
            "sockets": str(self._home.sockets),
            "epoch": self._epoch,
            "terminal": self._has_terminal,
            "restart": restart.describe(),
            "lock": self._home.lock,
            "http": self._http.fileno(),
            "grpc": self._grpc.fileno(),
            "pipe": self._pipe.to_dict(),
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
        self._home.adopt(state["lock"], Path(state["sockets"]))
        self._http, self._grpc = (
            socket.socket(fileno=state["http"]),
            socket.socket(fileno=state["grpc"]),
        )
        self._epoch = max(self._epoch, state["epoch"] + 1)
        self._build = f"{self._plan.version}.{self._epoch}"
        self._has_terminal = state["terminal"]
        for kept, family in ((state["roles"], self._roles), (state["replicas"], self._replicas)):
            for what in kept:
                child = family[what["name"]] = Child.from_dict(what)
                self._listen_to(child)
        self._pipe.adopt(state["pipe"])
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
        if self._pipe.owed:
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
        if self._pipe.owed:
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
    found = [state["lock"], state["http"], state["grpc"], state["pipe"]["fd"]]
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
