"""From zero replicas to the first answer, with a spare process and without; a step in load.

Cold starts are measured one after another on one open connection, from the request's first
byte to the answer's last; control's log says where the time goes. The step holds requests in
a stopped replica, so that exactly as many are ongoing. 20 cycles also show what loading and
unloading leave behind. `python benchmarks/coldstart.py [--cycles 20]`
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import http.client
import json
import os
import re
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from report import write
from sklearn.datasets import load_digits

from meuse.client import Client
from meuse.deploy.footprint import resident
from meuse.tour.platform import running

ONGOING = 50
_LINE = re.compile(r"^(\S+ \S+) control\S* INFO \S+ (.*(?:starts in|is ready).*)$", re.MULTILINE)


def until(condition: Callable[[], Any], seconds: float = 60.0, pause: float = 0.02) -> Any:
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError("waited in vain")
        time.sleep(pause)
    return value


def trained(client: Client, folder: Path) -> None:
    """The version `digits:1`, a small ONNX model."""
    digits, path = load_digits(), folder / "digits.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"p{i}" for i in range(64)), "digit"])
        writer.writerows([*map(int, r), t] for r, t in zip(digits.data, digits.target, strict=True))
    client.upload("digits", path)
    client.wait(client.train("digits", "digits", epochs=5)["id"])


class Platform:
    """What the measurements need to know of a running platform."""

    def __init__(self, home: Path, url: str, key: str, client: Client, row: list[float]) -> None:
        self.home = home
        self.client = client
        self._key = key
        self._port = int(url.rpartition(":")[2])
        self._body = json.dumps({"input_data": [row]})
        self._http = http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)

    def ask(self, connection: http.client.HTTPConnection | None = None) -> float:
        """One request; seconds until its answer is here."""
        link = connection or self._http
        headers = {"authorization": f"Bearer {self._key}", "content-type": "application/json"}
        began = time.perf_counter()
        link.request("POST", "/predictions/digits", self._body, headers)
        response = link.getresponse()
        body = response.read()
        took = time.perf_counter() - began
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {body[:200]!r}")
        return took

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=120)

    def state(self) -> dict[str, Any]:
        return self.client.deployment("digits")

    def processes(self) -> dict[str, int]:
        document = json.loads((self.home / "run.json").read_text())
        return {name: child["pid"] for name, child in document["processes"].items()}

    def spares(self) -> int:
        sockets = Path(json.loads((self.home / "run.json").read_text())["sockets"])
        return len(list(sockets.glob("*.spare")))

    def memory(self) -> float:
        """MB of all processes together (PSS)."""
        return sum(resident(pid) or 0 for pid in self.processes().values()) / 1e6

    def log(self) -> list[tuple[float, str]]:
        """(Unix seconds, what control said) of starts."""
        text = (self.home / "logs" / "control.log").read_text()
        return [
            (datetime.strptime(at, "%Y-%m-%d %H:%M:%S,%f").timestamp(), said)
            for at, said in _LINE.findall(text)
        ]


def cold_starts(platform: Platform, cycles: int, spares: int) -> dict[str, Any]:
    scale = {"min": 0, "max": 1, "zero_after_s": 1}
    platform.client.deploy("digits", "digits:1", scale=scale)
    rounds, memory = [], []
    for _ in range(cycles + 1):
        until(lambda: platform.state()["status"] == "idle")
        until(lambda: platform.spares() == spares and len(platform.processes()) == 4 + spares)
        time.sleep(0.5)
        memory.append(platform.memory())
        sent = time.time()
        took = platform.ask()
        marks = [at - sent for at, _ in platform.log() if at >= sent - 0.002]
        start, ready = [*marks, 0.0, 0.0][:2]
        rounds.append(
            {
                "total_ms": took * 1000,
                "until_start_ms": start * 1000,
                "until_ready_ms": (ready - start) * 1000,
                "until_answer_ms": (took - ready) * 1000,
            }
        )
    del rounds[0]  # files and caches of the machine
    return {
        "spare_processes": spares,
        "cycles": cycles,
        **{name: statistics.median(r[name] for r in rounds) for name in rounds[0]},
        "max_ms": max(r["total_ms"] for r in rounds),
        "memory_before_mb": memory[1],
        "memory_after_mb": memory[-1],
        "rounds": rounds,
    }


def step(platform: Platform) -> dict[str, Any]:
    """From 1 to 50 ongoing requests: when the count is right, and when each replica is ready."""
    scale = {"min": 1, "max": 10}
    platform.client.deploy("digits", "digits:1", scale=scale)
    platform.client.wait_ready("digits")
    until(lambda: platform.state()["replicas"] == 1)
    platform.ask()
    held = {n: p for n, p in platform.processes().items() if n.startswith("replica-")}
    for pid in held.values():
        os.kill(pid, signal.SIGSTOP)
    threads = [threading.Thread(target=hold, args=(platform,)) for _ in range(ONGOING)]
    try:
        threads[0].start()
        time.sleep(25.0)  # a whole stable window of 1 ongoing request
        stepped, at = time.monotonic(), time.time()
        for thread in threads[1:]:
            thread.start()
        until(lambda: platform.state()["scaling"]["desired"] == 7, 30.0)
        right = time.monotonic() - stepped
        until(lambda: platform.state()["replicas"] == 7, 60.0)
        ready = time.monotonic() - stepped
    finally:
        for pid in held.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        for thread in threads:
            thread.join(60)
    marks = [(moment - at, said) for moment, said in platform.log() if moment >= at]
    started = {said.rpartition(", ")[2]: moment for moment, said in marks if "starts in" in said}
    took = [m - started[said.split()[0]] for m, said in marks if said.split()[0] in started]
    return {
        "ongoing": ONGOING,
        "desired": 7,
        "desired_right_after_s": right,
        "all_ready_after_s": ready,
        "start_to_ready_s": [round(seconds, 3) for seconds in took],
    }


def hold(platform: Platform) -> None:
    connection = platform.connection()
    with contextlib.suppress(OSError, RuntimeError, http.client.HTTPException):
        platform.ask(connection)
    connection.close()


def measure(spares: int, cycles: int, row: list[float]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="meuse-bench-") as name:
        home = Path(name) / "home"
        home.mkdir(mode=0o700)
        (home / "meuse.toml").write_text(f"spare_replicas = {spares}\nworkers = 2\n")
        with running(home) as (url, _, key), Client(url, key) as client:
            trained(client, Path(name))
            platform = Platform(home, url, key, client, row)
            figures = {"cold_start": cold_starts(platform, cycles, spares)}
            if spares:
                figures["step"] = step(platform)
            return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cycles", type=int, default=20)
    options = parser.parse_args()
    row = load_digits().data[0].tolist()
    figures = {
        "with a spare": measure(1, options.cycles, row),
        "without": measure(0, options.cycles, row),
        "load_average": os.getloadavg()[0],
    }
    path = write("coldstart", figures)
    for label in ("with a spare", "without"):
        f = figures[label]["cold_start"]  # type: ignore[index]
        print(
            f"{label}: {f['total_ms']:.0f} ms (most {f['max_ms']:.0f}): start after"
            f" {f['until_start_ms']:.0f}, ready {f['until_ready_ms']:.0f} later, answer"
            f" {f['until_answer_ms']:.0f} later; memory {f['memory_before_mb']:.0f} →"
            f" {f['memory_after_mb']:.0f} MB"
        )
    print(json.dumps(figures["with a spare"]["step"]))  # type: ignore[index]
    print(path)


if __name__ == "__main__":
    main()
