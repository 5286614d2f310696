"""Keys and values of a language model at 32, 16 and 8 bits: bytes, perplexity, answers and pace.

The engine echoes a prompt with the probability of each of its tokens, by the keys and values as it
keeps them: perplexity is that of held-out texts in the engine itself. A greedy answer counts up to
its first token that differs from that at 32 bits, for from there on the two are different texts; 32
bits run twice, and the second run says what else changes answers.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import openvino_genai

from meuse.compress.language import speed
from meuse.core import jsonl
from meuse.evaluate.language import lines
from meuse.gateway.openai.conversation import normal
from meuse.language.checkpoint import open_checkpoint
from meuse.language.graph import graph_of
from meuse.language.ir import write_ir
from meuse.pull.facts import Facts
from meuse.serve.generation.engine import Generator, Work
from meuse.serve.generation.genai import GenaiGenerator
from meuse.serve.generation.messages import Sampling
from meuse.serve.generation.tuning import BLOCK_TOKENS, Tuning

TEXTS = 100
CACHE_MB = 256
WHOLE = "f32"
AGAIN = "f32 again"
PRECISIONS = (WHOLE, "f16", "u8")
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}
"""Processors with bfloat16 compute in it unless they are told; then no cache holds float32."""
Ids = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Said:
    """The tokens of one greedy answer, and the logarithm of each one's probability."""

    ids: list[int]
    logprobs: list[float]


def measure(model: Path, found: Facts, texts: Path, folder: Path) -> dict[str, Any]:
    """By precision, of a checkpoint's folder or a GGUF file; weights are float32 throughout."""
    opened = open_checkpoint(model)
    write_ir(opened, graph_of(opened.model), folder, half=False)
    generators = {name: _generator(folder, found, name) for name in PRECISIONS}
    whole = generators[WHOLE]
    read = _encoded(texts, whole, found.context)
    begun = [ids[: speed.PROMPT] for ids in read if len(ids) >= speed.PROMPT]
    paces = speed.in_turns(generators, begun[0])
    said = {name: [_answer(each, ids) for ids in begun] for name, each in generators.items()}
    said[AGAIN] = [_answer(whole, ids) for ids in begun]
    made: dict[str, Any] = {
        "texts": len(read), "answers": len(begun), "prompt_tokens": speed.PROMPT,
        "answer_tokens": speed.ANSWER, "precisions": {},
    }  # fmt: skip
    for name, pace in paces.items():
        made["precisions"][name] = {
            **told(folder, name, read),
            "tokens_per_s": pace.tokens_per_s,
            "first_token_ms": 1000 * pace.first_token_s,
            **agreement(said[WHOLE], said[AGAIN if name == WHOLE else name]),
        }
    return made


def told(folder: Path, precision: str, texts: Sequence[Ids]) -> dict[str, float]:
    """What the engine says of texts that it is given, and of its cache."""
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = 2 + max(len(ids) for ids in texts) // BLOCK_TOKENS
    scheduler.enable_prefix_caching = False
    threads = len(os.sched_getaffinity(0))
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        folder,
        scheduler,
        "CPU",
        {**EXACT, "INFERENCE_NUM_THREADS": threads, "KV_CACHE_PRECISION": precision},
    )
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens, config.ignore_eos = 1, True
    config.echo, config.logprobs = True, 1
    nats, count = 0.0, 0
    for number, ids in enumerate(texts):
        handle = pipeline.add_request(number, openvino.Tensor(ids[None, :]), config)
        said: list[float] = []
        while pipeline.has_non_finished_requests():
            pipeline.step()
            while handle.can_read():
                for output in handle.read().values():
                    said += output.generated_log_probs
        assert len(said) == len(ids) + 1
        nats -= sum(said[1 : len(ids)])  # nothing stands before the first
        count += len(ids) - 1
    kept = scheduler.num_kv_blocks * BLOCK_TOKENS
    return {
        "bytes_per_token": round(pipeline.get_metrics().kv_cache_size_in_bytes / kept),
        "perplexity": math.exp(nats / count),
        "scored_tokens": count,
    }


