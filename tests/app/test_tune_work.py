"""app.work.tune: what its process keeps while engines are compared."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import helpers_lora
from helpers_jobs import RecordedJob
from meuse.app.work import tune
from meuse.serve.generation.choice import Choice
from meuse.serve.generation.engine import Tokenizer
from meuse.serve.generation.manifest import Manifest
from meuse.serve.generation.prompt import Reader
from meuse.serve.generation.replica import Parts
from meuse.serve.generation.tune import Options, Tuning
from serve.generation.test_tune import Clock, Paced


class Bytes:
    special: Mapping[str, int] = {}

    def encode(self, *texts: str, whole: bool = False, most: int | None = None) -> Any:
        return np.frombuffer("".join(texts).encode(), np.uint8).astype(np.int64)


def test_no_engine_is_kept_that_another_has_taken_the_place_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is asked for two: the best so far, and the one that is compared with it."""
    clock = Clock()
    monkeypatch.setattr(tune, "Tuning", partial(Tuning, clock=clock))
    reader = Reader(cast("Tokenizer", Bytes()), 1000, 259, None)
    made: list[weakref.ref[Paced]] = []
    alive: list[int] = []

    def make(options: Options) -> Parts:
        alive.append(sum(each() is not None for each in made))
        engine = Paced(clock, 0.1 if not made else 0.01)
        made.append(weakref.ref(engine))
        return Parts(generator=engine, reader=reader, choice=cast("type[Choice]", None))

    spec = {"prompts": [], "streams": 1, "tokens": 4, "rounds": 2, "settings": [],
            "draft_model": None, "deployment": "chat"}  # fmt: skip
    inputs = {"engine": {"cores": 1}, "cores": 2, "refused": {}, "model": "m:1"}
    told = tune._tuned(RecordedJob(tmp_path), spec, inputs, make)
    assert len(told["rows"]) == len(made) > 3
    assert alive == [0] + [1] * (len(made) - 1)


@pytest.mark.slow
def test_a_draft_is_measured_by_the_real_engine(tmp_path: Path) -> None:
    """A model that guesses for itself, beside one that guesses less: the same texts."""
    pytest.importorskip("openvino_genai")
    folder = helpers_lora.tiny(tmp_path / "model")
    manifest = Manifest(
        layout="ir", files=(), architecture="llama", context=helpers_lora.CONTEXT,
        vocabulary=259, parameters=1, source="here",
        kv_bytes_per_token=helpers_lora.LAYERS * helpers_lora.KEYS * 2 * 2,
    )  # fmt: skip
    before, draft = (
        {"model": "small:1", "num_assistant_tokens": n, "digest": "a", "weight_bytes": 1}
        for n in (1, 4)
    )
    spec = {"prompts": ["abc"], "streams": 1, "tokens": 8, "rounds": 2, "deployment": "chat",
            "settings": ["draft_model"], "draft_model": draft}  # fmt: skip
    engine = {"cores": 1, "cache_mb": 16, "draft_model": before}
    inputs = {"engine": engine, "cores": 1, "refused": {}, "model": "m:1"}
    make = tune._maker(manifest, folder, {"a": folder})
    told = tune._tuned(RecordedJob(tmp_path), spec, inputs, make)
    assert [row["name"] for row in told["rows"]] == ["as it is", "draft_model small:1"]
    row = told["rows"][1]
    assert (len(row["pairs"]), row["same_texts"]) == (2, 1.0), row
    assert told["changes"] == ({"draft_model": draft} if row["taken"] else {})
