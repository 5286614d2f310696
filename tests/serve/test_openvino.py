"""The OpenVINO engine: the same answers as ONNX Runtime, and what is refused."""

from __future__ import annotations

import io
import tempfile
import threading
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto, helper

from meuse.core.errors import Code, MeuseError
from meuse.serve import engines
from serve import models
from serve.conftest import Trained


def zipped(**files: bytes) -> bytes:
    """A zip of files; `model_xml` is model.xml."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name.replace("_", "."), data)
    return file.getvalue()


def ir(model: bytes) -> dict[str, bytes]:
    """The .xml and .bin of an ONNX model."""
    with tempfile.TemporaryDirectory() as folder:
        xml, weights = Path(folder, "m.xml"), Path(folder, "m.bin")
        ov.serialize(ov.Core().read_model(model), xml, weights)
        return {"model_xml": xml.read_bytes(), "model_bin": weights.read_bytes()}


def refused(format: str, model: bytes) -> MeuseError:
    with pytest.raises(MeuseError) as caught:
        engines.load(format, model, engine="openvino")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
    return caught.value


@pytest.mark.parametrize("name", ["scores", "classifier", "pair", "slow", "picky", "doubled"])
def test_signatures_are_those_of_onnx_runtime(name: str) -> None:
    """Names, datatypes and open dimensions do not depend on the engine."""
    model = getattr(models, name)()
    other = engines.load("onnx", model, engine="openvino")
    assert other.signature == engines.load("onnx", model).signature


@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_answers_are_those_of_onnx_runtime(format: str, rows: int, classifier: Trained) -> None:
    """On a trained model, as ONNX and as IR, at any batch."""
    model = zipped(**ir(classifier.onnx)) if format == "openvino" else classifier.onnx
    inputs = {"input": classifier.splits.test.frame.numbers[:rows]}
    got = engines.load(format, model, engine="openvino").run(inputs)
    wanted = engines.load("onnx", classifier.onnx).run(inputs)
    assert got.keys() == wanted.keys()
    assert got["label"].tolist() == wanted["label"].tolist()
    np.testing.assert_allclose(got["probabilities"], wanted["probabilities"], atol=1e-5)


@pytest.mark.parametrize(
    "kind", ["BOOL", "INT8", "UINT8", "INT16", "UINT16", "INT32", "INT64", "FLOAT16", "DOUBLE"]
)
def test_every_datatype_passes(kind: str) -> None:
    """What goes in comes out, in the datatype that was given."""
    number = getattr(TensorProto, kind)
    dtype = helper.tensor_dtype_to_np_dtype(number)
    x = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    got = engines.load("onnx", models.identity(number, ["n", 2]), engine="openvino").run({"x": x})
    assert got["y"].dtype == dtype
    assert np.array_equal(got["y"], x)


def test_results_outlive_the_next_run() -> None:
    """Outputs are copies: the buffers they came from are written again."""
    engine = engines.load("onnx", models.doubled(), engine="openvino")
    first = engine.run({"x": np.full((2, 2), 1, np.float32)})["y"]
    second = engine.run({"x": np.full((2, 2), 5, np.float32)})["y"]
    assert (first == 2).all()
    assert (second == 10).all()


def test_a_run_can_be_cancelled_between_operations() -> None:
    """The run fails early, and the next one is right."""
    names = ["x", *(f"t{i}" for i in range(300))]
    nodes = [helper.make_node("MatMul", [a, "M"], [b]) for a, b in pairwise(names)]
    nodes.append(helper.make_node("Identity", [names[-1]], ["y"]))
    value = helper.make_tensor_value_info
    model = models.model_of(
        nodes,
        [value("x", TensorProto.FLOAT, ["n", 256])],
        [value("y", TensorProto.FLOAT, ["n", 256])],
        {"M": np.eye(256, dtype=np.float32)},
    )
    engine: Any = engines.load("onnx", model, engine="openvino")
    x = np.ones((2048, 256), np.float32)
    engine.run({"x": x})
    assert_cancelled(engine, {"x": x})
    assert np.array_equal(engine.run({"x": x[:2]})["y"], x[:2])


def assert_cancelled(engine: Any, inputs: dict[str, Any]) -> None:
    """Cancel again and again until the run ends: the first call may come before it began."""
    done = threading.Event()

    def cancel() -> None:
        while not done.wait(0.02):
            engine.cancel()

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        with pytest.raises(Exception, match=r"(?i)cancel|terminat"):
            engine.run(inputs)
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("location", ["w.bin", "absolute"])
def test_external_data_is_refused(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO would read the file: a model must not read files of the machine it runs on."""
    monkeypatch.chdir(tmp_path)
    model = onnx.load_from_string(models.scores())
    onnx.save_model(model, "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    outside = onnx.load_model("m.onnx", load_external_data=False)
    for entry in outside.graph.initializer[0].external_data:
        if entry.key == "location" and location == "absolute":
            entry.value = str(tmp_path / "w.bin")
    assert "external" in str(refused("onnx", outside.SerializeToString()))


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x00" * 100, b"<net/>"])
def test_junk_is_refused(junk: bytes) -> None:
    """Bytes that are no model, in either format."""
    refused("onnx", junk)
    refused("openvino", junk)


def test_strings_are_refused() -> None:
    """A datatype that is not served is named with its tensor."""
    with pytest.raises(MeuseError) as caught:
        engines.load("onnx", models.identity(TensorProto.STRING, ["n"]), engine="openvino")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "x")


def test_a_zip_holds_two_files_and_no_bomb(classifier: Trained) -> None:
    """One .xml and one .bin, no larger than weights can be; nothing cut off."""
    good = ir(classifier.onnx)
    refused("openvino", zipped(model_xml=good["model_xml"]))
    refused("openvino", zipped(**good, extension_so=b"\x7fELF"))
    refused("openvino", zipped(model_xml=b"junk", model_bin=good["model_bin"]))
    refused("openvino", zipped(model_xml=good["model_xml"], model_bin=good["model_bin"][:100]))
    refused("openvino", zipped(model_xml=good["model_xml"], model_bin=b"\0" * (64 << 20)))
    refused("openvino", zipped(**good)[:-100])


def test_operations_of_extensions_are_refused() -> None:
    """An IR cannot ask for a library: an operation outside the standard sets is an error."""
    files = ir(models.doubled())
    files["model_xml"] = files["model_xml"].replace(b'type="Add"', b'type="Evil"')
    assert "Evil" in str(refused("openvino", zipped(**files)))
