"""What Meuse adds in front of another server's language model, beside LiteLLM's proxy.

    python benchmarks/llm_external.py                        5 rounds, about 3 minutes
    python benchmarks/llm_external.py --seconds 1 --rounds 1 whether it runs at all
    python benchmarks/llm_external.py --without-litellm      Meuse and the direct way alone

A mock of the server answers at once. In each round it is asked directly, through Meuse and
through LiteLLM (an environment of its own below the cache folder), with 16 connections and with
one; who begins alternates. Meuse has 2 workers, checks a key and a rate limit and meters; LiteLLM
has 2 workers and its master key, no database. Load, gateways and mock share the machine's cores.
Writes a dated report under benchmarks/reports/.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import llm_tables
import venvs
from bodies import Request
from clients import LoadError, closed, saturate, saturator
from holds import Hold, judged
from ours import Platform, platform
from processes import Group, free_port, started
from report import REPORTS, write
from tables import number, table

Figures = dict[str, Any]
MOCK = Path(__file__).parent / "peers" / "openai_mock.py"
CONNECTIONS = (16, 1)
PATH = "/v1/chat/completions"
KEY = "sk-bench"
START_S = 180.0
_MESSAGES = [{"role": "user", "content": "Which town lies on the river?"}]

HOLDS = (
    Hold(
        "req/s at 16 connections, of LiteLLM's proxy",
        ">=",
        20,
        lambda f: float(f["times_litellm_16"]),
    ),
    Hold(
        "p50 at one connection above the direct way's",
        "<=",
        0.4,
        lambda f: float(f["added_p50_ms"]["meuse"]),
        "ms",
    ),
)


class Side:
    """One way to the mock: where, whose processes, and what is sent."""

    def __init__(self, port: int, group: Group, model: str, headers: Mapping[str, str]) -> None:
        body = {"model": model, "messages": _MESSAGES, "max_tokens": 32}
        told = {"content-type": "application/json", **headers}
        self.port, self.group = port, group
        self.request = Request(PATH, json.dumps(body).encode(), told)

    def measured(self, connections: int, seconds: float) -> Figures:
        if connections == 1:
            return closed(self.port, self.request, self.group, seconds)
        return saturate(self.port, self.request, self.group, seconds, connections)


def measure(folder: Path, options: argparse.Namespace) -> Figures:
    port = free_port()
    settings = {"workers": "2", "external_hosts": f'"http://127.0.0.1:{port}@ipv4"'}
    command = [sys.executable, str(MOCK), str(port)]
    with contextlib.ExitStack() as stack:
        _, mock = stack.enter_context(started(command, {}, folder / "mock.log", folder))
        meuse = stack.enter_context(platform(folder, settings))
        deploy(meuse, port)
        sides = {
            "direct": Side(port, mock, "mock", {}),
            "meuse": Side(meuse.port, meuse.group, "far", meuse.headers()),
        }
        absent = ""
        if not options.without_litellm:
            try:
                sides["litellm"] = stack.enter_context(litellm(folder, port, options.cache))
            except venvs.AbsentError as reason:
                absent = str(reason)
                print(f"absent: {reason}", flush=True)
        runs = rounds(sides, options.seconds, options.rounds)
        used = meuse.client.call("GET", "/api/usage?by=model,meter&fresh=true")
        figures = summary(runs)
        figures["resident_mb"] = {name: side.group.resident_mb() for name, side in sides.items()}
    return {**figures, "absent": absent, "limits": meuse.limits, "usage": used["rows"]}


def rounds(sides: Mapping[str, Side], seconds: float, count: int) -> dict[str, list[Figures]]:
    """{"meuse 16": [one for each round], …}"""
    found: dict[str, list[Figures]] = {}
    for side in sides.values():
        side.measured(4, min(seconds, 1.0))  # warm
    for turn in range(count):
        for connections in CONNECTIONS:
            for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
                figures = sides[name].measured(connections, seconds)
                found.setdefault(f"{name} {connections}", []).append(figures)
                print(
                    f"{name:8} {connections:3} connections  {figures['rate']:9,.0f} req/s  "
                    f"p50 {figures['p50_us'] / 1000:7.3f} ms",
                    flush=True,
                )
    return found


def deploy(meuse: Platform, port: int) -> None:
    body = {"url": f"http://127.0.0.1:{port}/v1", "upstream_model": "mock", "context": 4096}
    made = meuse.client.call("POST", "/api/models/mock/external", json={**body, "api_key": KEY})
    meuse.client.call("PUT", "/api/deployments/far", json={"model": made["ref"]})
    meuse.client.wait_ready("far", 60.0)


@contextlib.contextmanager
def litellm(folder: Path, upstream: int, cache: str | None) -> Iterator[Side]:
    """LiteLLM's proxy in front of the mock. Raises AbsentError."""
    venv = venvs.made("litellm", venvs.cache(cache))
    port = free_port()
    config = {
        "model_list": [
            {
                "model_name": "far",
                "litellm_params": {
                    **{"model": "openai/mock", "api_key": KEY},
                    "api_base": f"http://127.0.0.1:{upstream}/v1",
                },
            }
        ],
        "general_settings": {"master_key": KEY},
    }
    path = folder / "litellm.yaml"
    path.write_text(json.dumps(config))  # YAML has all of JSON
    command = [
        *(str(venv.folder / "bin" / "litellm"), "--config", str(path)),
        *("--host", "127.0.0.1", "--port", str(port), "--num_workers", "2"),
        *("--telemetry", "False"),
    ]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    # Its scripts must find their own environment, not this one's.
    environment |= {"PATH": f"{venv.folder / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": ""}
    log = folder / "litellm.log"
    with started(command, environment, log, folder) as (process, group):
        side = Side(port, group, "far", {"authorization": f"Bearer {KEY}"})
        deadline = time.monotonic() + START_S
        while (problem := asked(side)) is not None:
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-400:]
                raise venvs.AbsentError(f"litellm does not serve: {problem}\n{tail}")
            time.sleep(0.5)
        yield side


