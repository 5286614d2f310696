"""Which settings of the engine are faster here: pairs that alternate, taken one after another.

Knows the port `Generator` and how a setting becomes one (`make`); knows no deployment and no file.
A setting is compared with the best so far, both loaded, in turns that alternate; it is taken only
where every pair says that it is faster, and their median by more than the best differs from
itself.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import MeuseError
from meuse.serve.generation.engine import Generator, Work
from meuse.serve.generation.messages import Sampling

LEAST = 0.03
"""What a setting must gain at least: less is not worth a restart."""
LOOKUPS = ((3, 5), (2, 3))
"""(max_ngram_size, num_assistant_tokens)."""

Options = Mapping[str, Any]
"""Options of the engine, as a deployment has them; what is absent is at its default."""
Prompts = Sequence[NDArray[np.int64]]
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Candidate:
    """`changes` to the best options so far. The name begins with the option that is tried."""

    name: str
    changes: Options

    @property
    def setting(self) -> str:
        return self.name.split()[0]


@dataclass(frozen=True, slots=True)
class Turn:
    """One engine answered one wave: tokens/s of all streams, median seconds to first tokens."""

    tokens_s: float
    first_s: float
    texts: tuple[tuple[int, ...], ...]


@dataclass(slots=True)
class Row:
    """What became of a candidate. `ratio` of tokens/s and `first_ratio` of the time to first
    tokens, to the best before it; `same_texts` is the share of answers that are the same."""

    name: str
    changes: Options
    tokens_s: float = 0.0
    first_ms: float = 0.0
    ratio: float = 1.0
    first_ratio: float = 1.0
    same_texts: float = 1.0
    taken: bool = False
    note: str = ""
    pairs: list[float] = field(default_factory=list)


def candidates(
    current: Options,
    cores: int,
    streams: int,
    refused: Collection[str] = (),
    draft: Options | None = None,
) -> list[Candidate]:
    """What may be faster on a machine of so many cores, but for options that are `refused`.
    `draft` is a value of `draft_model` to try."""
    found = [
        Candidate(f"cores {n}", {"cores": n})
        for n in sorted({1, 2, 4, 8, 16, 32, 64, cores})
        if n <= cores and n != current.get("cores")
    ]
    if current.get("draft_model") is None and "prompt_lookup" not in refused:
        for ngram, tokens in LOOKUPS:
            lookup = {"max_ngram_size": ngram, "num_assistant_tokens": tokens}
            if current.get("prompt_lookup") != lookup:
                found.append(
                    Candidate(f"prompt_lookup {ngram}, {tokens}", {"prompt_lookup": lookup})
                )
    if draft is not None and "draft_model" not in refused and current.get("draft_model") != draft:
        changes = {"draft_model": draft, "prompt_lookup": None}  # which guesses as well
        found.append(Candidate(f"draft_model {draft['model']}", changes))
    if "prefix_cache" not in refused and not current.get("prefix_cache"):
        found.append(Candidate("prefix_cache", {"prefix_cache": True}))
    if current.get("kv_precision") != "f16":
        found.append(Candidate("kv_precision f16", {"kv_precision": "f16"}))
    for name, values, default in (
        ("max_batched_tokens", (128, 512, 2048), 256),
        ("max_sequences", (16, 128), 64),
    ):
        for value in values:
            # Fewer at once than are asked here would only make streams wait.
            enough = name != "max_sequences" or value >= streams
            if enough and value != (current.get(name) or default):
                found.append(Candidate(f"{name} {value}", {name: value}))
    return found


def wave(
    generator: Generator, prompts: Prompts, tokens: int, clock: Clock = time.perf_counter
) -> Turn:
    """All prompts at once, greedily, `tokens` for each."""
    sampling = Sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True)
    began = clock()
    handles = {
        generator.add(Work(ids=ids, max_tokens=tokens, sampling=sampling, seed=0)): index
        for index, ids in enumerate(prompts)
    }
    texts: list[list[int]] = [[] for _ in prompts]
    firsts: dict[int, float] = {}
    while generator.busy:
        progress = generator.step()
        now = clock()
        for each in progress:
            if each.ids:
                firsts.setdefault(handles[each.handle], now - began)
                texts[handles[each.handle]] += each.ids
    seconds = clock() - began
    produced = sum(map(len, texts))
    return Turn(
        produced / seconds,
        statistics.median(firsts.values()),
        tuple(tuple(text) for text in texts),
    )


def is_faster(pairs: Sequence[float], noise: float) -> bool:
    """Whether tokens/s ratios show more than noise."""
    return min(pairs) > 1 and statistics.median(pairs) > 1 + max(noise, LEAST)


def spread(rates: Sequence[float]) -> float:
    """The noise of repeated measurements: half of their range, of their median."""
    return (max(rates) - min(rates)) / 2 / statistics.median(rates)


@dataclass(slots=True, kw_only=True)
class Tuning:
    """One search. `make` loads an engine with options; `waves` gives fresh prompts."""

    make: Callable[[Options], Generator]
    waves: Callable[[], Prompts]
    tokens: int
    rounds: int
    told: Callable[[Row, int, int], None] = lambda _row, _done, _all: None
    """(row, how many are done, of how many)."""
    clock: Clock = time.perf_counter

    def run(self, current: Options, tried: Sequence[Candidate]) -> tuple[dict[str, Any], list[Row]]:
        """(the options that are best, a row for what was and one for each candidate)."""
        best = dict(current)
        engine = self.make(best)
        self._wave(engine, self.waves())  # warm
        turns = [self._wave(engine, self.waves()) for _ in range(self.rounds)]
        rows = [_row("as it is", {}, turns)]
        self.told(rows[0], 1, len(tried) + 1)
        for candidate in tried:
            row, other = self._compared(engine, best, candidate)
            if row.taken and other is not None:
                engine, best = other, {**best, **candidate.changes}
            del other  # there is memory for two: it would stay beside the next one
            rows.append(row)
            self.told(row, len(rows), len(tried) + 1)
        return best, rows

    def _wave(self, engine: Generator, prompts: Prompts) -> Turn:
        return wave(engine, prompts, self.tokens, self.clock)

    def _compared(
        self, engine: Generator, best: Options, candidate: Candidate
    ) -> tuple[Row, Generator | None]:
        try:
            other = self.make({**best, **candidate.changes})
            self._wave(other, self.waves())  # warm
            mine: list[Turn] = []
            theirs: list[Turn] = []
            for number in range(self.rounds):
                prompts = self.waves()
                for side, turns in ((engine, mine), (other, theirs))[:: 1 if number % 2 else -1]:
                    turns.append(self._wave(side, prompts))
        except (MeuseError, RuntimeError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Row(candidate.name, candidate.changes, note=f"refused: {lines[-1][:200]}"), None
        row = _row(candidate.name, candidate.changes, theirs)
        row.pairs = [round(b.tokens_s / a.tokens_s, 4) for a, b in zip(mine, theirs, strict=True)]
        row.ratio = statistics.median(row.pairs)
        row.first_ratio = statistics.median(
            b.first_s / a.first_s for a, b in zip(mine, theirs, strict=True)
        )
        both = [
            x == y
            for a, b in zip(mine, theirs, strict=True)
            for x, y in zip(a.texts, b.texts, strict=True)
        ]
        row.same_texts = sum(both) / len(both)
        noise = spread([turn.tokens_s for turn in mine])
        row.taken = is_faster(row.pairs, noise)
        row.note = "" if row.taken else f"not faster by more than {max(noise, LEAST):.1%}"
        return row, other


def _row(name: str, changes: Options, turns: Sequence[Turn]) -> Row:
    return Row(
        name,
        changes,
        statistics.median(turn.tokens_s for turn in turns),
        statistics.median(turn.first_s for turn in turns) * 1000,
    )
