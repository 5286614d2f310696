"""LiteRT: what is checked of a conversion; and, where it takes long, the conversion itself in
TensorFlow's toolchain, which the slow tests install."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from helpers_jobs import RecordedJob
from meuse.app.kinds.compress import Compress
from meuse.app.kinds.import_ import Foreign
from meuse.app.kinds.shared import Stores
from meuse.compress.artifact import Artifact
from meuse.compress.configs.convert import Convert
from meuse.compress.litert import outside
from meuse.compress.material import GraphMaterial, Tools
from meuse.compress.methods.convert import convert
from meuse.compress.run import run
from meuse.compress.spec import CompressSpec
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Engine
from meuse.evaluate.metrics import for_task
from meuse.runtime import sandbox, toolchains
from meuse.serve import engines
from serve import litert_models, models

WEIGHTS = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)


def dense() -> bytes:
    """y = x · WEIGHTSᵀ as ONNX."""
    value = helper.make_tensor_value_info
    return models.model_of(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        [value("x", TensorProto.FLOAT, ["n", 3])],
        [value("y", TensorProto.FLOAT, ["n", 2])],
        {"w": WEIGHTS},
    )


def material_of(folder: Path, rows: dict[str, np.ndarray], chain: Path | None) -> GraphMaterial:
    tools = Tools("" if chain is None else str(chain))
    return GraphMaterial(
        RecordedJob(folder), rows, {}, np.zeros(0), "regression", for_task("regression"), 0, "x",
        tools=tools,
    )  # fmt: skip


def load(artifact: Artifact) -> Engine:
    return engines.load(artifact.format, artifact.data)


def test_answers_are_compared(tmp_path: Path) -> None:
    """A faithful file passes; rounded weights pass as float16 and not as float32; another model
    passes as nothing."""
    rows = {"x": np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)}
    material = material_of(tmp_path, rows, None)
    exact = litert_models.dense(WEIGHTS)
    rounded = litert_models.dense(np.round(WEIGHTS * 512) / 512)
    other = litert_models.dense(-WEIGHTS)
    renamed = litert_models.dense(WEIGHTS, names=("x", "z"))
    outside.check(dense(), exact, "float32", material)
    outside.check(dense(), rounded, "float16", material)
    for model, numbers in ((rounded, "float32"), (other, "float16"), (other, "int8")):
        with pytest.raises(MeuseError, match="answers otherwise") as caught:
            outside.check(dense(), model, numbers, material)  # type: ignore[arg-type]
        assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
    with pytest.raises(MeuseError, match="other outputs"):
        outside.check(dense(), renamed, "float32", material)


def test_without_the_toolchain_it_is_unavailable(tmp_path: Path) -> None:
    """The method says so; a job is refused when it is submitted, before it takes a turn."""
    material = material_of(tmp_path, {}, None)
    with pytest.raises(MeuseError, match="toolchain 'tensorflow'") as caught:
        convert(Artifact("onnx", dense()), material, Convert(to="litert"))
    assert (caught.value.code, caught.value.field) == (Code.UNAVAILABLE, "to")

    stores = Stores(None, None, None, lambda: None)  # type: ignore[arg-type]
    kind = Compress(stores, Foreign(toolchains=str(tmp_path)))
    steps = [{"method": "prune"}, {"method": "convert", "to": "litert"}]
    with pytest.raises(MeuseError, match="toolchain") as caught:
        kind.kind().check(None, {"model": "digits:1", "steps": steps})  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.field) == (Code.UNAVAILABLE, "steps.1.to")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed where MEUSE_TEST_TOOLCHAINS says, to be there the next time, or for once."""
    kept = os.environ.get("MEUSE_TEST_TOOLCHAINS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("toolchains")
    try:
        toolchains.install("tensorflow", folder, print)
    except MeuseError as error:
        pytest.skip(f"{error.message}: no index of packages is in reach")
    return folder


slow = pytest.mark.slow
caged = pytest.mark.skipif(sandbox.survey().tier < 1, reason=sandbox.survey().text)


@slow
@caged
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("numbers", ["float32", "float16", "int8"])
def test_a_network_with_its_preparation(
    images: Any, tmp_path: Path, chain: Path, numbers: str
) -> None:
    """Images come as bytes, standardisation is inside; labels are those of ONNX Runtime, the
    file is as small as its numbers, and batches may have any size."""
    material = replace(images.material, job=RecordedJob(tmp_path), tools=Tools(str(chain)))
    config = Convert(to="litert", numbers=numbers)  # type: ignore[arg-type]
    made = convert(images.artifact, material, config)
    assert made.format == "litert"
    engine, before = load(made), load(images.artifact)
    assert engine.signature == before.signature
    rows = dict(material.validation_rows)
    wanted, found = before.run(rows), engine.run(rows)
    agreeing = (wanted["label"] == found["label"]).mean()
    assert agreeing >= {"float32": 1.0, "float16": 0.99, "int8": 0.9}[numbers]
    one = engine.run({"image": rows["image"][:1]})
    np.testing.assert_allclose(
        one["probabilities"][0], found["probabilities"][0], atol=1e-5 if numbers != "int8" else 0.02
    )
    share = len(made.data) / len(images.artifact.data)
    assert share < {"float32": 1.2, "float16": 0.8, "int8": 0.7}[numbers]


@slow
@caged
@pytest.mark.timeout(3000)
def test_a_job_leaves_a_litert_version(classifier: Any, tmp_path: Path, chain: Path) -> None:
    """A step among others: pruned, converted to integers, judged and measured in its engine."""
    steps = [{"method": "prune", "rate": 0.5, "epochs": 1}, {"method": "convert", "to": "litert"}]
    steps[1]["numbers"] = "int8"
    spec = CompressSpec.from_dict({"model": "digits:1", "steps": steps, "goal": {"max_drop": 0.05}})
    parent = replace(classifier.parent, tools=Tools(str(chain)))
    result = run(RecordedJob(tmp_path), parent, classifier.splits, spec, load)
    assert result.files == {tmp_path / "model.tflite": "litert"}
    after = result.report["after"]
    assert after["bytes"] < 0.35 * result.report["before"]["bytes"]
    assert after["p50_ms"] > 0
    assert after["memory_bytes"] > 0


def table() -> bytes:
    """Numbers with gaps, numbers as categories, and logs, as preparations have them."""
    value, node = helper.make_tensor_value_info, helper.make_node
    constants = {
        "fill": np.array([1.5, 2.5], np.float32), "one": np.array([1], np.float32),
        "axis": np.array([1], np.int64), "depth": np.array(3, np.int64),
        "off_on": np.array([0, 1], np.float32), "log": np.array([True, False]),
        "w": np.random.default_rng(3).normal(size=(5, 4)).astype(np.float32),
        "low": np.array([-1, -1], np.float32),
    }  # fmt: skip
    nodes = [
        node("IsNaN", ["numbers"], ["gap"]),
        node("Where", ["gap", "fill", "numbers"], ["whole"]),
        node("Max", ["whole", "low"], ["bounded"]),
        node("Abs", ["bounded"], ["size"]),
        node("Add", ["size", "one"], ["more"]),
        node("Log", ["more"], ["logs"]),
        node("Sign", ["bounded"], ["sign"]),
        node("Mul", ["sign", "logs"], ["logged"]),
        node("Where", ["log", "logged", "bounded"], ["chosen"]),
        node("LabelEncoder", ["kind"], ["place"], domain="ai.onnx.ml", keys_floats=[3.0, 5.0, 9.0],
             values_int64s=[0, 1, 2], default_int64=3),
        node("OneHot", ["place", "depth", "off_on"], ["hot"], axis=1),
        node("Concat", ["chosen", "hot"], ["features"], axis=1),
        node("MatMul", ["features", "w"], ["scores"]),
        node("Tanh", ["scores"], ["bent"]),
        node("ReduceSum", ["bent", "axis"], ["value"], keepdims=0),
    ]  # fmt: skip
    proto = onnx.load_from_string(
        models.model_of(
            nodes,
            [
                value("numbers", TensorProto.FLOAT, ["n", 2]),
                value("kind", TensorProto.FLOAT, ["n"]),
            ],
            [value("value", TensorProto.FLOAT, ["n"])],
            constants,
        )
    )
    del proto.opset_import[:]
    proto.opset_import.extend([helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", 4)])
    return bytes(proto.SerializeToString())


@slow
@caged
@pytest.mark.timeout(3000)
def test_tables(tmp_path: Path, chain: Path) -> None:
    """Several inputs keep their order; gaps are filled and unknown categories are none."""
    random = np.random.default_rng(2)
    numbers = random.normal(size=(200, 2)).astype(np.float32) * 3
    numbers[::5, 0] = np.nan
    rows = {"numbers": numbers, "kind": random.choice([3, 5, 9, 7], 200).astype(np.float32)}
    material = material_of(tmp_path, rows, chain)
    made = convert(Artifact("onnx", table()), material, Convert(to="litert"))
    engine, before = load(made), load(Artifact("onnx", table()))
    assert engine.signature == before.signature
    np.testing.assert_allclose(
        engine.run(rows)["value"], before.run(rows)["value"], rtol=1e-4, atol=1e-5
    )


@slow
@caged
@pytest.mark.timeout(3000)
def test_operators_that_litert_lacks_are_named(texts: Any, tmp_path: Path, chain: Path) -> None:
    """Texts cannot be cut there."""
    parent, rows = texts
    material = material_of(tmp_path, rows, chain)
    with pytest.raises(MeuseError, match="cannot express") as caught:
        convert(parent, material, Convert(to="litert"))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
    assert "com.microsoft.Tokenizer" in caught.value.message
    assert "text (an input of texts)" in caught.value.message
