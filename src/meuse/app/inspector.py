"""Reads uploads in children: a hostile file costs a child process, not control."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meuse.app import commands
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Inspected, Signature
from meuse.settings import Settings

log = logging.getLogger(__name__)

TIMEOUT_S = 120.0
PROFILE_TIMEOUT_S = 600.0
WAIT_S = 10.0
PLACES = 2  # each may take 4 GiB and a thread that other calls need
Progress = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Inspector:
    """`table` and `model` raise `invalid_data` and what the child found."""

    settings: Settings
    places: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(PLACES))

    def table(
        self,
        path: Path,
        format: str,
        out: Path,
        options: Mapping[str, Any],
        progress: Progress = lambda part: None,
        timeout_s: float = TIMEOUT_S,
    ) -> Inspected:
        """What the upload holds; its rows are in `out`, in the canonical form."""
        answer = self._ask(path, format, out, options, progress, timeout_s)
        columns = (Column(**{**c, "shape": tuple(c["shape"])}) for c in answer["columns"])
        return Inspected(
            answer["rows"],
            tuple(columns),
            out,
            tuple(answer["warnings"]),
            tuple(answer["skipped"]),
        )

    def profile(self, path: Path, out: Path, options: Mapping[str, Any]) -> None:
        """Write the profile (JSON) of the table at `path` to `out`; `options` as `inspect` has
        them."""
        self._ask(path, "profile", out, options, lambda part: None, PROFILE_TIMEOUT_S)

    def model(self, path: Path, format: str) -> Signature:
        """The signature of an uploaded model, loaded and tried."""
        answer = self._ask(path, format, path, {}, lambda part: None, TIMEOUT_S)
        return Signature.from_dict(answer["signature"])

    def _ask(
        self,
        path: Path,
        format: str,
        out: Path,
        options: Mapping[str, Any],
        progress: Progress,
        timeout_s: float,
    ) -> dict[str, Any]:
        if not self.places.acquire(timeout=WAIT_S):
            raise MeuseError(
                Code.OVERLOADED, "too many uploads are being read", hint="Try again later."
            )
        try:
            life_read, life_write = os.pipe()
            try:
                command = commands.inspect(self.settings, path, format, life_read, out, options)
                answer = _run(command, life_read, progress, timeout_s)
            finally:
                os.close(life_read)
                os.close(life_write)
        finally:
            self.places.release()
        if "error" in answer:
            raise MeuseError.from_dict(answer["error"])
        return answer


def _run(command: list[str], lifeline: int, progress: Progress, timeout_s: float) -> dict[str, Any]:
    """The child's last line; what comes before it is progress."""
    answer: dict[str, Any] = {}
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        pass_fds=(lifeline,),
    ) as child:
        too_long = threading.Timer(timeout_s, child.kill)
        too_long.start()
        try:
            assert child.stdout is not None
            for line in child.stdout:
                answer = json.loads(line)
                if "progress" in answer:
                    progress(answer["progress"])
        except ValueError:
            answer = {}
        finally:
            too_long.cancel()
            child.kill()
    if not answer or "progress" in answer:
        log.warning("inspection of an upload failed: exit status %s", child.returncode)
        raise MeuseError(
            Code.INVALID_DATA,
            "the file could not be read",
            field="body",
            hint="It is damaged, or reading it takes too much time or memory.",
        )
    return answer
