"""One child of the supervisor: its process, its lifeline, its log. Standard library only."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KILL_AFTER_S = 12.0
HUNG_S = 10.0
_POLL_S = 0.02


class Adopted:
    """A child that an earlier image of this very process started: `Popen`, known by pid alone."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            try:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                pid, status = self.pid, 0  # somebody else has waited for it
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Raises `subprocess.TimeoutExpired`."""
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired([str(self.pid)], timeout)
            time.sleep(_POLL_S)
        return code

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: int) -> None:
        if self.poll() is None:  # not waited for: the pid is still this child's
            os.kill(self.pid, number)


@dataclass(slots=True)
class Child:
    """`lifeline` is the write end that the child waits on; `label` is control's.

    `ready` is the read end of a pipe on which the child says that it does its work, None when
    it has closed it or was not asked to. A child that keeps it open goes on to write there
    (`lifeline.beat`), and hangs when nothing was `heard` for `HUNG_S`. `kill_at`: it was told
    to end, and must have by then.
    """

    name: str
    process: subprocess.Popen[bytes] | Adopted
    lifeline: int
    started: float
    epoch: int
    ready: int | None = None
    is_ready: bool = True
    label: dict[str, Any] = field(default_factory=dict)
    kill_at: float | None = None
    heard: float = field(default_factory=time.monotonic)
    on_trial: bool = False  # not started again when it ends

    @property
    def status(self) -> str:
        code = self.process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"exit {code}"

    def end(self, grace: float = KILL_AFTER_S) -> None:
        """Ask it to end; who looks at `kill_at` kills it when it does not."""
        if self.kill_at is None:
            self.kill_at = time.monotonic() + grace
            self.process.terminate()

    def kill(self) -> None:
        """End it at once; it is not asked, and is killed again should it not go."""
        self.kill_at = time.monotonic() + KILL_AFTER_S
        self.process.kill()

    def hear(self) -> bool:
        """Read `ready`: the first word, or a beat; False at its end, when it can be closed."""
        assert self.ready is not None
        if not os.read(self.ready, 64):
            return False
        self.is_ready, self.heard = True, time.monotonic()
        return True

    def hear_no_more(self) -> None:
        if self.ready is not None:
            os.close(self.ready)
            self.ready = None

    @property
    def hangs_at(self) -> float | None:
        """When its silence counts as a hang; None for one that promises no beats."""
        if self.ready is None or not self.is_ready or self.kill_at is not None:
            return None
        return self.heard + HUNG_S

    def close(self) -> None:
        """Let go of the pipes: the process has ended."""
        os.close(self.lifeline)
        self.hear_no_more()

    def to_dict(self) -> dict[str, Any]:
        """All of it, for another image of this process. Descriptors by number."""
        names = ("name", "lifeline", "started", "epoch", "ready", "is_ready", "label", "kill_at")
        return {"pid": self.process.pid, **{name: getattr(self, name) for name in names}}

    @classmethod
    def from_dict(cls, what: dict[str, Any]) -> Child:
        return cls(process=Adopted(what.pop("pid")), **what)


def spawn(
    name: str,
    command: list[str],
    epoch: int,
    logs: Path,
    fds: tuple[int, ...],
    values: Mapping[str, object],
) -> Child:
    """Start `command`, whose parts that are the name of one of `values` in braces are filled in.

    Others stay as they are: what users wrote may begin with a brace.

    A command with `{ready}` is given a pipe to say that it is. Output goes to
    `<logs>/<kind of name>.log`. Raises OSError, and then leaves nothing open.
    """
    logs.mkdir(parents=True, exist_ok=True)
    pipes: dict[str, tuple[int, int]] = {}  # (ours, theirs)
    try:
        read_end, write_end = os.pipe()
        pipes["lifeline"] = write_end, read_end
        if "{ready}" in command:
            pipes["ready"] = os.pipe()
        theirs = {name: ends[1] for name, ends in pipes.items()}
        places = {f"{{{place}}}": str(value) for place, value in {**theirs, **values}.items()}
        filled = [places.get(part, part) for part in command]
        with (logs / f"{name.partition('-')[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                filled,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(*theirs.values(), *fds),
                start_new_session=True,  # Ctrl-C reaches the supervisor alone, which drains
            )
    except BaseException:
        for ours, _ in pipes.values():
            os.close(ours)
        raise
    finally:
        for _, their in pipes.values():
            os.close(their)
    ready = pipes["ready"][0] if "ready" in pipes else None
    return Child(
        name, process, pipes["lifeline"][0], time.monotonic(), epoch, ready, is_ready=ready is None
    )
