"""The report on smaller weights and caches, from made-up figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llm_cache
import llm_compression
import numpy as np
import pytest
from llm_cache import Said

from helpers_tiny_llm import CONTEXT, write_gguf
from meuse.evaluate.language.ir import GRAPH, IrModel
from meuse.pull.facts import Facts
from meuse.pull.recognise import recognise


def test_an_answer_counts_up_to_its_first_token_that_differs() -> None:
    """What comes after it is about another text, equal or not; so are its probabilities."""
    whole = [Said([1, 2, 3, 4], [-1.0] * 4), Said([5, 6, 7, 8], [-1.0] * 4)]
    other = [Said([1, 2, 9, 4], [-1.5, -1.0, -9.0, -9.0]), Said([5, 6, 7, 8], [-1.0] * 4)]
    found = llm_cache.agreement(whole, other)
    assert found == {"tokens": 6 / 8, "answers": 1 / 2, "nats": pytest.approx(0.5 / 6)}
    assert llm_cache.agreement(whole, whole) == {"tokens": 1, "answers": 1, "nats": 0}
    none = [Said([0] * 4, [-1.0] * 4)] * 2
    assert llm_cache.agreement(whole, none) == {"tokens": 0, "answers": 0, "nats": 0}


def cache() -> dict[str, Any]:
    pace = {"tokens_per_s": 812.4, "first_token_ms": 21.04}
    return {
        **{"texts": 90, "answers": 70, "prompt_tokens": 64, "answer_tokens": 48},
        "precisions": {
            "f32": {**pace, "bytes_per_token": 12288, "perplexity": 20.0, "scored_tokens": 8000,
                    "tokens": 1, "answers": 1, "nats": 0},
            "u8": {**pace, "bytes_per_token": 3686, "perplexity": 20.1, "scored_tokens": 8000,
                   "tokens": 0.9876, "answers": 0.96, "nats": 0.002},
        },
    }  # fmt: skip


def test_the_page_has_a_row_for_each_precision_of_weights_and_cache() -> None:
    """And says what the cache's figures are of."""
    side = {"format": "hf", "weight_bytes": 400, "parameters": 100, "bits": 32.0, "metric": 9.0,
            "tokens_per_s": 800.0, "first_token_ms": 20.0}  # fmt: skip
    int4 = {**side, "weight_bytes": 100, "bits": 8.0, "metric": 9.09}
    told = {"before": side, "after": int4, "interval": [0.0, 0.02], "drop": 0.01,
            "rows": {"test": 90}, "tokens": 9000, "notes": {"hf": "As a graph."}}  # fmt: skip
    figures = {"model": {"name": "small"}, "load": 0.1, "precisions": {"int4": told},
               "cache": cache()}  # fmt: skip
    machine = {"processor": "p", "cores": 2, "python": "3"}
    page = llm_compression.page(
        {"figures": figures, "date": "d", "commit": "c", "machine": machine}
    )
    assert "| int4 | 100 | 4.00× | 8.00 | 9.090 | +1.00% (+0.00% to +2.00%) | 800 | 20.0 |" in page
    assert "held by int4" in page
    assert "| f32 | 12,288 | 20.000 | +0.000% | 100.0% | 100.0% | 0.00000 | 812 | 21.0 |" in page
    assert "| u8 | 3,686 | 20.100 | +0.500% | 98.8% | 96.0% | 0.00200 | 812 | 21.0 |" in page
    assert "90 held-out texts, 8,000 tokens" in page
    assert "The first 64 tokens of the 70 that have as many" in page


@pytest.mark.slow
def test_caches_are_measured_in_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of random weights: 32 bits say the same again, 8 bits are another cache and smaller; the
    perplexity is that of the float graph."""
    monkeypatch.setattr(llm_cache, "TEXTS", 3)
    model = write_gguf(tmp_path / "tiny.gguf", context=CONTEXT)
    texts = tmp_path / "texts.jsonl"
    given = ("a" * 80, "bc" * 40, "short", "g" * 80)
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in given))
    found = recognise(model)
    assert isinstance(found, Facts)
    told = llm_cache.measure(model, found, texts, tmp_path / "cache")
    assert (told["texts"], told["answers"]) == (3, 2)
    rows = told["precisions"]
    assert list(rows) == ["f32", "f16", "u8"]
    assert (rows["f32"]["tokens"], rows["f32"]["answers"]) == (1, 1)
    assert rows["f32"]["nats"] < 1e-6 < rows["u8"]["nats"]
    assert rows["f32"]["bytes_per_token"] > 2.5 * rows["u8"]["bytes_per_token"] > 0
    graph = IrModel(tmp_path / "cache" / GRAPH, context=CONTEXT, threads=1)
    ids = [np.frombuffer(text.encode(), np.uint8).astype(np.int64) for text in given[:3]]
    likely = np.concatenate([graph.log_probabilities(each) for each in ids])
    assert rows["f32"]["perplexity"] == pytest.approx(np.exp(-likely.mean()), rel=1e-4)
    assert rows["u8"]["perplexity"] != rows["f32"]["perplexity"]
    for row in rows.values():
        assert row["tokens_per_s"] > 0
