"""Every child of the supervisor: starts them, starts again what dies, ends what is to end.

Standard library only. Roles (control, ledger, workers) are kept running; replicas live and die
as control says. Argument lists come from the plan, or from control.
"""

from __future__ import annotations

import selectors
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meuse.runtime.children import HUNG_S, KILL_AFTER_S, Child, spawn
from meuse.runtime.pipe import ControlPipe
from meuse.runtime.plan import Plan

REPLICA_GRACE_S = 10.0
WORKER_GRACE_S = 130.0
"""A worker that is replaced lets long answers come to their end; one that ends with the
platform is told again `HURRY_S` later, and ends them."""
HURRY_S = 8.0
BACKOFF_S = (0.05, 0.2, 1.0, 3.0, 5.0)
STEADY_S = 10.0
PAUSED_S = 7.0
"""The supervisor looks oftener than this, unless the whole machine stood still."""


class Crew:
    """`changed` is called whenever what runs has changed. `values` fill in all commands; they
    must hold `http`, the listening socket that workers are given."""

    def __init__(
        self,
        plan: Plan,
        selector: selectors.BaseSelector,
        pipe: ControlPipe,
        changed: Callable[[], None],
    ) -> None:
        self._plan = plan
        self._selector = selector
        self._pipe = pipe
        self._changed = changed
        self._deaths: dict[str, int] = {}
        self._again_at: dict[str, float] = {}
        self._tended = time.monotonic()
        self.roles: dict[str, Child] = {}
        self.replicas: dict[str, Child] = {}
        self.values: dict[str, Any] = {}
        self.epoch = time.time_ns() // 1_000_000  # grows across restarts of the supervisor

    def everyone(self) -> list[Child]:
        return [*self.roles.values(), *self.replicas.values()]

    def child(self, name: str) -> Child | None:
        return self.roles.get(name)

    def workers(self) -> list[str]:
        names = self.roles.keys() | self._again_at.keys()
        return sorted(name for name in names if name.startswith("worker-"))

    # -- start ---------------------------------------------------------------------------

    def start_role(self, name: str) -> None:
        try:
            self._start_role(name)
        except OSError as error:  # no memory, no process, no disk: those that run go on
            self._again(name, f"cannot start: {error}")
        self._changed()

    def start_worker(self) -> Child:
        taken = self.workers()
        slot = next(n for n in range(len(taken) + 1) if f"worker-{n}" not in taken)
        name = f"worker-{slot}"
        self._start_role(name)
        self.roles[name].on_trial = True
        self._changed()
        return self.roles[name]

    def start_replica(self, name: str, argv: list[str], label: dict[str, Any]) -> None:
        """Raises OSError."""
        self.replicas[name] = self._spawn(name, argv)
        self.replicas[name].label = label

    @property
    def check_log(self) -> Path:
        return self._plan.logs / "check.log"

    def start_check(self) -> Child:
        self.check_log.unlink(missing_ok=True)
        return self._spawn("check", self._plan.check)

    def _start_role(self, name: str) -> None:
        if name.startswith("worker-"):
            slot = name.removeprefix("worker-")
            made = self._spawn(name, self._plan.worker, (self.values["http"],), slot=slot)
        elif name == "control":
            with self._pipe.renew() as theirs:
                fd = theirs.fileno()
                made = self._spawn(name, self._plan.roles[name], (fd,), control=fd)
        else:
            made = self._spawn(name, self._plan.roles[name])
        self.roles[name] = made

    def _spawn(
        self, name: str, command: list[str], fds: tuple[int, ...] = (), **more: object
    ) -> Child:
        self.epoch += 1
        values = {**self.values, "epoch": self.epoch, **more}
        child = spawn(name, command, self.epoch, self._plan.logs, fds, values)
        self._listen_to(child)
        return child

    def _listen_to(self, child: Child) -> None:
        if child.ready is None:
            return
        fd = child.ready

        def hear() -> None:
            was_ready = child.is_ready
            if not child.hear():
                self._selector.unregister(fd)
                child.hear_no_more()
            if child.is_ready != was_ready:
                self._changed()

        self._selector.register(fd, selectors.EVENT_READ, hear)

    # -- end, and start again --------------------------------------------------------------

    def dismiss(self, name: str) -> None:
        self._again_at.pop(name, None)
        if name in self.roles:
            self.roles[name].end(WORKER_GRACE_S if name.startswith("worker-") else KILL_AFTER_S)

    def stop_replica(self, name: str) -> None:
        """Let it end; its label may say how long that may take (`grace_s`)."""
        child = self.replicas[name]
        child.end(float(child.label.get("grace_s", REPLICA_GRACE_S)))

    def reap(self) -> None:
        """See who has ended; roles that were to stay are started again after a pause."""
        ended = [child for child in self.everyone() if child.process.poll() is not None]
        for child in ended:
            if child.ready is not None:
                self._selector.unregister(child.ready)
            child.close()
            told = child.kill_at is not None
            if self.replicas.get(child.name) is child:
                del self.replicas[child.name]
                if not told:
                    say(f"replica {child.name} ended ({child.status})")
                continue
            del self.roles[child.name]
            if time.monotonic() - child.started > STEADY_S:
                self._deaths[child.name] = 0
            if not told and not child.on_trial:
                self._again(child.name, f"ended ({child.status})")
        if ended:
            self._changed()

    def tend(self) -> None:
        """Do what is due: start again, kill who did not end in time or says nothing more."""
        now = time.monotonic()
        if now - self._tended > PAUSED_S:  # nobody ran, we neither: nothing could be heard
            for child in self.everyone():
                child.heard = now
        self._tended = now
        for name in [name for name, at in self._again_at.items() if at <= now]:
            del self._again_at[name]
            self.start_role(name)
        for child in self.everyone():
            if child.kill_at is not None and child.kill_at <= now:
                child.process.kill()
            elif child.hangs_at is not None and child.hangs_at <= now:
                say(f"{child.name} was not heard for {HUNG_S:g} s: killed")
                child.heard = now
                child.process.kill()

    def due(self) -> list[float]:
        """When `tend` has something to do (monotonic seconds)."""
        moments = [at for child in self.everyone() for at in (child.kill_at, child.hangs_at)]
        return [*self._again_at.values(), *(at for at in moments if at is not None)]

    def end_all(self) -> None:
        """Workers drain first, while replicas still answer; the ledger last, to read the rest."""
        roles = self.roles
        self._end([child for name, child in roles.items() if name.startswith("worker-")], HURRY_S)
        self._end([*self.replicas.values(), *(c for n, c in roles.items() if n == "control")])
        self._end([child for child in roles.values() if child.process.returncode is None])

    def _end(self, children: list[Child], hurry_s: float = 0.0) -> None:
        """Tell them to end, twice where there is a `hurry_s`, and kill those that do not."""
        begun = time.monotonic()
        for child in children:
            if child.process.poll() is None:
                child.process.terminate()
        for child in children if hurry_s else ():
            try:
                child.process.wait(max(0.0, begun + hurry_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.terminate()
        deadline = begun + KILL_AFTER_S
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                say(f"{child.name} did not end in {KILL_AFTER_S:g} s: killed")
                child.process.kill()
                child.process.wait(KILL_AFTER_S)

    def _again(self, name: str, why: str) -> None:
        deaths = self._deaths[name] = self._deaths.get(name, 0) + 1
        delay = BACKOFF_S[min(deaths, len(BACKOFF_S)) - 1]
        say(f"{name} {why}, again in {delay} s")
        self._again_at[name] = time.monotonic() + delay

    # -- for another image of this process -------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        return {
            "epoch": self.epoch,
            "roles": [child.to_dict() for child in self.roles.values()],
            "replicas": [child.to_dict() for child in self.replicas.values()],
        }

    def adopt(self, what: dict[str, Any]) -> None:
        self.epoch = max(self.epoch, what["epoch"] + 1)
        for name, family in (("roles", self.roles), ("replicas", self.replicas)):
            for described in what[name]:
                child = family[described["name"]] = Child.from_dict(described)
                self._listen_to(child)


def descriptors(what: dict[str, Any]) -> list[int]:
    """Those that `Crew.to_dict` names by number."""
    found = [
        child[pipe]
        for kind in ("roles", "replicas")
        for child in what[kind]
        for pipe in ("lifeline", "ready")
    ]
    return [fd for fd in found if fd is not None]


def say(text: str) -> None:
    sys.stderr.write(f"meuse: {text}\n")
    sys.stderr.flush()
