"""The deployed digits model against a bare ASGI app with as many workers, in one run.

Pairs are interleaved (platform, bare, platform, bare, …) and the ratio is the median over
pairs, so that a machine whose speed drifts does not decide. The platform authenticates,
routes, isolates the engine in its own process and meters every request; the bare app does
none of it. `python benchmarks/serving.py [--seconds 5] [--pairs 5]`
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report import write
from sklearn.datasets import load_digits

from meuse.client import Client
from meuse.tour import running

HERE = Path(__file__).parent
CONNECTIONS = (1, 32)


def deployed(client: Client, folder: Path, rows: Any) -> Path:
    """Train and deploy digits; the model file, as the registry has it."""
    path = folder / "digits.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"p{i}" for i in range(64)), "digit"])
        digits = load_digits()
        writer.writerows([*map(int, r), t] for r, t in zip(digits.data, digits.target, strict=True))
    client.upload("digits", path)
    client.wait(client.train("digits", "digits", epochs=5)["id"])
    client.deploy("digits", "digits:1")
    client.wait_ready("digits")
    artifact = client.version("digits", 1)["artifacts"][0]["name"]
    model = folder / "model.onnx"
    model.write_bytes(client.download("digits", 1, artifact))
    return model


@contextlib.contextmanager
def bare(model: Path, workers: int) -> Iterator[int]:
    """The baseline on a free port, with the same server and as many workers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", "bare:app", "--app-dir", str(HERE)),
            *("--port", str(port), "--workers", str(workers), "--loop", "uvloop"),
            *("--http", "httptools", "--no-access-log", "--log-level", "warning"),
            *("--lifespan", "off", "--no-server-header", "--no-date-header"),
        ],
        env={**os.environ, "BARE_MODEL": str(model)},
    )
    try:
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            if time.monotonic() > deadline:
                raise TimeoutError("the bare app did not start")
            time.sleep(0.1)
        time.sleep(1.0)  # every worker, not only the first
        yield port
    finally:
        process.terminate()
        process.wait(20)


def load(**options: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(HERE / "load.py"), json.dumps(options)],
        capture_output=True,
        text=True,
        check=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    if figures["errors"]:
        raise RuntimeError(f"{figures['errors']} requests failed: the figure would mean nothing")
    return figures


def measure(
    port: int, bare_port: int, key: str, row: list[float], seconds: float, pairs: int
) -> Any:
    ours = {
        "port": port,
        "path": "/predictions/digits",
        "headers": {"authorization": f"Bearer {key}"},
    }
    theirs = {"port": bare_port, "path": "/", "headers": {}}
    figures = {}
    for connections in CONNECTIONS:
        common = {"body": {"input_data": [row]}, "connections": connections}
        for target in (ours, theirs):
            load(**target, **common, seconds=1.0)
        rounds = []
        for _ in range(pairs):
            a = load(**ours, **common, seconds=seconds)
            b = load(**theirs, **common, seconds=seconds)
            rounds.append({"meuse": a, "bare": b, "ratio": a["rate"] / b["rate"]})
        figures[f"{connections} connections"] = {
            "ratio": statistics.median(r["ratio"] for r in rounds),
            "meuse_rate": statistics.median(r["meuse"]["rate"] for r in rounds),
            "bare_rate": statistics.median(r["bare"]["rate"] for r in rounds),
            "meuse_p50_us": statistics.median(r["meuse"]["p50_us"] for r in rounds),
            "bare_p50_us": statistics.median(r["bare"]["p50_us"] for r in rounds),
            "meuse_p99_us": statistics.median(r["meuse"]["p99_us"] for r in rounds),
            "bare_p99_us": statistics.median(r["bare"]["p99_us"] for r in rounds),
            "rounds": rounds,
        }
    return figures


def resident(home: Path) -> dict[str, float]:
    """Resident MB of each process of the platform."""
    found = {}
    for name, process in json.loads((home / "run.json").read_text())["processes"].items():
        status = Path(f"/proc/{process['pid']}/status").read_text()
        kib = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
        found["replica" if name.startswith("replica") else name] = int(kib) / 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    row = load_digits().data[0].tolist()
    with (
        tempfile.TemporaryDirectory(prefix="meuse-bench-") as name,
        running(Path(name) / "home") as (url, _, key),
        Client(url, key) as client,
    ):
        model = deployed(client, Path(name), row)
        with bare(model, os.cpu_count() or 1) as bare_port:
            port = int(url.rpartition(":")[2])
            figures = measure(port, bare_port, key, row, options.seconds, options.pairs)
        figures["resident_mb"] = resident(Path(name) / "home")
        metered = client.usage(fresh="true", by="meter")["rows"]
        figures["rows_metered"] = next(r["quantity"] for r in metered if r["meter"] == "rows")
    path = write("serving", figures)
    for label in (f"{c} connections" for c in CONNECTIONS):
        f = figures[label]
        print(
            f"{label:15} meuse {f['meuse_rate']:8,.0f} req/s p50 {f['meuse_p50_us']:6,.0f} µs   "
            f"bare {f['bare_rate']:8,.0f} req/s p50 {f['bare_p50_us']:6,.0f} µs   "
            f"ratio {f['ratio']:.2f}"
        )
    print(f"resident MB: { ({k: round(v) for k, v in figures['resident_mb'].items()}) }")
    print(f"report: {path}")


if __name__ == "__main__":
    main()
