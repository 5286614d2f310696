"""Likelihoods against transformers' own loss, and the same by OpenVINO as by torch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from helpers_tiny_llm import CONTEXT, engine_graph, write_gguf
from meuse.core.errors import Code, MeuseError
from meuse.evaluate.language.checkpoint import TorchModel
from meuse.evaluate.language.ir import GRAPH, IrModel
from meuse.evaluate.language.likelihood import (
    Ids,
    continuation,
    perplexity,
    token_log_probabilities,
    windows,
)

VOCABULARY = 300


@pytest.fixture
def model() -> Any:
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        initializer_range=0.3,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


def ids_of(count: int, seed: int = 0, vocabulary: int = VOCABULARY) -> Ids:
    return np.random.default_rng(seed).integers(0, vocabulary, count)


def loss_of(model: Any, ids: Ids, begin: int, end: int, first: int) -> float:
    """transformers' own mean loss of the tokens from `first` on, of a window."""
    labels = torch.tensor(ids[begin:end])[None].clone()
    labels[:, : first - begin] = -100
    with torch.inference_mode():
        return float(model(input_ids=torch.tensor(ids[begin:end])[None], labels=labels).loss)


def test_perplexity_is_that_of_transformers_own_loss(model: Any) -> None:
    """A text that fits counts all tokens but its first; texts weigh by their tokens."""
    texts = [ids_of(60), ids_of(7, 1), ids_of(1, 2)]
    found = perplexity(TorchModel(model), texts)
    assert found.tokens.tolist() == [59, 6, 0]
    losses = [loss_of(model, texts[0], 0, 60, 1), loss_of(model, texts[1], 0, 7, 1)]
    mean = (59 * losses[0] + 6 * losses[1]) / 65
    assert found.nats_per_token == pytest.approx(mean, abs=1e-5)
    assert found.perplexity == pytest.approx(math.exp(mean), rel=1e-5)


def test_a_long_text_is_read_in_strided_windows(model: Any) -> None:
    """Window 64, stride 32: 0 to 64, then 32 more tokens each time, the last window full."""
    ids = ids_of(150)
    found = perplexity(TorchModel(model), [ids])
    parts = [(0, 64, 1), (32, 96, 64), (64, 128, 96), (86, 150, 128)]
    expected = sum((end - first) * loss_of(model, ids, begin, end, first)
                   for begin, end, first in parts)  # fmt: skip
    assert found.tokens.tolist() == [149]
    assert found.nats[0] == pytest.approx(expected, rel=1e-5)


@given(
    count=st.integers(1, 300), first=st.integers(0, 300), window=st.integers(2, 80),
    share=st.floats(0.01, 0.99),
)  # fmt: skip
def test_each_token_counts_once_with_enough_before_it(
    count: int, first: int, window: int, share: float
) -> None:
    stride = max(1, min(window - 1, int(window * share)))
    found = list(windows(count, first, window, stride))
    counted = [i for each in found for i in range(each.scored, each.end)]
    assert counted == list(range(max(first, 1), count))
    for each in found:
        assert each.end - each.begin <= window
        assert each.scored > each.begin
        assert each.begin == 0 or each.scored - each.begin >= window - stride


def test_a_continuation_counts_alone(model: Any) -> None:
    """ln p of the answer's tokens is their loss times their number."""
    prompt, answer = ids_of(20), ids_of(5, 1)
    both = np.concatenate([prompt, answer])
    found = continuation(TorchModel(model), prompt, answer)
    assert found == pytest.approx(-5 * loss_of(model, both, 0, 25, 20), rel=1e-5)
    assert perplexity(TorchModel(model), [both], [20]).nats[0] == pytest.approx(-found)


def test_what_does_not_fit_is_refused(model: Any) -> None:
    judged = TorchModel(model)
    for call, field, words in [
        (lambda: continuation(judged, ids_of(60), ids_of(5)), "data", "65 tokens"),
        (lambda: perplexity(judged, [ids_of(1)]), "data", "no text"),
        (lambda: token_log_probabilities(judged, ids_of(9), window=65), "window", "65"),
        (lambda: token_log_probabilities(judged, ids_of(9), window=8, stride=8), "stride", "8"),
    ]:
        with pytest.raises(MeuseError) as caught:
            call()
        assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, field)
        assert words in caught.value.message


# Between peft 0.21 and transformers 5.24.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_an_adapter_counts(model: Any) -> None:
    """A model with an adapter on top is another model, the same as with it merged."""
    base = TorchModel(model).log_probabilities(ids_of(40))
    torch.manual_seed(5)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    taught = peft.get_peft_model(model, config).eval()
    found = TorchModel(taught, context=64).log_probabilities(ids_of(40))
    assert np.abs(found - base).max() > 0.01
    merged = TorchModel(taught.merge_and_unload().eval()).log_probabilities(ids_of(40))
    assert found == pytest.approx(merged, abs=1e-3)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


# As torch computes; else with bfloat16 where the processor has it, and keys and values in 8 bits.
EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


def test_openvino_says_what_torch_says(weights: Path) -> None:
    """One GGUF file, read by the engine and by transformers; texts do not leak into the next."""
    read = transformers.AutoModelForCausalLM.from_pretrained(
        weights.parent, gguf_file=weights.name, dtype=torch.float32
    ).eval()
    graph = IrModel(engine_graph(weights), context=CONTEXT, properties=EXACT)
    for seed, count in enumerate([100, 3, 2]):
        ids = ids_of(count, seed, 250)
        expected = TorchModel(read).log_probabilities(ids)
        assert graph.log_probabilities(ids) == pytest.approx(expected, abs=5e-3)
    assert len(graph.log_probabilities(ids_of(1))) == 0


def test_the_engine_is_judged_in_its_own_chunks(
    weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text read piece by piece behind the cache comes to the same."""
    graph = IrModel(engine_graph(weights), context=CONTEXT, properties=EXACT)
    ids = ids_of(100, 7, 250)
    whole = graph.log_probabilities(ids)
    monkeypatch.setattr("meuse.evaluate.language.ir.CHUNK", 16)
    assert graph.log_probabilities(ids) == pytest.approx(whole, abs=1e-3)


def test_what_is_no_graph_of_a_language_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / GRAPH).write_text("<net/>")
    with pytest.raises(MeuseError) as caught:
        IrModel(tmp_path / GRAPH, context=8)
    assert caught.value.code is Code.INVALID_DATA
