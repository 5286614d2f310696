"""serve.generation.tune: what is taken, what is not, and what is tried."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from meuse.core.errors import Code, MeuseError
from meuse.serve.generation.engine import Progress, Work
from meuse.serve.generation.messages import Format
from meuse.serve.generation.tune import (
    Candidate,
    Row,
    Tuning,
    candidates,
    is_faster,
    spread,
    wave,
)
from meuse.serve.generation.tuning import blocks


class Clock:
    """Goes on only when an engine steps."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Paced:
    """A `Generator` whose steps take so long in turn, and give each work one token, its own."""

    context, max_sequences, cached_tokens = 1000, 64, 0

    def __init__(self, clock: Clock, *pauses_s: float, shift: int = 0) -> None:
        self.clock, self.pauses, self.shift = clock, itertools.cycle(pauses_s), shift
        self.works: dict[int, list[int]] = {}
        self.number = 0

    @property
    def busy(self) -> bool:
        return bool(self.works)

    def check(self, format: Format) -> None: ...

    def cancel(self, handle: int) -> None: ...

    def reset(self) -> bool:
        return True

    def add(self, work: Work) -> int:
        self.number += 1
        self.works[self.number] = [work.max_tokens, int(work.ids[0]) + self.shift]
        return self.number

    def step(self) -> list[Progress]:
        self.clock.now += next(self.pauses)
        made = []
        for handle, work in list(self.works.items()):
            work[0] -= 1
            made.append(Progress(handle, [work[1]], ended="" if work[0] else "length"))
            if not work[0]:
                del self.works[handle]
        return made


def tuned(
    clock: Clock, makers: dict[str, Any], tried: list[Candidate]
) -> tuple[dict[str, Any], list[Row]]:
    """Of engines by the option `e` that they are made for."""

    def make(options: Any) -> Any:
        made = makers[options["e"]]
        if isinstance(made, Exception):
            raise made
        return made

    search = Tuning(
        make=make,
        waves=lambda: [np.array([7]), np.array([8])],
        tokens=3,
        rounds=3,
        clock=clock,
    )
    return search.run({"e": "slow"}, tried)


def test_a_wave_counts_all_streams() -> None:
    """Tokens of all streams, and the time until the first of each."""
    clock = Clock()
    turn = wave(Paced(clock, 0.01), [np.array([5]), np.array([6])], 4, clock)
    assert turn.texts == ((5,) * 4, (6,) * 4)
    assert turn.tokens_s == pytest.approx(200)
    assert turn.first_s == pytest.approx(0.01)


def test_what_is_faster_is_taken_and_built_upon() -> None:
    """One after another: the second is compared with the first that was taken."""
    clock = Clock()
    engines = {name: Paced(clock, s) for name, s in (("slow", 8), ("fast", 4), ("faster", 2))}
    tried = [Candidate(name, {"e": name}) for name in ("fast", "faster")]
    best, rows = tuned(clock, engines, tried)
    assert best == {"e": "faster"}
    assert [row.taken for row in rows] == [False, True, True]
    assert [row.ratio for row in rows] == [1, 2, 2]
    assert all(len(row.pairs) == 3 for row in rows[1:])


def test_what_is_not_faster_stays_out_with_the_reason() -> None:
    """Equal ones, slower ones, and such that the engine refuses: these end nothing."""
    refusal = MeuseError(Code.INVALID_DATA, "not on this processor")
    clock = Clock()
    engines = {"slow": Paced(clock, 1), "same": Paced(clock, 1, shift=1),
               "worse": Paced(clock, 3), "refused": refusal}  # fmt: skip
    tried = [Candidate(name, {"e": name}) for name in ("same", "refused", "worse")]
    best, rows = tuned(clock, engines, tried)
    assert best == {"e": "slow"}
    assert not any(row.taken for row in rows)
    assert "not faster by more than" in rows[1].note
    assert rows[1].same_texts == 0
    assert rows[2].note == "refused: not on this processor"
    assert rows[3].ratio == pytest.approx(1 / 3, abs=1e-3)
    assert rows[3].same_texts == 1


def test_noise_is_no_gain() -> None:
    """Every pair must say so, and the median more than what one differs from itself."""
    assert is_faster([1.1, 1.2, 1.15], 0.05)
    assert not is_faster([1.1, 0.99, 1.15], 0.05)
    assert not is_faster([1.1, 1.2, 1.15], 0.2)
    assert not is_faster([1.01, 1.02, 1.015], 0.0)
    assert spread([90, 100, 110]) == pytest.approx(0.1)


def test_what_is_tried_differs_from_what_is() -> None:
    """Nothing that may not be had, and nothing that would make streams wait."""
    names = [c.name for c in candidates({"cores": 1}, 2, 4)]
    assert names == [
        "cores 2", "prompt_lookup 3, 5", "prompt_lookup 2, 3", "prefix_cache",
        "kv_precision f16", "max_batched_tokens 128", "max_batched_tokens 512",
        "max_batched_tokens 2048", "max_sequences 16", "max_sequences 128",
    ]  # fmt: skip
    told = {"cores": 2, "draft_model": {"model": "s:1"}, "kv_precision": "f16",
            "max_batched_tokens": 512}  # fmt: skip
    names = [c.name for c in candidates(told, 2, 32, {"prefix_cache"})]
    assert names == [
        "cores 1", "max_batched_tokens 128", "max_batched_tokens 2048", "max_sequences 128"
    ]  # fmt: skip


def test_a_draft_is_tried_where_one_is_named() -> None:
    """In place of guesses from the prompt, and unless it is there or may not be."""
    draft = {"model": "small:1", "num_assistant_tokens": 3}

    def found(*refused: str, **current: Any) -> list[Candidate]:
        tried = candidates({"cores": 2, **current}, 2, 4, refused, draft)
        return [candidate for candidate in tried if candidate.setting == "draft_model"]

    wanted = Candidate("draft_model small:1", {"draft_model": draft, "prompt_lookup": None})
    assert found() == found(draft_model={"model": "other:1"}) == [wanted]
    assert found(draft_model=draft) == found("draft_model") == []


def test_a_cache_holds_fewer_blocks_of_more_bytes() -> None:
    """A block is 32 tokens; 16 bits take 1 / 0.6 of 8 with their scales."""
    assert blocks(100, 1024) == 100 * 1024 * 1024 // 19661
    assert blocks(100, 1024, "f16") == 100 * 1024 * 1024 // (32 * 1024)
    assert blocks(1, 1 << 20) == 2
