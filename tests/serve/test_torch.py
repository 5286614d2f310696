"""The torch engine: safetensors and a recipe give the answers of the ONNX export."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load, save

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature
from meuse.core.ports import PrepareInputs
from meuse.serve import engines
from meuse.serve.engines.torch import KEY
from meuse.train import weights
from serve.conftest import Trained

NAME = "network.0.bias"


def engine_of(model: bytes) -> Any:
    return engines.load("safetensors", model, build=weights.build)


def described(model: bytes) -> dict[str, Any]:
    header = json.loads(model[8 : 8 + int.from_bytes(model[:8], "little")])
    found: dict[str, Any] = json.loads(header["__metadata__"][KEY])
    return found


def changed(
    model: bytes,
    tensors: Callable[[dict[str, torch.Tensor]], object] = lambda t: None,
    **fields: Any,
) -> bytes:
    """The same file with other tensors, or another description."""
    found = load(model)
    tensors(found)
    return save(found, {KEY: json.dumps(described(model) | fields)})


def refused(model: bytes) -> str:
    with pytest.raises(MeuseError) as caught:
        engine_of(model)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
    return str(caught.value)


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("task", ["classifier", "regressor"])
def test_answers_are_those_of_the_onnx_export(
    task: str, rows: int, request: pytest.FixtureRequest
) -> None:
    """Standardisation and class indices included, on trained models and real rows."""
    trained: Trained = request.getfixturevalue(task)
    inputs = {"input": trained.splits.test.frame.numbers[:rows]}
    other, onnx = engine_of(trained.safetensors), engines.load("onnx", trained.onnx)
    got, wanted = other.run(inputs), onnx.run(inputs)
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype
        np.testing.assert_allclose(got[name], value, atol=1e-5, rtol=1e-5)


def test_the_signature_has_the_classes(classifier: Trained) -> None:
    """It says what the version's signature says; ONNX files do not hold the labels."""
    signature = engine_of(classifier.safetensors).signature
    assert signature.classes == classifier.splits.classes
    onnx = engines.load("onnx", classifier.onnx).signature
    assert (signature.inputs, signature.outputs) == (onnx.inputs, onnx.outputs)


def test_views_of_received_bytes_will_do(classifier: Trained) -> None:
    """Arrays that may not be written to give the same answers, and no warning."""
    rows = classifier.splits.test.frame.numbers[:2]
    view = np.frombuffer(rows.tobytes(), np.float32).reshape(rows.shape)
    engine = engine_of(classifier.safetensors)
    assert np.array_equal(
        engine.run({"input": view})["probabilities"],
        engine.run({"input": rows.copy()})["probabilities"],
    )


def test_tensors_must_be_those_of_the_recipe(classifier: Trained) -> None:
    """None missing, none extra, each of its shape and datatype."""
    good = classifier.safetensors
    assert f"missing: {NAME}" in refused(changed(good, lambda t: t.pop(NAME)))
    assert "no tensors evil" in refused(changed(good, lambda t: t.update(evil=torch.ones(1))))
    shape = changed(good, lambda t: t.update({NAME: torch.ones(3)}))
    assert f"{NAME} is torch.float32 [3]" in refused(shape)
    kind = changed(good, lambda t: t.update({NAME: torch.ones(256).half()}))
    assert f"{NAME} is torch.float16 [256]" in refused(kind)


@pytest.mark.parametrize(
    "fields",
    [
        {"recipe": "os.system"},
        {"recipe": None},
        {"config": {"hidden": [10**9]}},
        {"config": {"layers": 3}},
        {"config": None},
        {"preparation": {"columns": 3}},
        {"preparation": None},
        {"task": "magic"},
        {"target": [1]},
        {"target": ["a", "b"]},
        {"classes": ["one"]},
        {"classes": [[1], [2]]},
        {"code": "print()"},
    ],
)
def test_descriptions_must_be_of_a_recipe(classifier: Trained, fields: dict[str, Any]) -> None:
    """An unknown recipe, a config that it does not take, sizes out of bounds, other fields."""
    refused(changed(classifier.safetensors, **fields))


def test_other_sizes_cost_no_memory(classifier: Trained) -> None:
    """The file's word for a large network is checked against its tensors before any is made."""
    assert "8192" in refused(changed(classifier.safetensors, config={"hidden": [8192, 8192]}))


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"junk",
        (1 << 40).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (100_000).to_bytes(8, "little") + b"[" * 100_000,
        (17 << 20).to_bytes(8, "little") + b" " * (17 << 20),
        torch.save,
    ],
)
def test_junk_is_refused(junk: Any) -> None:
    """Headers that are absent, cut off, too large or too deep; pickles."""
    if callable(junk):
        import io

        file = io.BytesIO()
        junk({"w": torch.ones(3)}, file)
        junk = file.getvalue()
    refused(junk)


def test_a_cut_off_file_is_refused(classifier: Trained) -> None:
    """The header may be whole and the tensors not."""
    refused(classifier.safetensors[:-10])


def test_nothing_is_built_without_a_builder() -> None:
    """The engine knows no recipe of its own: what it is given decides."""

    def build(said: Mapping[str, Any]) -> tuple[torch.nn.Module, Signature, PrepareInputs]:
        assert said == {"mine": 1}
        return torch.nn.Linear(2, 1), Signature((), ()), lambda inputs: inputs["input"]

    model = save({"weight": torch.ones(1, 2), "bias": torch.zeros(1)}, {KEY: '{"mine": 1}'})
    assert engines.load("safetensors", model, build=build).signature == Signature((), ())