def asked(side: Side) -> str | None:
    """What is wrong with one answer; None when nothing is."""
    link = http.client.HTTPConnection("127.0.0.1", side.port, timeout=30)
    try:
        link.request("POST", side.request.path, side.request.body, dict(side.request.headers))
        response = link.getresponse()
        body = response.read()
        if response.status == 200 and b"Meuse" in body:
            return None
        return f"HTTP {response.status}: {body[:200]!r}"
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        link.close()


def summary(runs: Mapping[str, list[Figures]]) -> Figures:
    """Medians over the rounds, and what was added, round by round."""

    def median(name: str, figure: str) -> float:
        return float(statistics.median([run[figure] for run in runs[name]]))

    def over(name: str, other: str, figure: str, sign: str) -> list[float]:
        both = zip(runs[name], runs[other], strict=True)
        return [a[figure] / b[figure] if sign == "/" else a[figure] - b[figure] for a, b in both]

    names = [name.partition(" ")[0] for name in runs if name.endswith(" 16")]
    added = {
        name: statistics.median(over(f"{name} 1", "direct 1", "p50_us", "-")) / 1000
        for name in names
        if name != "direct"
    }
    found: Figures = {
        "ways": {
            name: {f: median(name, f) for f in ("rate", "p50_us", "p99_us", "cpu_s_per_1000")}
            for name in runs
        },
        "added_p50_ms": added,
        "rounds": {name: [round(run["rate"], 1) for run in kept] for name, kept in runs.items()},
    }
    if "litellm 16" in runs:
        found["times_litellm_16"] = statistics.median(over("meuse 16", "litellm 16", "rate", "/"))
        found["times_litellm_1"] = statistics.median(over("meuse 1", "litellm 1", "rate", "/"))
    return found


def page(body: Figures) -> str:
    f, machine = body["figures"], body["machine"]
    rows = [
        [
            *(*name.split(), number(way["rate"]), number(way["p50_us"] / 1000, 3)),
            *(number(way["p99_us"] / 1000, 2), number(way["cpu_s_per_1000"], 3)),
        ]
        for name, way in f["ways"].items()
    ]
    head = ("way", "connections", "req/s", "p50 ms", "p99 ms", "CPU s/1,000")
    added = ", ".join(f"{name} {ms:.3f} ms" for name, ms in f["added_p50_ms"].items())
    held = ", ".join(f"{name} {mb:,.0f} MB" for name, mb in f["resident_mb"].items())
    parts = [
        f"# In front of another server, {body['date']}",
        f"Commit {body['commit']}; {machine['processor']}, {machine['cores']} cores, Python "
        f"{machine['python']}. {f['rounds_asked']} rounds of {f['seconds_each']:g} s; load: "
        f"{f['client']}; load average before {f['load_before']:.1f}. Rate limit {f['limits']}.",
        "## Holds\n\n" + llm_tables.holds(f["holds"]),
        "## Ways to the same mock\n\n" + table(head, rows),
        f"Added to the direct way's p50 at one connection: {added}. Resident: {held}."
        + (f" LiteLLM is absent: {f['absent']}" if f["absent"] else ""),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of one way in one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without-litellm", action="store_true")
    parser.add_argument("--cache", help="where LiteLLM lies (default ~/.cache/meuse-bench)")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="where the report goes")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="bench-external-") as name:
        figures = measure(Path(name), options)
    figures |= {"load_before": load, "client": saturator()["http"]}
    figures |= {"rounds_asked": options.rounds, "seconds_each": options.seconds}
    figures["holds"] = judged(figures, HOLDS)
    path = write("llm-external", figures, page, options.reports)
    for hold in figures["holds"]:
        measured = "-" if hold["measured"] is None else f"{hold['measured']:.3f}"
        print(f"{hold['verdict']:12} {measured:>10} {hold['hold']:12} {hold['what']}")
    print(f"report: {path} and {path.with_suffix('.md').name}")


if __name__ == "__main__":
    try:
        main()
    except LoadError as error:
        raise SystemExit(f"the run means nothing: {error}") from None
