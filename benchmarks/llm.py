"""A language model through the platform, beside the bare engine and beside other servers.

    python benchmarks/llm.py                       every part, 10 to 15 minutes on two cores
    python benchmarks/llm.py --parts api           the platform beside the bare engine
    python benchmarks/llm.py --parts peers         beside llama.cpp's server and transformers
    python benchmarks/llm.py --parts one           settings that one stream may gain from
    python benchmarks/llm.py --tokens 8 --rounds 1 whether it runs at all

SmolLM2-135M-Instruct (a 4-bit GGUF file, 94 MB from the package index), greedy, every answer
exactly `--tokens` long. The platform authenticates, rate-limits, meters and streams each answer
over HTTP; the bare engine is a loop over `ContinuousBatchingPipeline.step` with the same scheduler
and threads, tokens in and tokens out. llama.cpp's server is built once (benchmarks/llamacpp.py).
A dated report under benchmarks/reports/ is written after each part.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llm_one
import llm_sides
import llm_tables
import venvs
from clients import LoadError
from holds import judged
from llm_sides import Side
from report import REPORTS, write

Figures = dict[str, Any]
WAVES = {1: 8, 4: 5, 16: 3}
"""Waves of one side in a pair, by the number of streams: some ten seconds."""
PARTS = ("api", "peers", "one")
QUIET = 1.5
TOPICS = ("a lighthouse", "the river Meuse", "a lost key", "two bakers", "a winter market")


class Prompts:
    """Never the same twice, so that no server's prompt cache helps more than by its template."""

    def __init__(self) -> None:
        self._number = 0

    def waves(self, streams: int, count: int) -> list[list[str]]:
        return [[self._next() for _ in range(streams)] for _ in range(count)]

    def _next(self) -> str:
        self._number += 1
        topic = TOPICS[self._number % len(TOPICS)]
        return f"{self._number}. Write a long story about {topic}, with a beginning and an end."


def turn(side: Side, waves: list[list[str]], tokens: int) -> Figures:
    """One side answers the waves: see `summed`."""
    return summed(side.name, side.ask(waves, tokens), tokens)


def summed(name: str, told: Sequence[Figures], tokens: int) -> Figures:
    """Of answered waves: tokens/s over all, and the median time to first token."""
    streams = [stream for wave in told for stream in wave["streams"]]
    short = [stream["tokens"] for stream in streams if stream["tokens"] != tokens]
    if short:
        raise LoadError(f"{name} produced {short} tokens where {tokens} were asked")
    return {
        "tokens_s": len(streams) * tokens / sum(wave["seconds"] for wave in told),
        "first_ms": statistics.median(stream["first_s"] for stream in streams) * 1000,
        "prompt_tokens": [stream["prompt_tokens"] for stream in streams],
        "texts": [stream["text"] for stream in streams],
    }


def pairs(
    sides: Sequence[Side], streams: int, tokens: int, rounds: int, prompts: Prompts
) -> dict[str, list[Figures]]:
    """`rounds` in which each side answers the same prompts. The sides take turns wave by wave, and
    who begins alternates: a machine's pace changes within seconds, and is to meet all alike."""
    found: dict[str, list[Figures]] = {side.name: [] for side in sides}
    for side in sides:
        turn(side, prompts.waves(streams, 1), tokens)  # warm
    for _ in range(rounds):
        told: dict[str, list[Figures]] = {side.name: [] for side in sides}
        for number, wave in enumerate(prompts.waves(streams, WAVES[streams])):
            for side in sides if number % 2 == 0 else list(reversed(sides)):
                told[side.name] += side.ask([wave], tokens)
        for name, answered in told.items():
            found[name].append(summed(name, answered, tokens))
    return found


def ratios(ours: Sequence[Figures], others: Sequence[Figures]) -> Figures:
    """Medians over the pairs: of tokens/s, and of the time to first token."""
    both = list(zip(ours, others, strict=True))
    return {
        "tokens": statistics.median(a["tokens_s"] / b["tokens_s"] for a, b in both),
        "first": statistics.median(a["first_ms"] / b["first_ms"] for a, b in both),
        "tokens_all": [round(a["tokens_s"] / b["tokens_s"], 4) for a, b in both],
        "first_all": [round(a["first_ms"] / b["first_ms"], 4) for a, b in both],
    }


