"""Replacing what runs, one process after the other, while the others serve.

Each function is a generator: it acts, yields in a few words what it waits for, and goes on
after the next turn of the supervisor's loop. A successor takes a worker's place only when it
has said that it is ready; one that never says so leaves everything as it was.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from meuse.runtime.children import Child

READY_S = 120.0
CHECK_S = 120.0


class RestartError(Exception):
    """A step failed. What served before it still does."""


@dataclass(slots=True)
class Restart:
    """The last restart, as the run file tells it: of the "workers" or of the "platform"."""

    number: int = 0
    what: str = ""
    state: str = "done"  # running, done, failed
    step: str = ""
    error: str | None = None
    work: Iterator[str] | None = field(default=None, repr=False)

    def describe(self) -> dict[str, Any]:
        return {n: getattr(self, n) for n in ("number", "what", "state", "step", "error")}

    def go_on(self) -> bool:
        """Take the next step, if there is one; whether `describe` tells something new."""
        if self.work is None:
            return False
        before = self.describe()
        try:
            self.step = next(self.work)
        except StopIteration:
            self.state, self.step, self.work = "done", "", None
        except RestartError as error:
            self.state, self.error, self.work = "failed", str(error), None
        return self.describe() != before


class Crew(Protocol):
    """What of the supervisor a restart needs."""

    @property
    def check_log(self) -> Path:
        """Where the last check has written why the code would not start."""
        ...

    def child(self, name: str) -> Child | None:
        """The role that runs under this name."""
        ...

    def workers(self) -> list[str]:
        """Names of the workers that run or are about to be started again."""
        ...

    def start_worker(self) -> Child:
        """One more worker, on a free slot; not started again before it is ready.

        Raises OSError.
        """
        ...

    def start_role(self, name: str) -> None:
        """Start it; when that fails it is tried again later."""
        ...

    def dismiss(self, name: str) -> None:
        """Let it end, and do not start it again."""
        ...

    def start_check(self) -> Child:
        """The child that tries the code on the disk. Raises OSError."""
        ...


def workers(crew: Crew, count: int) -> Iterator[str]:
    """Replace every worker that there is; then there are `count`."""
    old = crew.workers()
    for number in range(max(count, len(old))):
        if number < count:
            yield from _successor(crew)
        if number < len(old):
            crew.dismiss(old[number])
            while crew.child(old[number]) is not None:
                yield f"{old[number]} drains"


def platform(crew: Crew, roles: Iterable[str], count: int) -> Iterator[str]:
    """Replace every role, control last, and then the workers."""
    for name in sorted(roles, key=lambda name: name == "control"):
        yield from _role(crew, name)
    yield from workers(crew, count)


def check(crew: Crew) -> Iterator[str]:
    """Try the code on the disk in a child. Raises `RestartError` when it cannot start."""
    try:
        child = crew.start_check()
    except OSError as error:
        raise RestartError(f"the new code cannot be checked: {error}") from None
    deadline = time.monotonic() + CHECK_S
    try:
        while child.process.poll() is None:
            if time.monotonic() > deadline:
                child.process.kill()
                raise RestartError(f"the new code was not checked within {CHECK_S:g} s")
            yield "the new code is checked"
    finally:
        child.close()
    if child.process.returncode:
        said = crew.check_log.read_text(errors="replace").strip().rpartition("\n")[2]
        raise RestartError(f"the new code cannot start: {said or child.status}")


def _successor(crew: Crew) -> Iterator[str]:
    try:
        child = crew.start_worker()
    except OSError as error:
        raise RestartError(f"a worker cannot be started: {error}") from None
    deadline = time.monotonic() + READY_S
    while True:
        if crew.child(child.name) is not child:
            raise RestartError(
                f"{child.name} ended ({child.status}) before it was ready; see logs/worker.log"
            )
        if child.is_ready:
            break
        if time.monotonic() > deadline:
            crew.dismiss(child.name)
            raise RestartError(f"{child.name} was not ready within {READY_S:g} s")
        yield f"{child.name} starts"
    child.on_trial = False


def _role(crew: Crew, name: str) -> Iterator[str]:
    old = crew.child(name)
    if old is not None:
        crew.dismiss(name)
        while crew.child(name) is old:
            yield f"{name} ends"
    crew.start_role(name)
    deadline = time.monotonic() + READY_S
    while (child := crew.child(name)) is None or not child.is_ready:
        if time.monotonic() > deadline:
            raise RestartError(f"{name} was not ready within {READY_S:g} s; see logs/{name}.log")
        yield f"{name} starts"
