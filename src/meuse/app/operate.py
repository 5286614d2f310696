"""What the CLI asks of the platform that runs from a home: drain, restart.

Signals the supervisor and reads what it writes down; standard library only.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.settings import Settings

DRAIN_S = 60.0
RESTART_S = 600.0
BEGIN_S = 10.0
LOOK_S = 0.1

Say = Callable[[str], None]


def drain(settings: Settings, say: Say) -> dict[str, Any]:
    """Let the platform answer what it has accepted and end. Says what it waits for.

    Returns {stopped: names, seconds}. Raises `unavailable` when none runs, `deadline_exceeded`.
    """
    what = running(settings)
    begun = time.monotonic()
    os.kill(what["pid"], signal.SIGTERM)
    said = ""
    while is_running(settings):
        if time.monotonic() - begun > DRAIN_S:
            raise _late(f"the platform did not end within {DRAIN_S:g} s", settings)
        left = [name for name, child in what["processes"].items() if _alive(child["pid"])]
        workers = [name for name in left if name.startswith("worker-")]
        waits = f"{', '.join(workers or left)} drains" if workers else f"{len(left)} processes end"
        if left and waits != said:
            say(waits)
            said = waits
        time.sleep(LOOK_S)
    return {"stopped": sorted(what["processes"]), "seconds": _since(begun)}


def restart(settings: Settings, say: Say, workers_only: bool = False) -> dict[str, Any]:
    """Replace the platform (or its gateway workers alone) by the code on the disk, in place.

    Returns {restarted: names, pid, build, seconds} when all that is new is ready and all that
    was old has ended. Raises `unavailable` when none runs, `conflict` when a restart goes on
    or the new code cannot start, `deadline_exceeded`.
    """
    before = running(settings)
    if "restart" not in before:  # the signal would end it
        raise MeuseError(
            Code.CONFLICT,
            "the platform that runs is of a version that cannot be replaced in place",
            hint="Stop it with `meuse drain` and start it with `meuse up`.",
        )
    if before["restart"]["state"] == "running":
        raise MeuseError(Code.CONFLICT, "a restart goes on already", hint="Wait for its end.")
    begun, number = time.monotonic(), before["restart"]["number"]
    os.kill(before["pid"], signal.SIGHUP if workers_only else signal.SIGUSR2)
    said = ""
    while True:
        now = running(settings)
        work = now["restart"]
        if work["number"] > number and work["state"] == "failed":
            raise MeuseError(
                Code.CONFLICT,
                f"the restart stopped: {work['error']}",
                hint=f"What was not replaced goes on; see {settings.logs}.",
            )
        waits = work["step"]
        if work["number"] > number and work["state"] == "done":
            outdated = [] if workers_only else _outdated(now)
            if not outdated:
                break
            waits = f"{len(outdated)} replicas run the old code"
        if waits and waits != said:
            say(waits)
            said = waits
        spent = time.monotonic() - begun
        if spent > RESTART_S or (work["number"] == number and spent > BEGIN_S):
            raise _late(f"the restart did not end within {spent:.0f} s ({waits})", settings)
        time.sleep(LOOK_S)
    old = {child["pid"] for child in before["processes"].values()}
    fresh = [name for name, child in now["processes"].items() if child["pid"] not in old]
    return {
        "restarted": sorted(fresh),
        "pid": now["pid"],
        "build": now["build"],
        "seconds": _since(begun),
    }


def running(settings: Settings) -> dict[str, Any]:
    """What run.json says. Raises `unavailable` when no platform runs from this home."""
    try:
        if is_running(settings):
            what: dict[str, Any] = json.loads(settings.run_file.read_text())
            return what
    except (FileNotFoundError, ValueError):
        pass
    raise MeuseError(
        Code.UNAVAILABLE,
        f"no platform runs from {settings.home}",
        hint="Start it with `meuse up`, or name another home with MEUSE_HOME.",
    )


def is_running(settings: Settings) -> bool:
    """Whether a supervisor holds this home: the lock tells, a pid may be another's by now."""
    try:
        lock = os.open(settings.home / "supervisor.lock", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def _outdated(what: dict[str, Any]) -> list[str]:
    return [
        name
        for name, child in what["processes"].items()
        if child["label"] and child["label"].get("build") != what["build"]
    ]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _late(message: str, settings: Settings) -> MeuseError:
    return MeuseError(
        Code.DEADLINE_EXCEEDED, message, hint=f"It goes on; see the logs in {settings.logs}."
    )


def _since(begun: float) -> float:
    return round(time.monotonic() - begun, 1)
