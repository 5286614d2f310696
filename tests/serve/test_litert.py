"""The LiteRT engine: names, open batches, and what is refused. What the converter makes is
tested where it is made (`compress/methods/test_litert.py`)."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import TensorSpec
from meuse.serve import engines
from meuse.serve.cost import CostModel
from meuse.serve.replica import warm_up
from serve import litert_models, models

WEIGHTS = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_batches_of_any_size() -> None:
    """Sizes may change from one run to the next; outputs are copies, no later run changes them."""
    engine = engines.load("litert", litert_models.dense(WEIGHTS))
    assert engine.signature.inputs == (TensorSpec("x", "FP32", (-1, 3)),)
    assert engine.signature.outputs == (TensorSpec("y", "FP32", (-1, 2)),)
    random = np.random.default_rng(0)
    seen = []
    for rows in (1, 7, 7, 1, 64, 3):
        x = random.normal(size=(rows, 3)).astype(np.float32)
        seen.append((engine.run({"x": x})["y"], x @ WEIGHTS.T))
    for got, wanted in seen:
        np.testing.assert_allclose(got, wanted, rtol=1e-5)
    warm_up(engine, 32, CostModel())


def test_names_are_those_of_tensors_without_a_signature() -> None:
    """Files that other converters wrote may have none."""
    engine = engines.load("litert", litert_models.dense(WEIGHTS, names=None))
    assert [spec.name for spec in engine.signature.inputs] == ["given"]
    got = engine.run({"given": np.ones((2, 3), np.float32)})["made"]
    np.testing.assert_allclose(got, np.ones((2, 3)) @ WEIGHTS.T)


def test_wrong_inputs_fail_and_harm_nothing() -> None:
    """Another type, width or name is an error; the next run is as good as ever."""
    engine = engines.load("litert", litert_models.dense(WEIGHTS))
    good = np.ones((2, 3), np.float32)
    for bad in (
        {"x": good.astype(np.float64)},
        {"x": np.ones((2, 4), np.float32)},
        {"other": good},
        {},
        {"x": good, "more": good},
    ):
        with pytest.raises((ValueError, RuntimeError)):
            engine.run(bad)
        np.testing.assert_allclose(engine.run({"x": good})["y"], good @ WEIGHTS.T)


@pytest.mark.parametrize(
    "model",
    [
        b"",
        b"nonsense" * 100,
        litert_models.dense(WEIGHTS)[:200],
        models.scores(),
        litert_models.dense(WEIGHTS, custom="FlexErf"),
        litert_models.dense(WEIGHTS, kind=litert_models.schema.TensorType.STRING),
        litert_models.dense(WEIGHTS, kind=litert_models.schema.TensorType.INT32),
    ],
    ids=["empty", "nonsense", "cut", "onnx", "custom operator", "texts", "integers"],
)
def test_what_cannot_be_loaded_is_refused(model: bytes) -> None:
    """All of it before anything runs."""
    with pytest.raises(MeuseError) as caught:
        engines.load("litert", model)
    assert caught.value.code == Code.INVALID_DATA
    assert caught.value.field in ("model", "x")


def test_without_the_package_it_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what to install."""
    monkeypatch.delitem(sys.modules, "meuse.serve.engines.litert", raising=False)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    with pytest.raises(MeuseError) as caught:
        engines.load("litert", litert_models.dense(WEIGHTS))
    assert (caught.value.code, caught.value.field) == (Code.UNAVAILABLE, "engine")
    assert "meuse[litert]" in str(caught.value.hint)


def test_it_loads_beside_the_other_engines() -> None:
    """One process may hold them all, in either order."""
    names = ["onnxruntime", "openvino", "torch"]
    for order in ([*names, "ai_edge_litert.interpreter"], ["ai_edge_litert.interpreter", *names]):
        program = "; ".join(f"import {name}" for name in order)
        subprocess.run([sys.executable, "-c", program], check=True, timeout=110)