def medians(runs: Sequence[Figures]) -> Figures:
    figures = ("tokens_s", "first_ms")
    return {figure: statistics.median(run[figure] for run in runs) for figure in figures}


class Run:
    """One run: where things lie, and what is asked how often."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.cache = venvs.cache(options.cache)
        self.weights = llm_sides.weights(self.cache, options.weights)
        self.prompts = Prompts()
        self.absent: dict[str, str] = {}
        self.began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{time.monotonic() - self.began:6.0f} s  {text}", flush=True)

    def pairs(self, sides: Sequence[Side], streams: int, rounds: int) -> dict[str, list[Figures]]:
        found = pairs(sides, streams, self.options.tokens, rounds, self.prompts)
        for name, runs in found.items():
            usual = medians(runs)
            self.say(
                f"{streams:2} streams  {name:14} {usual['tokens_s']:7.1f} tokens/s, "
                f"first after {usual['first_ms']:.0f} ms"
            )
        return found

    # -- parts ----------------------------------------------------------------------------

    def api(self) -> Figures:
        """The platform beside the bare engine, LLMPipeline at one stream, memory of both."""
        threads = self.options.threads
        with contextlib.ExitStack() as stack:
            meuse, kv_bytes = stack.enter_context(
                llm_sides.meuse(self.folder / "api", self.weights, threads)
            )
            engine = llm_sides.Engine(
                model=self.weights, threads=threads, scheduler=llm_sides.scheduler(kv_bytes)
            )
            bare = stack.enter_context(llm_sides.bare("bare", engine, self.folder))
            single = stack.enter_context(
                llm_sides.bare(
                    "LLMPipeline",
                    llm_sides.Engine(model=self.weights, threads=threads, kind="single"),
                    self.folder,
                )
            )
            result: Figures = {"limits": meuse.platform.limits, "streams": {}}
            for streams in self.options.streams:
                sides = [meuse, bare, single] if streams == 1 else [meuse, bare]
                found = self.pairs(sides, streams, self.options.rounds)
                result["streams"][str(streams)] = {
                    **{name: medians(runs) for name, runs in found.items()},
                    "ratio": ratios(found["meuse"], found["bare"]),
                    "prompt_tokens_equal": all(
                        a["prompt_tokens"] == b["prompt_tokens"]
                        for a, b in zip(found["meuse"], found["bare"], strict=True)
                    ),
                    "texts_equal": _equal(found["meuse"], found["bare"]),
                }
            result["resident_mb"] = {side.name: side.resident_mb() for side in (meuse, bare)}
            result["metered"] = _metered(meuse)
        return result

    def peers(self) -> Figures:
        """The platform beside each peer over HTTP; the peer runs for its pairs alone."""
        threads, rounds = self.options.threads, min(self.options.rounds, 3)
        found: Figures = {}
        with llm_sides.meuse(self.folder / "peers", self.weights, threads) as (meuse, _):
            for name, make in self._peers(threads).items():
                try:
                    with make() as peer:
                        found[name] = self._beside(meuse, peer, rounds)
                        found[name]["resident_mb"] = peer.resident_mb()
                except (venvs.AbsentError, LoadError) as reason:
                    self.absent[name] = str(reason)
                    self.say(f"absent: {reason}")
                    found[name] = {"absent": str(reason)}
        return found

    def _peers(self, threads: int) -> dict[str, Callable[[], Any]]:
        made = {
            "llama.cpp": lambda: llm_sides.llama_cpp(
                self.folder, self.weights, threads, self.cache
            ),
            "transformers": lambda: llm_sides.transformers(self.folder, self.weights, threads),
        }
        return {name: make for name, make in made.items() if name in self.options.peers}

    def _beside(self, meuse: Side, peer: Side, rounds: int) -> Figures:
        result: Figures = {}
        for streams in self.options.streams:
            # One at sixteen streams, its ratio is far from the hold: it would take minutes.
            least = 1 if peer.name == "transformers" else rounds
            found = self.pairs([meuse, peer], streams, least)
            result[str(streams)] = {
                **{name: medians(runs) for name, runs in found.items()},
                "ratio": ratios(found["meuse"], found[peer.name]),
            }
        return result

    def one(self) -> Figures:
        """Settings of the engine at one stream, beside llama.cpp's server."""
        return llm_one.measure(self)


