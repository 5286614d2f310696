"""The ONNX engine: signatures read from the model, and what is refused."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import TensorSpec
from meuse.serve import engines, strings
from serve import models


def test_the_signature_is_read_from_the_session() -> None:
    """Open dimensions are -1, datatypes have Open Inference names."""
    signature = engines.load("onnx", models.pair()).signature
    assert signature.inputs == (TensorSpec("a", "FP32", (-1, 2)), TensorSpec("b", "INT64", (-1,)))
    assert signature.outputs == (
        TensorSpec("s", "FP32", (-1, 2)),
        TensorSpec("big", "BOOL", (-1,)),
    )


def test_it_computes() -> None:
    """Outputs come by name."""
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    got = engines.load("onnx", models.classifier(), threads=1).run({"x": x})
    np.testing.assert_allclose(got["y"], x @ models.WEIGHTS, rtol=1e-4)
    assert got["label"].tolist() == (x @ models.WEIGHTS).argmax(1).tolist()


def test_other_formats_are_refused() -> None:
    """Formats are an allow-list."""
    with pytest.raises(MeuseError) as caught:
        engines.load("pickle", b"")
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "format")


@pytest.mark.parametrize("junk", [b"", b"junk", b"\x00" * 100])
def test_junk_is_refused(junk: bytes) -> None:
    """Bytes that are no model."""
    with pytest.raises(MeuseError) as caught:
        engines.load("onnx", junk)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")


def test_strings_are_text() -> None:
    """BYTES go in and out as UTF-8; other bytes are the caller's fault."""
    engine = engines.load("onnx", models.identity(TensorProto.STRING, ["n", 1]))
    assert engine.signature.inputs == (TensorSpec("x", "BYTES", (-1, 1)),)
    words = strings.array_of([b"", "né".encode()], (2, 1))
    got = engine.run({"x": words})["y"]
    assert (got.dtype, got.tolist()) == (strings.OBJECT, words.tolist())
    with pytest.raises(MeuseError) as caught:
        engine.run({"x": strings.array_of([b"\xff"], (1, 1))})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_INPUT, "inputs")


def test_other_types_are_refused() -> None:
    """A datatype that is not served is named with its tensor."""
    with pytest.raises(MeuseError) as caught:
        engines.load("onnx", models.identity(TensorProto.BFLOAT16, ["n"]))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "x")


@pytest.mark.parametrize("location", ["w.bin", "absolute", "../cwd/w.bin"])
def test_external_data_is_refused(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the file is there: a model must not read files of the machine it runs on."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    model = onnx.load_from_string(models.scores())
    onnx.save_model(model, "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    outside = onnx.load_model("m.onnx", load_external_data=False)
    for entry in outside.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = str(folder / "w.bin") if location == "absolute" else location
    with pytest.raises(MeuseError) as caught:
        engines.load("onnx", outside.SerializeToString())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
    assert "external" in str(caught.value)


def test_a_run_can_be_cancelled() -> None:
    """Also inside a loop: the run fails early, a cancel of nothing hits no later run."""
    engine: Any = engines.load("onnx", models.slow())
    engine.cancel()
    threading.Timer(0.2, engine.cancel).start()
    started = time.monotonic()
    with pytest.raises(Exception, match="terminat"):
        engine.run({"x": np.full((1, 1), 100_000, np.float32)})
    assert time.monotonic() - started < 30  # it would have taken more than a minute
    assert engine.run({"x": np.ones((1, 1), np.float32)})["y"].tolist() == [[1.0]]


@pytest.mark.parametrize("engine", ["openvino", "torch"])
def test_an_engine_runs_its_formats_alone(engine: str) -> None:
    """The name of an engine does not make it load what it does not know."""
    format = "onnx" if engine == "torch" else "safetensors"
    with pytest.raises(MeuseError) as caught:
        engines.load(format, b"", engine=engine)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "engine")
