"""Spare processes: everything imported, no model; one becomes a replica within a moment.

A spare listens on `<sockets>/<id>.spare` and answers lines of JSON: {"ping": true} with
{"ok": true}, and {"argv": [...]}, the command line of the replica that it shall be, with the
same before it loads the model. From then on it is that replica, under its own id. One that
does not answer at once is hung: it is stopped, and another takes its place. Sees processes
through `core.ports.Launcher`.
"""

from __future__ import annotations

import json
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from meuse.core.ids import new_id
from meuse.core.ports import Launcher

log = logging.getLogger(__name__)

ANSWER_S = 0.25
PING_S = 5.0
READY_S = 60.0
BACKOFF_S = (1.0, 5.0, 30.0)


class Spares:
    """Keeps `count` of each engine that is asked for; `command(id, engine)` starts one.

    Those of another `build`, the code that they were started with, are replaced. Not for two
    threads at once. `clock` is monotonic seconds.
    """

    def __init__(
        self,
        launcher: Launcher,
        sockets: Path,
        count: int,
        command: Callable[[str, str], list[str]],
        clock: Callable[[], float] = time.monotonic,
        build: str = "",
    ) -> None:
        self._build = build
        self._launcher = launcher
        self._sockets = sockets
        self._count = count
        self._command = command
        self._clock = clock
        self._running: dict[str, str] = {}  # id → engine
        self._since: dict[str, float] = {}
        self._ready: set[str] = set()
        self._pinged_at = 0.0
        self._deaths: Counter[str] = Counter()  # by engine, in a row
        self._again_at: dict[str, float] = {}

    def look(self, labels: Mapping[str, Mapping[str, Any]]) -> None:
        """What the launcher says that runs: which of it is spare, and which spares ended."""
        now = self._clock()
        spares = {name: str(label["spare"]) for name, label in labels.items() if "spare" in label}
        for name in [n for n in spares if labels[n].get("build", "") != self._build]:
            del spares[name]
            self._drop(name)
        for name, engine in self._running.items():
            if name not in labels and name not in self._ready:
                self._died(engine, now)
        for name in [n for n in self._since if n not in spares]:
            del self._since[name]
            self._path(name).unlink(missing_ok=True)
        for name in spares:
            self._since.setdefault(name, now)
        self._running = spares
        self._ready &= spares.keys()
        if now - self._pinged_at >= PING_S or spares.keys() - self._ready:
            self._ping(now)

    def keep(self, engines: Collection[str]) -> None:
        """Start what is missing of these engines, and stop the spares of others."""
        now = self._clock()
        have = Counter(self._running.values())
        for engine in engines:
            if self._again_at.get(engine, 0.0) <= now:
                label = {"spare": engine, "build": self._build}
                for _ in range(self._count - have[engine]):
                    name = new_id("replica")
                    self._running[name] = engine
                    self._since[name] = now
                    self._launcher.start(name, self._command(name, engine), label)
        for name, engine in list(self._running.items()):
            if engine not in engines or have[engine] > self._count:
                have[engine] -= 1
                self._drop(name)

    def assign(
        self, engine: str, command: Callable[[str], list[str]], label: dict[str, Any]
    ) -> str | None:
        """Make a spare the replica of `command(id)`; its id, or None when there is none."""
        for name in [n for n, kind in self._running.items() if kind == engine]:
            answer = self._ask(name, {"argv": command(name)})
            if answer:
                self._forget(name)
                self._launcher.label(name, label)
                return name
            if answer is False or name in self._ready:
                log.warning("the spare process %s does not answer", name)
                self._drop(name)
        return None

    def _ping(self, now: float) -> None:
        """Between two calls, one that hangs is found before it is needed."""
        whole = now - self._pinged_at >= PING_S
        if whole:
            self._pinged_at = now
        for name in list(self._running):
            if name in self._ready and not whole:
                continue
            answer = self._ask(name, {"ping": True})
            if answer:
                self._ready.add(name)
                self._deaths.pop(self._running[name], None)
            elif answer is False or name in self._ready or now - self._since[name] > READY_S:
                log.warning("the spare process %s hangs", name)
                self._drop(name)

    def _ask(self, name: str, message: dict[str, Any]) -> bool | None:
        """Whether it has answered; None when it does not even listen."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as link:
            link.settimeout(ANSWER_S)
            try:
                link.connect(str(self._path(name)))
            except OSError:
                return None
            try:
                link.sendall(json.dumps(message).encode() + b"\n")
                answer: Any = json.loads(link.makefile("rb").readline())
            except (OSError, ValueError):
                return False
        return bool(answer.get("ok"))

    def _drop(self, name: str) -> None:
        self._forget(name)
        self._launcher.stop(name)

    def _forget(self, name: str) -> None:
        self._running.pop(name, None)
        self._ready.discard(name)

    def _died(self, engine: str, now: float) -> None:
        """It never answered: the next one waits, longer each time."""
        delay = BACKOFF_S[min(self._deaths[engine], len(BACKOFF_S) - 1)]
        self._deaths[engine] += 1
        self._again_at[engine] = now + delay
        log.warning("a spare process of %s ended before it was ready; see logs", engine)

    def _path(self, name: str) -> Path:
        return self._sockets / f"{name}.spare"
