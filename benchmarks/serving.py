"""The platform beside other servers, and what it does under load, in one run.

    python benchmarks/serving.py --quick           the platform and the bare ASGI app, 1 minute
    python benchmarks/serving.py                   these two at length, and every scenario
    python benchmarks/serving.py --peers all       Triton, MLServer, Ray Serve, … as well

The platform authenticates, rate-limits, routes, isolates the engine in its own process and
meters every request; no other server here does any of it. Writes a dated report with ratios
under benchmarks/reports/ (`--reports` names another folder).
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import batching
import bodies
import clients
import comparison
import elastic
import holds
import models
import ours
import overload
import profiles
import servers
import tables
import venvs
from comparison import Lengths
from report import REPORTS, write

Figures = dict[str, Any]
ROUNDS = {
    "bare": 5,
    "triton": 3,
    "mlserver": 2,
    "fastapi": 2,
    "litserve": 2,
    "bentoml": 2,
    "ray": 2,
    "litserve-unbatched": 1,
    "bentoml-unbatched": 1,
}
"""Pairs with each peer; the first, with the bare app, decides the most."""
QUIET = 1.5
"""Load average above which something else must be running: starting the platform takes some."""
LARGER = {"cnn": ("bare", "triton"), "sentence_encoder": ("triton",)}
BATCHED: dict[str, tuple[Callable[[], bytes], Callable[[], dict[str, Any]]]] = {
    "sentence_encoder_8_tokens": (
        partial(models.sentence_encoder, 8),
        partial(models.example, "sentence_encoder", 1, tokens=8),
    ),
    **{
        name: (models.MODELS[name], partial(models.example, name, 1))
        for name in ("sentence_encoder", "cnn")
    },
}
"""Models for batching: (the ONNX file, one example). `tables` says what each has to give."""
SCENARIOS = ("models", "batching", "overload", "cold", "autoscale")


class Run:
    """One run: the platform, the peers' environments and the figures so far."""

    def __init__(self, platform: ours.Platform, folder: Path, lengths: Lengths) -> None:
        self.platform, self.folder, self.lengths = platform, folder, lengths
        self.venvs: dict[str, venvs.Venv] = {}
        self.absent: dict[str, str] = {}
        self.failed: list[str] = []
        self.began = time.monotonic()
        self._peers = 0

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", flush=True)

    def install(self, peers: list[str], cache: Path) -> None:
        """Before anything is measured, one after the other."""
        self.say(f"environments lie in {cache}")
        for name in peers:
            try:
                self.venvs[name] = venvs.made(name.removesuffix("-unbatched"), cache)
            except venvs.AbsentError as reason:
                self.absent[name] = str(reason)
                self.say(f"absent: {reason}")

    def model(self, name: str) -> tuple[bodies.Model, str]:
        """One of benchmarks/models.py, registered and deployed under its name."""
        onnx = models.MODELS[name]()
        inputs = models.example(name, 1)
        try:
            reference = ours.register(self.platform, name, onnx)
            ours.deploy(self.platform, name, reference)
        except ours.NotAvailableError:
            if name != "mlp":
                raise
            # A build that cannot take an ONNX file yet: a model of about the same size.
            onnx = ours.deployed(self.platform.client, self.folder, name).read_bytes()
            reference = f"{name}:1"
        return bodies.open_model(name, onnx, inputs, self.folder), reference

    def paired(
        self, peer: str, model: bodies.Model, mine: servers.Server, latency: tuple[str, ...] = ()
    ) -> Figures:
        """Start a peer, run one round of pairs with it, stop it; `latency` of these sides too."""
        self._peers += 1
        folder = self.folder / f"{peer}-{self._peers}"
        with servers.peer(peer, self.venvs[peer], model, folder) as server:
            figures = comparison.pair(mine, server, self.lengths)
            opened = {
                side: comparison.latency(
                    mine if side == "meuse" else server,
                    figures["json 32"][side]["rate"],
                    self.lengths,
                )
                for side in latency
            }
            figures["open"] = opened
            figures["resident_mb"] = server.group.resident_mb()
        return figures

    def compare(self, peers: list[str], model: bodies.Model, most: int) -> Figures:
        """Rounds in which every peer has its turn: {peer: {kinds, open, …} or {absent}}."""
        mine = ours.server(self.platform, model, model.name)
        found: dict[str, list[Figures]] = {}
        opened: dict[str, Figures] = {}
        resident: dict[str, float] = {}
        for turn in range(most):
            for peer in [p for p in peers if p not in self.absent and turn < ROUNDS[p]]:
                try:
                    sides = ("meuse", "other") if not opened else ("other",)
                    figures = self.paired(peer, model, mine, sides if turn == 0 else ())
                except (venvs.AbsentError, clients.LoadError) as reason:
                    self.absent[peer] = str(reason)
                    self.say(f"absent: {reason}")
                    if str(reason).startswith("meuse"):
                        self.failed.append(str(reason))
                    continue
                resident[peer] = figures.pop("resident_mb")
                opened.setdefault(peer, figures["open"])
                del figures["open"]
                found.setdefault(peer, []).append(figures)
                self.say(f"{peer}: {_told(figures)}")
        return {
            peer: {"absent": self.absent[peer]}
            if peer in self.absent
            else {
                "kinds": comparison.summary(found[peer]),
                "open": opened[peer],
                "resident_mb": resident[peer],
                "versions": self.venvs[peer].versions(),
                "rounds": found[peer],
            }
            for peer in peers
        }

    def larger(self, peers: list[str]) -> Figures:
        """The CNN and the sentence encoder beside the fastest peers, one round each."""
        found: Figures = {}
        for name, wanted in LARGER.items():
            found[name] = {}
            try:
                model, _ = self.model(name)
            except ours.NotAvailableError as why:
                found[name]["meuse"] = {"why": f"not available on this build: {why}"}
                continue
            mine = ours.server(self.platform, model, name)
            for peer in [p for p in wanted if p in peers and p not in self.absent]:
                try:
                    figures = self.paired(peer, model, mine)
                except (venvs.AbsentError, clients.LoadError) as reason:
                    found[name][peer] = {"absent": str(reason)}
                    continue
                del figures["resident_mb"], figures["open"]
                found[name][peer] = {"kinds": comparison.summary([figures])}
                self.say(f"{name} {peer}: {_told(figures)}")
            ours.remove(self.platform, name)
        return found

    def batching(self) -> Figures:
        found: Figures = {}
        for name in BATCHED:
            found[name] = self.scenario(f"batching {name}", partial(self._batched, name))
        return found

    def _batched(self, name: str) -> Figures:
        make, example = BATCHED[name]
        onnx = make()
        reference = ours.register(self.platform, name, onnx)
        model = bodies.open_model(name, onnx, example(), self.folder)
        figures: Figures = batching.measure(
            self.platform, model, reference, self.lengths.saturation
        )
        return figures

    def profile(self, model: bodies.Model, cpu: dict[str, float], seconds: float = 5.0) -> Figures:
        """Where the busiest worker and replica spend their time: {process: [(where, share)]}."""
        server = ours.server(self.platform, model, model.name)
        pids = ours.processes(self.platform)
        busiest = sorted(cpu, key=lambda name: -cpu[name])
        chosen = {
            kind: pids[next(name for name in busiest if name.startswith(kind))]
            for kind in ("worker", "replica")
        }
        with elastic.in_flight(server, 32, seconds + 2):
            time.sleep(0.5)
            return {
                name: profiles.read(path.read_text())
                for name, path in profiles.sampled(self.venvs["profiler"], chosen, seconds).items()
            }

    def scenario(self, name: str, measure: Callable[[], Figures]) -> Figures:
        """Its figures, or why there are none; what one breaks on does not cost the others."""
        try:
            figures = measure()
        except ours.NotAvailableError as why:
            self.say(f"{name}: not available on this build: {why}")
            return {"why": f"not available on this build: {why}"}
        except Exception as why:
            self.say(f"{name}: FAILED\n{traceback.format_exc()}")
            self.failed.append(name)
            return {"why": f"failed: {why!r}"}
        self.say(f"{name}: measured")
        return figures


