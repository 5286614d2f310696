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
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from meuse.runtime import rolling, takeover
from meuse.runtime.crew import Crew, descriptors, say
from meuse.runtime.home import Home
from meuse.runtime.listening import listen
from meuse.runtime.pipe import ControlPipe
from meuse.runtime.plan import Plan
from meuse.runtime.rolling import Restart

LEFTOVER_S = 5.0
OWED_S = 0.5
RESTARTING_S = 0.1
IDLE_S = 5.0


class Supervisor:
    """Runs a `Plan` until SIGTERM or SIGINT. One per home.

    `ready` is told what runs once all is started. `memory` is what an earlier image of this
    process has left (`runtime.takeover`).
    """

    def __init__(
        self, plan: Plan, ready: Callable[[dict[str, Any]], None], memory: int | None = None
    ) -> None:
        self._plan = plan
        self._ready = ready
        self._memory = memory
        self._selector = selectors.DefaultSelector()
        self._home = Home(plan.home, plan.run_file)
        self._pipe = ControlPipe(self._selector, self._obey)
        self._crew = Crew(plan, self._selector, self._pipe, self._changed)
        self._restart = Restart()
        self._is_up = False
        self._stopping = False
        # Under nohup the end of the terminal is not ours.
        self._has_terminal = _has_terminal() and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN

    def run(self) -> None:
        """Start everything, keep it running, stop everything.

        Raises `AlreadyRunningError`, `PortError`.
        """
        if self._memory is None:
            patience = LEFTOVER_S if self._home.claim() else 0.0
        else:
            state = takeover.take(self._memory)
            takeover.keep(_descriptors(state))
            self._home.adopt(state["lock"], Path(state["sockets"]))
        try:
            if self._memory is None:
                self._begin(patience)
            else:
                self._take_over(state)
            while not self._stopping:
                self._turn()
            self._http.close()
            self._grpc.close()
            self._crew.end_all()
        finally:
            self._home.release()

    def _begin(self, patience: float) -> None:
        plan = self._plan
        self._http, self._grpc = listen(plan.host, plan.http_port, plan.grpc_port, patience)
        self._fill_in()
        self._watch_signals()
        for name in plan.roles:
            self._crew.start_role(name)
        for slot in range(plan.workers):
            self._crew.start_role(f"worker-{slot}")
        self._is_up = True
        self._changed()
        self._ready(self._describe())

    def _fill_in(self) -> None:
        self._build = f"{self._plan.version}.{self._crew.epoch}"  # of all that this image starts
        self._crew.values = {
            "sockets": self._home.sockets,
            "build": self._build,
            "http": self._http.fileno(),
            "http_port": self._http.getsockname()[1],
            "grpc_port": self._grpc.getsockname()[1],
        }

    # -- what runs, for the CLI and for control ----------------------------------------------

    def _changed(self) -> None:
        if self._is_up:  # who finds the run file finds everything in it
            self._home.write(self._describe())
        self._tell_control()

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
                for child in self._crew.everyone()
            },
        }

    def _tell_control(self, failed: Sequence[str] = ()) -> None:
        """Send the whole picture: control compares, nothing is lost by a lost message.

        `failed` are starts that came to nothing.
        """
        picture = {
            "failed": list(failed),
            "replicas": {
                c.name: {"pid": c.process.pid, "label": c.label, "stopping": c.kill_at is not None}
                for c in self._crew.replicas.values()
            },
            # From its start to its end: any of them may serve, or be about to.
            "workers": {
                c.name: {"pid": c.process.pid, "epoch": c.epoch}
                for c in self._crew.roles.values()
                if c.name.startswith("worker-")
            },
        }
        self._pipe.tell(picture)

    def _obey(self, message: dict[str, Any]) -> None:
        replica = str(message.get("replica", ""))
        failed = []
        if message["op"] == "start" and replica not in self._crew.replicas:
            try:
                self._crew.start_replica(replica, message["argv"], message["label"])
            except OSError as error:
                say(f"replica {replica} cannot start: {error}")
                failed.append(replica)
        elif message["op"] == "label" and replica in self._crew.replicas:
            self._crew.replicas[replica].label = message["label"]
        elif message["op"] == "stop" and replica in self._crew.replicas:
            self._crew.stop_replica(replica)
        elif message["op"] == "kill" and replica in self._crew.replicas:
            self._crew.replicas[replica].kill()
        self._home.write(self._describe())
        self._tell_control(failed)

    # -- restarts ------------------------------------------------------------------------

    def _restart_workers(self) -> None:
        self._begin_restart("workers", rolling.workers(self._crew, self._plan.workers))

    def _restart_platform(self) -> None:
        self._begin_restart("platform", self._checked())

    def _begin_restart(self, what: str, work: Iterator[str]) -> None:
        if self._restart.work is not None:
            say(f"restart {self._restart.number} goes on; this one is ignored")
            return
        number = self._restart.number + 1
        say(f"restart {number} of the {what} begins")
        self._restart = Restart(number, what, "running", work=work)
        self._changed()

    def _go_on_restarting(self) -> None:
        restart = self._restart
        if restart.go_on():
            self._changed()
            if restart.work is None:
                why = f": {restart.error}" if restart.error else ""
                say(f"restart {restart.number} is {restart.state}{why}")

    def _checked(self) -> Iterator[str]:
        """Execute the code on the disk, if it would start; it goes on in `_take_over`."""
        yield from rolling.check(self._crew)
        self._restart.step = "the new code takes over"
        self._changed()
        state = {
            "lock": self._home.lock,
            "sockets": str(self._home.sockets),
            "http": self._http.fileno(),
            "grpc": self._grpc.fileno(),
            "pipe": self._pipe.to_dict(),
            "crew": self._crew.to_dict(),
            "restart": self._restart.describe(),
            "terminal": self._has_terminal,
        }
        try:
            takeover.hand_over(self._plan.again, state, _descriptors(state))
        except OSError as error:
            raise rolling.RestartError(f"the new code cannot be executed: {error}") from None

    def _take_over(self, state: dict[str, Any]) -> None:
        self._http = socket.socket(fileno=state["http"])
        self._grpc = socket.socket(fileno=state["grpc"])
        self._pipe.adopt(state["pipe"])
        self._crew.adopt(state["crew"])
        self._has_terminal = state["terminal"]
        self._fill_in()
        work = rolling.platform(self._crew, self._plan.roles, self._plan.workers)
        self._restart = Restart(**state["restart"], work=work)
        self._watch_signals()
        takeover.listen_to_signals()
        say(f"{self._build} has taken over {len(self._crew.everyone())} processes")
        self._is_up = True
        self._crew.reap()
        self._changed()

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
        if self._stopping:
            return
        self._crew.reap()
        self._go_on_restarting()
        if self._pipe.owed:
            self._tell_control()
        self._crew.tend()

    def _patience(self) -> float:
        now = time.monotonic()
        moments = [now + IDLE_S, *self._crew.due()]
        if self._pipe.owed:
            moments.append(now + OWED_S)
        if self._restart.work is not None:
            moments.append(now + RESTARTING_S)
        return max(0.0, min(moments) - now)


def _descriptors(state: dict[str, Any]) -> list[int]:
    """Those that the state names by number."""
    mine = [state["lock"], state["http"], state["grpc"], state["pipe"]["fd"]]
    return [*(fd for fd in mine if fd is not None), *descriptors(state["crew"])]


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