def _equal(ours: Sequence[Figures], others: Sequence[Figures]) -> float:
    """The share of texts that are the same. At one stream all are; batching changes rounding."""
    both = [
        bool(mine == other)
        for a, b in zip(ours, others, strict=True)
        for mine, other in zip(a["texts"], b["texts"], strict=True)
    ]
    return sum(both) / len(both)


def _metered(meuse: llm_sides.Replica) -> Figures:
    rows = meuse.platform.client.usage(fresh="true", by="meter")["rows"]
    return {row["meter"]: row["quantity"] for row in rows}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--streams", default="1,4,16")
    parser.add_argument("--tokens", type=int, default=96, help="of each answer")
    parser.add_argument("--rounds", type=int, default=5, help="pairs (with peers at most 3)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peers", default="llama.cpp,transformers")
    parser.add_argument("--settings", default="", help="of the part one, divided by ;")
    parser.add_argument("--weights", help="the GGUF file (default: from the package index)")
    parser.add_argument("--ir", type=Path, help="a folder with an int8 IR, for the part one")
    parser.add_argument("--cache", help="where the peers lie (default ~/.cache/meuse-bench)")
    parser.add_argument("--reports", type=Path, default=REPORTS, help="where the report goes")
    options = parser.parse_args()
    options.parts = [name for name in options.parts.split(",") if name]
    options.streams = [int(number) for number in options.streams.split(",")]
    options.peers = [name for name in options.peers.split(",") if name]
    for given, known in ((options.parts, PARTS), (options.streams, WAVES)):
        for name in given:
            if name not in known:
                parser.error(f"{name!r} is not one of {', '.join(map(str, known))}")
    return options


def main() -> None:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    with tempfile.TemporaryDirectory(prefix="meuse-llm-") as name:
        failed = measure(Run(Path(name), options))
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def measure(run: Run) -> Figures:
    """Every part, and a report after each: what was measured outlives a part that fails, and a
    run that is ended. Why parts failed, by name."""
    options, load = run.options, os.getloadavg()[0]
    if load > QUIET:
        run.say(f"the machine is not quiet (load {load:.1f}): the figures are not either")
    figures: Figures = {
        "load_before": load,
        **{name: getattr(options, name) for name in ("tokens", "rounds", "threads")},
        "failed": {},
    }
    for part in options.parts:
        (run.folder / part).mkdir()
        begun = time.monotonic()
        try:
            figures[part] = getattr(run, part)()
        except Exception as error:
            traceback.print_exc()
            figures["failed"][part] = f"{type(error).__name__}: {error}"
        figures[f"{part}_seconds"] = time.monotonic() - begun
        figures["seconds"] = time.monotonic() - run.began
        _tell(figures, options)
    failed: Figures = figures["failed"]
    return failed


def _tell(figures: Figures, options: argparse.Namespace) -> None:
    figures["holds"] = judged(figures, llm_tables.HOLDS)
    kind = "llm" if options.parts == list(PARTS) else f"llm-{'-'.join(options.parts)}"
    path = write(kind, figures, llm_tables.page, options.reports)
    for hold in figures["holds"]:
        if hold["verdict"] != "not measured":
            print(f"{hold['verdict']:7} {hold['measured']:10,.2f} {hold['hold']:12} {hold['what']}")
    print(f"report: {path} and {path.with_suffix('.md').name}", flush=True)


if __name__ == "__main__":
    main()