def _told(figures: Figures) -> str:
    return "; ".join(
        f"{kind} {pair['other']['rate']:,.0f}/s"
        + (f", meuse {pair['meuse']['rate']:,.0f}/s" if pair["meuse"] else "")
        + (f", ratio {pair['ratio']:.2f}" if pair["ratio"] else "")
        for kind, pair in figures.items()
    )


def measured(run: Run, peers: list[str], scenarios: list[str], rounds: int) -> Figures:
    platform, folder = run.platform, run.folder
    load = os.getloadavg()[0]
    if load > QUIET:
        run.say(f"the machine is not quiet (load average {load:.1f}): the figures are not either")
    model, reference = run.model("mlp")
    figures: Figures = {
        "limits": platform.limits,
        "clients": clients.saturator(),
        "settings": {n: w for n, w in servers.SETTINGS.items() if n == "meuse" or n in peers},
        "idle_cpu": ours.idle_cpu(platform),
        "load_before": load,
    }
    figures["peers"] = run.compare(peers, model, rounds)
    plain = ours.server(platform, model, model.name).json
    cpu = ours.cpu_by_process(platform, plain, run.lengths.saturation)
    figures["cpu_by_process"] = cpu
    if "profiler" in run.venvs:
        figures["profile"] = run.scenario("profile", lambda: run.profile(model, cpu))
    if "models" in scenarios:
        figures["models"] = run.larger(peers)
    if "batching" in scenarios:
        figures["batching"] = run.batching()
    if "overload" in scenarios:
        figures["overload"] = run.scenario(
            "overload", lambda: overload.measure(platform, model, reference, folder)
        )
    if "cold" in scenarios:
        figures["cold start"] = run.scenario(
            "cold start", lambda: elastic.cold_start(platform, model, reference)
        )
        figures["cold start without spare"] = run.scenario(
            "cold start without spare",
            lambda: elastic.without_spare(folder / "no-spare", model.path.read_bytes(), model),
        )
    if "autoscale" in scenarios:
        figures["autoscale"] = run.scenario("autoscale", lambda: elastic.step(platform, folder))
    figures["resident_mb"] = ours.resident(platform)
    metered = platform.client.usage(fresh="true", by="meter")["rows"]
    figures["rows_metered"] = next(r["quantity"] for r in metered if r["meter"] == "rows")
    return figures


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="short rounds, bare app alone")
    parser.add_argument("--peers", default="bare", help=f"all, none, or of {','.join(ROUNDS)}")
    parser.add_argument(
        "--scenarios", default=",".join(SCENARIOS), help="which of them; empty for none"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of one saturating run")
    parser.add_argument("--rounds", type=int, default=5, help="most rounds with each peer")
    parser.add_argument("--profile", action="store_true", help="py-spy a worker and a replica")
    parser.add_argument("--cache", help="where the peers' environments lie")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="where the report goes")
    options = parser.parse_args()
    chosen = {"all": list(ROUNDS), "none": []}
    options.peers = chosen.get(options.peers, options.peers.split(","))
    options.scenarios = [name for name in options.scenarios.split(",") if name]
    for given, known in ((options.peers, ROUNDS), (options.scenarios, SCENARIOS)):
        for name in given:
            if name not in known:
                parser.error(f"{name!r} is not one of {', '.join(known)}")
    return options


def main() -> None:
    options = _options()
    # Ended from outside, it still ends all that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    lengths = Lengths(saturation=options.seconds)
    if options.quick:
        options.scenarios, options.rounds = [], min(options.rounds, 3)
        lengths = Lengths(saturation=2.0, single=1.0, open=1.0)
    with (
        tempfile.TemporaryDirectory(prefix="meuse-bench-") as name,
        ours.platform(Path(name)) as platform,
    ):
        run = Run(platform, Path(name), lengths)
        wanted = [*options.peers, "profiler"] if options.profile else options.peers
        run.install(wanted, venvs.cache(options.cache))
        figures = measured(run, options.peers, options.scenarios, options.rounds)
        figures["seconds"] = time.monotonic() - run.began
    figures["holds"] = holds.judged(figures)
    path = write("serving", figures, tables.page, options.reports)
    for hold in figures["holds"]:
        if hold["verdict"] != "not measured":
            print(f"{hold['verdict']:7} {hold['measured']:10,.2f} {hold['hold']:12} {hold['what']}")
    print(f"report: {path} and {path.with_suffix('.md').name}")
    if run.failed:
        raise SystemExit(f"failed: {', '.join(run.failed)}")


if __name__ == "__main__":
    main()
