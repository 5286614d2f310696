"""Settings that one stream may gain from: the bare engine with each, beside llama.cpp's server.

Each runs in a process of its own. A few at a time stand beside the first setting and alternate with
it round by round, so that what the machine does meanwhile meets both alike, and memory holds no
more than these few.
"""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import llm_sides
import venvs
from clients import LoadError

if TYPE_CHECKING:
    from llm import Run

Figures = dict[str, Any]
WAVES = 3
TOGETHER = 3
"""Settings that are in memory at once, beside the first."""
LLAMA = "llama.cpp"
KV_BYTES_PER_TOKEN = 2 * 30 * 3 * 64 * 2
"""SmolLM2-135M: keys and values of 30 layers with 3 heads of 64, at 16 bits."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run the engine; `threads` of 0 are those of the run."""

    kind: str = "batching"
    threads: int = 0
    properties: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    ir: bool = False


def _lookup(ngram: int, tokens: int) -> Setting:
    return Setting(
        properties={"prompt_lookup": True},
        generation={"max_ngram_size": ngram, "num_assistant_tokens": tokens},
    )


SETTINGS: dict[str, Setting] = {
    "as deployed": Setting(),
    "one thread": Setting(threads=1),
    "prompt lookup 3, 5 tokens": _lookup(3, 5),
    "prompt lookup 2, 3 tokens": _lookup(2, 3),
    "keys and values f16": Setting(properties={"KV_CACHE_PRECISION": "f16"}),
    "no dynamic quantization": Setting(properties={"DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}),
    "dynamic quantization by 64": Setting(properties={"DYNAMIC_QUANTIZATION_GROUP_SIZE": "64"}),
    "computes in bf16": Setting(properties={"INFERENCE_PRECISION_HINT": "bf16"}),
    "no split of prompts": Setting(scheduler={"dynamic_split_fuse": False}),
    "steps of 2048 tokens": Setting(scheduler={"max_num_batched_tokens": 2048}),
    "LLMPipeline": Setting(kind="single"),
    "int8 IR": Setting(ir=True),
    "int8 IR, keys and values f16": Setting(ir=True, properties={"KV_CACHE_PRECISION": "f16"}),
    "int8 IR, LLMPipeline": Setting(kind="single", ir=True),
}


def measure(run: Run) -> Figures:
    """{name: {tokens_s, first_ms, of_deployed, same_texts} or {absent}}"""
    chosen = [n for n in run.options.settings.split(";") if n] or [*SETTINGS, LLAMA]
    first, others = chosen[0], chosen[1:]
    groups = [others[i : i + TOGETHER] for i in range(0, len(others), TOGETHER)] or [[]]
    found: Figures = {first: {}}
    firsts: list[Figures | None] = []
    with contextlib.ExitStack() as stack:
        deployed = _started(run, stack, [first], found)
        for group in groups:
            with contextlib.ExitStack() as more:
                sides = deployed | _started(run, more, group, found)
                rounds = _rounds(run, sides)
            base = rounds.pop(first, [])
            firsts += base
            found |= {name: _summary(runs, base) for name, runs in rounds.items()}
    if deployed:
        found[first] = _summary(firsts, firsts)
    found = {name: found[name] for name in chosen}
    for name, figures in found.items():
        run.say(f"{name:28} {_told(figures)}")
    return found


def _started(
    run: Run, stack: contextlib.ExitStack, names: Sequence[str], found: Figures
) -> dict[str, llm_sides.Side]:
    """Those that answer; of the others `found` says why not."""
    sides: dict[str, llm_sides.Side] = {}
    for name in names:
        try:
            side = stack.enter_context(_side(run, name))
            side.ask(run.prompts.waves(1, 1), run.options.tokens)  # warm
            sides[name] = side
        except (venvs.AbsentError, LoadError) as reason:
            found[name] = {"absent": str(reason)}
    return sides


def _side(run: Run, name: str) -> contextlib.AbstractContextManager[llm_sides.Side]:
    if name == LLAMA:
        return llm_sides.llama_cpp(run.folder, run.weights, run.options.threads, run.cache)
    setting = SETTINGS[name]
    if setting.ir and run.options.ir is None:
        raise venvs.AbsentError("no folder with an IR was given (--ir)")
    engine = llm_sides.Engine(
        model=run.options.ir if setting.ir else run.weights,
        threads=setting.threads or run.options.threads,
        kind=setting.kind,
        scheduler={**llm_sides.scheduler(KV_BYTES_PER_TOKEN), **setting.scheduler},
        properties=setting.properties,
        generation=setting.generation,
    )
    return llm_sides.bare(name, engine, run.folder)


def _rounds(run: Run, sides: Mapping[str, llm_sides.Side]) -> dict[str, list[Figures | None]]:
    """What each side did in each round; None where it failed."""
    from llm import turn

    found: dict[str, list[Figures | None]] = {name: [] for name in sides}
    for number in range(run.options.rounds):
        waves = run.prompts.waves(1, WAVES)
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            done = None
            with contextlib.suppress(LoadError, venvs.AbsentError):
                done = turn(sides[name], waves, run.options.tokens)
            found[name].append(done)
    return found


def _summary(runs: Sequence[Figures | None], base: Sequence[Figures | None]) -> Figures:
    """Medians over the rounds, and over those that both made: of the first setting's."""
    made = [run for run in runs if run]
    if not made:
        return {"absent": "every run failed"}
    rates = [run["tokens_s"] for run in made]
    both = [(run, other) for run, other in zip(runs, base, strict=False) if run and other]
    figures = {
        "tokens_s": statistics.median(rates),
        "tokens_s_all": [round(rate, 1) for rate in rates],
        "first_ms": statistics.median(run["first_ms"] for run in made),
    }
    if both:
        same = [a == b for run, other in both
                for a, b in zip(run["texts"], other["texts"], strict=True)]  # fmt: skip
        ratios = [run["tokens_s"] / other["tokens_s"] for run, other in both]
        figures["of_deployed"] = statistics.median(ratios)
        figures["same_texts"] = sum(same) / len(same)
    return figures


def _told(figures: Figures) -> str:
    if "absent" in figures:
        return f"absent: {figures['absent'].splitlines()[-1]}"
    return f"{figures['tokens_s']:7.1f} tokens/s, first after {figures['first_ms']:.0f} ms"