def agreement(ours: Sequence[Said], others: Sequence[Said]) -> dict[str, float]:
    """`tokens`: the share of all that come before the first that differs; `answers`: of those that
    differ nowhere; `nats`: the mean difference of the logarithms of what is the same."""
    same = [_before(a.ids, b.ids) for a, b in zip(ours, others, strict=True)]
    nats = [
        abs(x - y)
        for n, a, b in zip(same, ours, others, strict=True)
        for x, y in zip(a.logprobs[:n], b.logprobs[:n], strict=True)
    ]
    return {
        "tokens": sum(same) / sum(len(a.ids) for a in ours),
        "answers": sum(n == len(a.ids) for n, a in zip(same, ours, strict=True)) / len(ours),
        "nats": float(np.mean(nats)) if nats else 0.0,
    }


def table(f: dict[str, Any]) -> str:
    """What a person reads of `measure`."""
    rows = [
        "| keys and values | bytes a token | perplexity | change | tokens as at f32 "
        "| whole answers | mean change of ln p | tokens/s | ms to the first token |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    whole = f["precisions"][WHOLE]
    for name, told in f["precisions"].items():
        rows.append(
            f"| {name} | {told['bytes_per_token']:,} | {told['perplexity']:.3f} "
            f"| {told['perplexity'] / whole['perplexity'] - 1:+.3%} | {told['tokens']:.1%} "
            f"| {told['answers']:.1%} | {told['nats']:.5f} | {told['tokens_per_s']:.0f} "
            f"| {told['first_token_ms']:.1f} |"
        )
    return "\n".join(
        [
            "## Keys and values in fewer bits",
            "",
            "The cache's precision (`kv_precision` of a deployment; f32 is none of them), weights "
            f"and arithmetic in float32, one stream. Perplexity of {f['texts']} held-out texts, "
            f"{whole['scored_tokens']:,} tokens, as the serving engine tells it, each text from "
            f"its start. The first {f['prompt_tokens']} tokens of the {f['answers']} that have as "
            f"many were continued greedily by {f['answer_tokens']}; an answer counts up to its "
            "first token that is not that of f32's cache, and the change of ln p is that of the "
            "tokens before it. The row of f32 compares a second run with the first.",
            "",
            *rows,
        ]
    )


def _generator(folder: Path, found: Facts, precision: str) -> GenaiGenerator:
    # f32 is none of a deployment's precisions: it is what the others are compared with.
    whole = precision == WHOLE
    return GenaiGenerator(
        folder,
        context=found.context,
        threads=len(os.sched_getaffinity(0)),
        cache_mb=CACHE_MB,
        kv_bytes_per_token=found.kv_bytes_per_token,
        tuning=Tuning(kv_precision="" if whole else precision),
        properties={**EXACT, "KV_CACHE_PRECISION": precision} if whole else EXACT,
    )


def _encoded(texts: Path, generator: GenaiGenerator, context: int) -> list[Ids]:
    with texts.open("rb") as file:
        found = [line.answers[0] for line in lines.read(jsonl.lines(file), normal)]
    encoded = (generator.tokenizer.encode(text, whole=True) for text in found[:TEXTS])
    return [ids[: context - 1] for ids in encoded if len(ids) > 1]


def _answer(generator: Generator, ids: Ids) -> Said:
    sampling = Sampling(temperature=0, ignore_eos=True, logprobs=0)
    generator.add(Work(ids=ids, max_tokens=speed.ANSWER, sampling=sampling, seed=0))
    said = Said([], [])
    while generator.busy:
        for progress in generator.step():
            said.ids.extend(progress.ids)
            said.logprobs.extend(progress.logprobs)
    return said


def _before(ours: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens come before the first that differs."""
    pairs = enumerate(zip(ours, others, strict=True))
    return next((n for n, (a, b) in pairs if a != b), len(ours))
