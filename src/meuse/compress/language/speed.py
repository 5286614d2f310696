"""How fast language models answer in the serving engine: two of them in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from meuse.serve.generation.engine import Generator, Work
from meuse.serve.generation.messages import Sampling

PROMPT = 64
ANSWER = 48
ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Pace:
    """Medians over the rounds of one stream: seconds from the request to the first token, and
    tokens a second after it."""

    first_token_s: float
    tokens_per_s: float


def in_turns(
    generators: Mapping[str, Generator], ids: np.ndarray[tuple[int], np.dtype[np.int64]]
) -> dict[str, Pace]:
    """Each model continues `ids` [tokens] greedily, round by round, after a round to warm up."""
    rounds: dict[str, list[Pace]] = {name: [] for name in generators}
    for turn in range(ROUNDS + 1):
        for name, generator in generators.items():
            pace = _one(generator, ids)
            if turn:
                rounds[name].append(pace)
    return {
        name: Pace(
            statistics.median(pace.first_token_s for pace in paces),
            statistics.median(pace.tokens_per_s for pace in paces),
        )
        for name, paces in rounds.items()
    }


def _one(generator: Generator, ids: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Pace:
    begun = time.perf_counter()
    sampling = Sampling(temperature=0, ignore_eos=True)
    generator.add(Work(ids=ids, max_tokens=ANSWER, sampling=sampling, seed=0))
    first, count = 0.0, 0
    while generator.busy:
        for progress in generator.step():
            first = first or time.perf_counter()
            count += len(progress.ids)
    ended = time.perf_counter()
    return Pace(first - begun, (count - 1) / max(ended - first, 1e-9))
