"""Cold start from zero replicas, and the autoscaler's answer to a step of load."""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bodies
import clients
import ours
from overload import slow
from servers import Server

STARTS = 5
ZERO_AFTER_S = 1.0
STEP = 50
TARGET = 10.0
SPARES = "spare_replicas"
"""The setting that says how many started, empty replica processes are kept."""


def cold_start(platform: ours.Platform, model: bodies.Model, reference: str) -> Any:
    """Milliseconds from a request at zero replicas to its answer. Raises NotAvailableError."""
    ours.deploy(
        platform,
        "cold",
        reference,
        scale={"min": 0, "max": 1, "zero_after_s": ZERO_AFTER_S},
        timeout_ms=30_000,
    )
    request = bodies.simple("/predictions/cold", model).with_headers(platform.headers())
    taken = []
    try:
        try:
            clients.once(platform.port, request, model, 30.0)
        except clients.LoadError as error:
            raise ours.NotAvailableError(f"scale.min 0: {error}") from None
        for _ in range(STARTS):
            _until_zero(platform)
            time.sleep(1.0)  # let the next spare process start
            began = time.perf_counter()
            clients.once(platform.port, request, model, 0.0)
            taken.append((time.perf_counter() - began) * 1000)
        began = time.perf_counter()
        clients.once(platform.port, request, model, 0.0)
        warm = (time.perf_counter() - began) * 1000
    finally:
        ours.remove(platform, "cold")
    return {"median_ms": statistics.median(taken), "all_ms": taken, "warm_ms": warm}


def _until_zero(platform: ours.Platform) -> None:
    deadline = time.monotonic() + ZERO_AFTER_S + 30
    while platform.client.deployment("cold")["replicas"]:
        if time.monotonic() > deadline:
            raise ours.NotAvailableError("scale.min 0: the deployment keeps its last replica")
        time.sleep(0.05)


def without_spare(folder: Path, onnx: bytes, model: bodies.Model) -> Any:
    """The same on a platform that keeps no spare process."""
    folder.mkdir()
    try:
        with ours.platform(folder, {SPARES: "0"}) as platform:
            return cold_start(platform, model, ours.register(platform, model.name, onnx))
    except ours.NotAvailableError:
        raise
    except Exception as error:
        if SPARES in str(error):
            raise ours.NotAvailableError(f"the setting {SPARES}") from None
        raise


def step(platform: ours.Platform, folder: Path, seconds: float = 15.0) -> Any:
    """From 1 to 50 requests in flight at once: when `desired` is right and replicas ready."""
    onnx, row = slow(20.0)
    model = bodies.open_model("step", onnx, {"input": row}, folder)
    wanted = math.ceil(STEP / TARGET)
    scale = {"min": 1, "max": wanted + 3, "target": TARGET, "stable_s": 10, "panic_s": 2}
    seen: list[dict[str, Any]] = []
    try:
        version = ours.register(platform, "step", onnx)
        ours.deploy(platform, "step", version, scale=scale, batching={"max_rows": 1})
        server = ours.server(platform, model, "step")
        with in_flight(server, 1, seconds + 5):
            time.sleep(3.0)
            began = time.monotonic()
            with in_flight(server, STEP - 1, seconds):
                while (at := time.monotonic() - began) < seconds:
                    state = platform.client.deployment("step")
                    now = {
                        "desired": (state.get("scaling") or {}).get("desired"),
                        "ready": state["replicas"],
                    }
                    if not seen or now != {k: seen[-1][k] for k in now}:
                        seen.append({"at_s": at, **now})
                    time.sleep(0.05)
    finally:
        ours.remove(platform, "step")
    if all(s["desired"] is None for s in seen) and len({s["ready"] for s in seen}) == 1:
        raise ours.NotAvailableError("autoscaling: the number of replicas never changed")
    right = [s["at_s"] for s in seen if s["desired"] == wanted]
    ready = {
        n: next((s["at_s"] for s in seen if s["ready"] >= n), None) for n in range(2, wanted + 1)
    }
    return {
        "wanted": wanted,
        "desired_right_after_s": right[0] if right else None,
        "replicas_ready_after_s": ready,
        "seen": seen,
    }


@contextlib.contextmanager
def in_flight(server: Server, connections: int, seconds: float) -> Iterator[None]:
    """So many closed-loop connections in the background, until they end by themselves."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            clients.closed(server.port, server.json, server.group, seconds, connections)
        except clients.LoadError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]
