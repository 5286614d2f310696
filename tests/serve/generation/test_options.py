"""Options of the engine change how fast it answers and never what: each beside the engine without.

The real engine, greedily at one stream, where answers are the same token for token. Where the
processor can, the engine computes in bfloat16 and rounds activations to 8 bits: tokens that are
computed together then round otherwise, and of two that are about as likely the other may come.
So it is told not to.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import helpers_llm
import helpers_lora
from meuse.serve.generation.engine import Work
from meuse.serve.generation.messages import Sampling
from meuse.serve.generation.tuning import Tuning

pytest.importorskip("openvino_genai")
pytestmark = pytest.mark.timeout(500)

LINE = "The river flows past the old town to the sea. "
TOKENS = 20
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}


class Engine:
    """A pipeline with these options; `ask` counts the steps that an answer took."""

    def __init__(
        self,
        path: Path | None = None,
        kv_bytes_per_token: int = helpers_llm.KV_BYTES_PER_TOKEN,
        **tuning: Any,
    ) -> None:
        from meuse.serve.generation.genai import GenaiGenerator

        self.generator = GenaiGenerator(
            path or helpers_llm.weights(),
            context=512,
            threads=2,
            max_sequences=4,
            cache_mb=64,
            kv_bytes_per_token=kv_bytes_per_token,
            tuning=Tuning(**tuning),
            properties=EXACT,
        )
        self.steps = 0

    def ask(self, text: str, **sampling: Any) -> list[int]:
        ids = self.generator.tokenizer.encode(text)
        wanted = Sampling(temperature=0.0, ignore_eos=True, **sampling)
        self.generator.add(Work(ids=ids, max_tokens=TOKENS, sampling=wanted, seed=0))
        made: list[int] = []
        self.steps = 0
        while self.generator.busy:
            made += [number for progress in self.generator.step() for number in progress.ids]
            self.steps += 1
        return made


@pytest.fixture(scope="module")
def plain() -> Engine:
    return Engine()


def test_guesses_from_the_prompt_save_steps_and_change_nothing(plain: Engine) -> None:
    """Where a text goes on as it went before: fewer steps, the same tokens. With penalties, which
    look at what was said, and log-probabilities as well."""
    guessing = Engine(max_ngram_size=3, assistant_tokens=5)
    assert guessing.ask(LINE * 4) == plain.ask(LINE * 4)
    assert guessing.steps < plain.steps * 3 / 4
    told = {"repetition_penalty": 1.3, "presence_penalty": 0.5}
    assert guessing.ask(LINE * 2, **told) == plain.ask(LINE * 2, **told)
    assert guessing.generator.cached_tokens == 0

    ids = guessing.generator.tokenizer.encode(LINE * 4)
    sampling = Sampling(temperature=0.0, ignore_eos=True, logprobs=0)
    guessing.generator.add(Work(ids=ids, max_tokens=8, sampling=sampling, seed=0))
    values = []
    while guessing.generator.busy:
        for progress in guessing.generator.step():
            assert len(progress.logprobs) == len(progress.ids)
            values += progress.logprobs
    assert len(values) == 8
    assert all(-20 < value <= 0 for value in values)


def test_a_cached_beginning_saves_steps_and_changes_nothing(plain: Engine) -> None:
    """The same prompt again, and one that begins alike: the first of the two steps that it takes,
    as one has room for 256 tokens. How much of it was cached the engine does not tell, and neither
    do we."""
    caching = Engine(prefix_cache=True)
    longer = LINE * 30
    assert 256 < len(plain.generator.tokenizer.encode(longer)) < 400
    for text, saved in ((longer, 0), (longer, 1), (longer + "There", 1), ("Where? " + longer, 0)):
        assert caching.ask(text) == plain.ask(text)
        assert (plain.steps, caching.steps) == (TOKENS + 1, TOKENS + 1 - saved)
    assert caching.generator.cached_tokens == -1


def test_a_cache_of_16_bits_holds_less_and_may_round_otherwise(plain: Engine) -> None:
    """Of 8 and of 16 bits the first tokens are the same; later ones may differ, where two are
    about as likely. As many bytes hold fewer tokens."""
    exact = Engine(kv_precision="f16")
    assert exact.ask(LINE)[:4] == plain.ask(LINE)[:4]
    sizes = [each.generator._pipeline.get_metrics().cache_size_in_bytes for each in (plain, exact)]
    assert np.ptp(sizes) / max(sizes) < 0.02  # the same memory, as it was asked for


def test_guesses_of_a_draft_save_steps_and_change_nothing(tmp_path: Path) -> None:
    """A small model with random weights that guesses for itself: it is right, mostly, and what
    it says is what it says alone."""
    model = helpers_lora.tiny(tmp_path / "model")
    size = helpers_lora.KV_BYTES_PER_TOKEN
    alone = Engine(model, size)
    told = alone.ask("abcabc")
    guessed = Engine(model, size, draft=model, assistant_tokens=3)
    assert guessed.ask("abcabc") == told
    assert guessed.steps < alone.steps * 3 / 4
    assert guessed.ask("xyz", repetition_penalty=1.2) == alone.ask("xyz", repetition_penalty=1.2)
