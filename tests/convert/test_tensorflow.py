"""SavedModels: what is refused before TensorFlow sees it; and, where it takes long, TensorFlow
itself in its toolchain, which the slow test installs."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from meuse.app.kinds.import_ import Foreign, Import
from meuse.app.kinds.pull import Sources
from meuse.app.kinds.shared import Stores
from meuse.convert.inside import tensorflow
from meuse.convert.outside import Converted, convert
from meuse.convert.spec import ImportSpec
from meuse.core.errors import MeuseError
from meuse.core.nouns import Scope, TensorSpec
from meuse.runtime import sandbox, toolchains
from meuse.serve import engines


def zipped(**files: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def linked() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        link = tarfile.TarInfo("saved_model.pb")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return buffer.getvalue()


def bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(3):
            archive.writestr(f"variables/{number}", bytes(40 << 20))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"neither", "neither a zip nor a tar"),
        (zipped(a=b"x"), "no file saved_model.pb"),
        (zipped(**{"..__saved_model.pb": b"x"}), "outside of itself"),
        (zipped(**{"__etc__saved_model.pb": b"x"}), "outside of itself"),
        (linked(), "a link or a device"),
        (bomb(), "a zip bomb"),
    ],
)
def test_hostile_saved_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("source").write_bytes(content)
    with pytest.raises(MeuseError, match=told) as caught:
        tensorflow.convert(Path("source"), None)
    assert (caught.value.code, caught.value.field) == ("invalid_data", "model")
    assert not (tmp_path.parent / "saved_model.pb").exists()


def test_a_saved_model_that_is_too_large(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").touch()
    with (tmp_path / "variables").open("wb") as file:
        file.truncate(tensorflow.MAX_BYTES + 1)  # takes no room on the disk
    with pytest.raises(MeuseError, match="the limit is"):
        tensorflow.convert(tmp_path, None)


def test_without_the_toolchain_a_job_is_refused_when_it_is_submitted(tmp_path: Path) -> None:
    def never() -> None:
        raise AssertionError

    stores = Stores(None, None, None, never)  # type: ignore[arg-type]
    kind = Import(stores, Foreign(toolchains=str(tmp_path)), Sources()).kind()
    spec = {"model_name": "m", "format": "tensorflow", "source": {"upload": "0" * 64}}
    with pytest.raises(MeuseError, match="toolchain 'tensorflow'") as caught:
        kind.check(Scope("t", "default"), spec)
    assert (caught.value.code, caught.value.field) == ("unavailable", "format")
    assert "meuse toolchains install tensorflow" in (caught.value.hint or "")
    assert kind.check(Scope("t", "default"), {**spec, "format": "keras"})["format"] == "keras"


MAKE = """
import sys, keras, numpy as np, tensorflow as tf
from keras import layers as L
keras.utils.set_random_seed(4)
out, rng = sys.argv[1], np.random.default_rng(0)
x = {"dense": rng.normal(size=(9, 4)), "conv": rng.random((9, 12, 12, 1)),
    "one": rng.normal(size=(9, 5))}
made = {
    "dense": keras.Sequential([keras.Input((4,)), L.Dense(16, activation="relu"),
        L.BatchNormalization(), L.Dense(3, activation="softmax")]),
    "conv": keras.Sequential([keras.Input((12, 12, 1)), L.Conv2D(4, 3, activation="relu"),
        L.MaxPooling2D(), L.Flatten(), L.Dense(7)]),
    "one": keras.Sequential([keras.Input((5,)), L.Dense(4, "tanh"),
        L.Dense(1, activation="sigmoid")]),
}
for name, model in made.items():
    x[name] = x[name].astype("float32")
    model.export(f"{out}/{name}", verbose=False)
    np.savez(f"{out}/{name}.npz", x=x[name], y=np.asarray(model(x[name], training=False)))
made["dense"].save(f"{out}/dense.keras")

class Two(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 2)), tf.TensorSpec((None, 2))])
    def __call__(self, a, b):
        return a + b

class Reads(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None, 2))])
    def __call__(self, a):
        return a + tf.cast(tf.strings.length(tf.io.read_file(sys.argv[2])), tf.float32)

for name, module in (("two", Two()), ("reads", Reads())):
    tf.saved_model.save(module, f"{out}/{name}", signatures=module.__call__.get_concrete_function())
"""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> toolchains.Environment:
    """Installed where MEUSE_TEST_TOOLCHAINS says, to be there the next time, or for once."""
    kept = os.environ.get("MEUSE_TEST_TOOLCHAINS")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("toolchains")
    try:
        return toolchains.install("tensorflow", folder, print)
    except MeuseError as error:
        pytest.skip(f"{error.message}: no index of packages is in reach")


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.skipif(sandbox.survey().tier < 1, reason=sandbox.survey().text)
def test_saved_models_are_converted_in_the_toolchain(
    tmp_path: Path, chain: toolchains.Environment
) -> None:
    """Dense and convolutional networks, a .keras file, and models that cannot be converted;
    what TensorFlow answered and what ONNX Runtime answers are the same."""
    secret = tmp_path / "secret"
    secret.write_text("swordfish")
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "", "HOME": str(tmp_path)}
    subprocess.run(
        [str(chain.interpreter), "-c", MAKE, str(tmp_path), str(secret)],
        check=True, env=environment,
    )  # fmt: skip

    def imported(name: str, *classes: str) -> Converted:
        return convert(
            ImportSpec("m", "tensorflow", {"path": name}, list(classes) or None),
            tmp_path / name,
            tmp_path / "box",
            lambda model: engines.load("onnx", model),
            least=1,
            limits=sandbox.Limits(wall_s=900.0),
            log=print,
            toolchain=chain,
        )

    def answers(done: Converted, name: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        with np.load(tmp_path / f"{name}.npz") as file:
            return engines.load("onnx", done.model).run({"input": file["x"]}), file["y"]

    for name in ("dense", "dense.keras"):
        done = imported(name, "a", "b", "c")
        assert done.signature.classes == ("a", "b", "c")
        assert done.signature.inputs == (TensorSpec("input", "FP32", (-1, 4)),)
        assert done.report["imported"]["tensorflow"] == "2.21.0"
        assert done.report["parity"]["agreeing"] == 1.0
        found, wanted = answers(done, "dense")
        np.testing.assert_allclose(found["probabilities"], wanted, atol=1e-5)
        assert found["label"].tolist() == wanted.argmax(axis=1).tolist()
    done = imported("conv")
    assert done.task == "regression"
    assert done.signature.inputs == (TensorSpec("input", "FP32", (-1, 12, 12, 1)),)
    found, wanted = answers(done, "conv")
    np.testing.assert_allclose(found["value"], wanted, atol=1e-5)
    done = imported("one")
    assert done.signature.classes == (0, 1)
    found, wanted = answers(done, "one")
    np.testing.assert_allclose(found["probabilities"][:, 1], wanted[:, 0], atol=1e-5)
    with pytest.raises(MeuseError, match="2 inputs and 1 outputs"):
        imported("two")
    with pytest.raises(MeuseError) as caught:  # what it reads is not to be seen there
        imported("reads")
    assert caught.value.code == "invalid_data"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"nonsense")
    with pytest.raises(MeuseError, match="cannot load the SavedModel"):
        imported("broken")
