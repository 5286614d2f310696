"""What Meuse adds in front of another server's language model, keyed, limited and metered.

`python benchmarks/llm_external.py [--seconds S] [--rounds N]` prints JSON: rate and latency at 16
connections and at one, through Meuse (2 workers) and straight to a mock of the server, in pairs
that alternate, and the medians. Load, platform and mock share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bodies import Request
from clients import LoadError, closed
from ours import Platform, platform
from processes import Group, free_port, started

MOCK = Path(__file__).parent / "peers" / "openai_mock.py"
CONNECTIONS = (16, 1)
PATH = "/v1/chat/completions"
LITELLM = {"rate_16": 250.0, "added_p50_us_1": 11_000.0}
"""Its proxy in front of the like on the same kind of machine: shared/reference/measured.md."""
_MESSAGES = [{"role": "user", "content": "Which town lies on the river?"}]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-external-") as name:
        json.dump(measure(Path(name), options.seconds, options.rounds), sys.stdout, indent=1)


def measure(folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    port = free_port()
    settings = {"workers": "2", "external_hosts": f'"http://127.0.0.1:{port}@ipv4"'}
    command = [sys.executable, str(MOCK), str(port)]
    with (
        started(command, {}, folder / "mock.log", folder) as (_, mock),
        platform(folder, settings) as meuse,
    ):
        deploy(meuse, port)
        runs: dict[str, list[dict[str, Any]]] = {}
        for _ in range(rounds):
            for connections in CONNECTIONS:
                for name, figures in pair(meuse, mock, port, connections, seconds).items():
                    runs.setdefault(f"{name}_{connections}", []).append(figures)
        used = meuse.client.call("GET", "/api/usage?by=model,meter&fresh=true")
    return summary(runs) | {"limits": meuse.limits, "usage": used["rows"]}


def deploy(meuse: Platform, port: int) -> None:
    body = {"url": f"http://127.0.0.1:{port}/v1", "upstream_model": "mock", "context": 4096}
    made = meuse.client.call(
        "POST", "/api/models/mock/external", json={**body, "api_key": "sk-bench"}
    )
    meuse.client.call("PUT", "/api/deployments/far", json={"model": made["ref"]})
    deadline = time.monotonic() + 60
    while meuse.client.call("GET", "/api/deployments/far")["status"] != "ready":
        if time.monotonic() > deadline:
            raise LoadError("the deployment was not ready within a minute")
        time.sleep(0.2)


def pair(
    meuse: Platform, mock: Group, port: int, connections: int, seconds: float
) -> dict[str, dict[str, Any]]:
    direct = Request(PATH, _body("mock"), {"content-type": "application/json"})
    ours = Request(PATH, _body("far"), {**direct.headers, **meuse.headers()})
    return {
        "direct": closed(port, direct, mock, seconds, connections),
        "meuse": closed(meuse.port, ours, meuse.group, seconds, connections),
    }


def _body(model: str) -> bytes:
    return json.dumps({"model": model, "messages": _MESSAGES, "max_tokens": 32}).encode()


def summary(runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians over the rounds, and what was added, pair by pair."""

    def median(name: str, figure: str) -> float:
        values: list[float] = [run[figure] for run in runs[name]]
        return round(statistics.median(values), 3)

    added = [
        ours["p50_us"] - direct["p50_us"]
        for ours, direct in zip(runs["meuse_1"], runs["direct_1"], strict=True)
    ]
    rate = median("meuse_16", "rate")
    figures = {
        name: {figure: median(name, figure) for figure in ("rate", "p50_us", "p99_us")}
        for name in runs
    }
    return {
        "figures": figures,
        "added_p50_us_1": round(statistics.median(added), 1),
        "cpu_ms_per_request": median("meuse_16", "cpu_s_per_1000"),
        "times_litellm": round(rate / LITELLM["rate_16"], 1),
        "litellm": LITELLM,
    }


if __name__ == "__main__":
    main()
