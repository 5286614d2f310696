"""Real models of other formats, converted in the sandbox and compared with their originals."""

from __future__ import annotations

import contextlib
import io
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from lightgbm import LGBMClassifier, LGBMRegressor
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC

from meuse.convert import outside
from meuse.convert.inside import worker
from meuse.convert.outside import Converted, convert
from meuse.convert.spec import ImportSpec
from meuse.core.errors import MeuseError
from meuse.core.nouns import TensorSpec
from meuse.runtime import sandbox
from meuse.serve import engines

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])
LIMITS = sandbox.Limits(wall_s=300.0)

pytestmark = pytest.mark.skipif(sandbox.survey().tier < 1, reason=sandbox.survey().text)


@pytest.fixture
def unboxed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter in this very process, for files that the test has made itself: quick."""

    def call(order: sandbox.Order, payload: dict[str, Any], **_: Any) -> tuple[Any, int]:
        with contextlib.chdir(order.folder):
            return worker.work(payload), sandbox.survey().tier

    monkeypatch.setattr(outside, "call", call)


def imported(tmp_path: Path, content: bytes, format: str = "sklearn", **more: Any) -> Converted:
    source = tmp_path / "source"
    source.write_bytes(content)
    spec = ImportSpec("m", format, {"upload": "0" * 64}, **more)
    heard: list[str] = []
    try:
        return convert(
            spec,
            source,
            tmp_path / "box",
            lambda model: engines.load("onnx", model),
            least=1,
            limits=LIMITS,
            log=heard.append,
        )
    finally:
        print("\n".join(heard))


def dumped(model: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


def answers(done: Converted, **inputs: Any) -> dict[str, Any]:
    return engines.load("onnx", done.model).run(inputs)


@pytest.mark.usefixtures("unboxed")
@pytest.mark.parametrize(
    "model",
    [
        LogisticRegression(max_iter=300),
        make_pipeline(StandardScaler(), SVC()),
        RandomForestClassifier(20, random_state=0),
        HistGradientBoostingClassifier(max_iter=20),
        LinearSVC(),
    ],
    ids=lambda m: type(m).__name__,
)
def test_classifiers_answer_as_they_did(tmp_path: Path, model: Any) -> None:
    model.fit(X, NAMES[Y])
    done = imported(tmp_path, dumped(model))
    assert done.task == "classification"
    assert done.signature.classes == tuple(NAMES)
    assert done.signature.inputs == (TensorSpec("input", "FP32", (-1, 4)),)
    assert done.signature.outputs[0] == TensorSpec("label", "INT64", (-1,))
    found = answers(done, input=X.astype(np.float32))
    wanted = model.predict(X.astype(np.float32).astype(np.float64))
    assert (NAMES[found["label"]] == wanted).mean() > 0.99
    if hasattr(model, "predict_proba"):
        assert np.abs(found["probabilities"] - model.predict_proba(X)).max() < 1e-3
    assert done.report["parity"]["agreeing"] >= 0.99
    assert done.report["sandbox"]["tier"] == sandbox.survey().tier


@pytest.mark.usefixtures("unboxed")
def test_regressors_answer_as_they_did(tmp_path: Path) -> None:
    x, y = load_diabetes(return_X_y=True)
    for model in (LinearRegression(), RandomForestRegressor(10, random_state=0)):
        done = imported(tmp_path, pickle.dumps(model.fit(x, y)))
        assert done.signature.outputs == (TensorSpec("value", "FP32", (-1,)),)
        assert np.allclose(
            answers(done, input=x.astype(np.float32))["value"], model.predict(x), rtol=1e-3
        )


def table() -> tuple[pd.DataFrame, Any]:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, 400).astype(float),
            "city": rng.choice(["Liège", "Namur", "Maastricht"], 400),
            "note": rng.choice(["good river boat", "bad Ölfleck, bad!", "été boat x"], 400),
        }
    )
    return frame, np.where((frame.age > 50) ^ (frame.city == "Namur"), "yes", "no")


def test_a_pipeline_of_numbers_and_texts(tmp_path: Path) -> None:
    frame, y = table()
    parts = ColumnTransformer(
        [
            ("n", StandardScaler(), ["age"]),
            ("c", OneHotEncoder(handle_unknown="ignore"), ["city"]),
            ("t", TfidfVectorizer(ngram_range=(1, 2)), "note"),
        ]
    )
    model = make_pipeline(parts, RandomForestClassifier(20, random_state=0)).fit(frame, y)
    done = imported(tmp_path, dumped(model))
    assert done.signature.inputs == (
        TensorSpec("age", "FP32", (-1,)),
        TensorSpec("city", "BYTES", (-1,)),
        TensorSpec("note", "BYTES", (-1,)),
    )
    given = {
        "age": frame.age.to_numpy(np.float32),
        "city": np.array([text.encode() for text in frame.city], object),
        "note": np.array([text.encode() for text in frame.note], object),
    }
    found = answers(done, **given)
    # Some ages lie on a threshold, halfway between two others; float32 moves them across.
    difference = np.abs(found["probabilities"] - model.predict_proba(frame)).max(axis=1)
    assert (difference < 1e-4).mean() > 0.97


@pytest.mark.usefixtures("unboxed")
def test_a_classifier_of_texts_alone(tmp_path: Path) -> None:
    texts = ["good boat", "bad boat", "very good river", "so bad a river"] * 5
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, [1, 0, 1, 0] * 5)
    done = imported(tmp_path, dumped(model))
    assert done.signature.inputs == (TensorSpec("text", "BYTES", (-1,)),)
    assert done.signature.classes == (0, 1)
    given = np.array([text.encode() for text in texts], object)
    assert answers(done, text=given)["label"].tolist() == [1, 0, 1, 0] * 5


@pytest.mark.usefixtures("unboxed")
def test_lightgbm_as_text_and_pickled(tmp_path: Path) -> None:
    x, y = load_breast_cancer(return_X_y=True)
    model = LGBMClassifier(n_estimators=40, verbose=-1, n_jobs=1).fit(x, y)
    text = model.booster_.model_to_string().encode()
    done = imported(tmp_path, text, "lightgbm", classes=["malignant", "benign"])
    assert done.signature.classes == ("malignant", "benign")
    x32 = x.astype(np.float32)
    found = answers(done, input=x32)
    assert np.abs(found["probabilities"] - model.predict_proba(x32.astype(float))).max() < 1e-5
    wine, kinds = load_wine(return_X_y=True)
    model = LGBMClassifier(n_estimators=20, verbose=-1, n_jobs=1).fit(wine, NAMES[kinds])
    done = imported(tmp_path, dumped(model))
    assert done.signature.classes == tuple(NAMES)
    x32 = wine.astype(np.float32)
    found = answers(done, input=x32)
    assert np.abs(found["probabilities"] - model.predict_proba(x32.astype(float))).max() < 1e-5
    x, y = load_diabetes(return_X_y=True)
    for objective in ("regression", "quantile", "poisson"):
        model = LGBMRegressor(n_estimators=20, verbose=-1, n_jobs=1, objective=objective).fit(x, y)
        done = imported(tmp_path, model.booster_.model_to_string().encode(), "lightgbm")
        x32 = x.astype(np.float32)
        wanted = model.predict(x32.astype(float))
        assert np.allclose(answers(done, input=x32)["value"], wanted, rtol=1e-5)


def packed(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


MLMODEL = """
flavors:
  python_function: {loader_module: mlflow.sklearn}
  sklearn: {pickled_model: model.pkl, serialization_format: cloudpickle, sklearn_version: 1.9.1}
mlflow_version: 3.1.0
run_id: 0123456789abcdef
signature:
  inputs: '[{"type": "double", "name": "a"}, {"type": "double", "name": "b"}]'
  outputs: '[{"type": "long"}]'
"""


@pytest.mark.usefixtures("unboxed")
def test_mlflow_folders(tmp_path: Path) -> None:
    model = LogisticRegression().fit(X[:, :2], Y)
    files = {"model/MLmodel": MLMODEL.encode(), "model/model.pkl": pickle.dumps(model)}
    done = imported(tmp_path, packed(files), "mlflow")
    assert done.signature.classes == (0, 1, 2)
    assert done.report["imported"]["columns"] == ["a", "b"]
    assert done.report["imported"]["run"] == "0123456789abcdef"
    booster = LGBMClassifier(n_estimators=5, verbose=-1, n_jobs=1).fit(X, Y).booster_
    flavor = b"flavors: {lightgbm: {data: model.lgb}}"
    files = {"MLmodel": flavor, "model.lgb": booster.model_to_string().encode()}
    assert imported(tmp_path, packed(files), "mlflow").task == "classification"
    files = {"MLmodel": b"flavors: {onnx: {data: model.onnx}}", "model.onnx": done.model}
    assert imported(tmp_path, packed(files), "mlflow").signature.inputs == done.signature.inputs
    with pytest.raises(MeuseError, match="flavor pytorch cannot be imported") as caught:
        imported(tmp_path, packed({"MLmodel": b"flavors: {pytorch: {}}"}), "mlflow")
    assert "torch.onnx.export" in (caught.value.hint or "")


class Hostile:
    """A pickle that does as it likes when it is read."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> Any:
        return exec, (self.code,)


@pytest.mark.parametrize(
    ("content", "format", "told"),
    [
        (b"no pickle", "sklearn", "cannot be read"),
        (dumped([1, 2]), "sklearn", "not a scikit-learn estimator"),
        (dumped(StandardScaler().fit(X)), "sklearn", "neither a classifier nor a regressor"),
        (dumped(LogisticRegression()), "sklearn", "."),
        (b"tree\nnonsense", "lightgbm", "LightGBM cannot read"),
        (b"\xff\xfe", "lightgbm", "a text file"),
        (b"nonsense", "keras", r"no \.keras archive"),
        (b"neither", "mlflow", "neither a zip nor a tar"),
        (packed({"a": b"x"}), "mlflow", "no file MLmodel"),
        (packed({"../a": b"x"}), "mlflow", "outside of itself"),
        (packed({"MLmodel": b"flavors: {onnx: {data: ../../x}}"}), "mlflow", "not there"),
    ],
)
@pytest.mark.usefixtures("unboxed")
def test_what_cannot_be_imported(tmp_path: Path, content: bytes, format: str, told: str) -> None:
    with pytest.raises(MeuseError, match=told) as caught:
        imported(tmp_path, content, format)
    assert caught.value.code == "invalid_data"
    assert caught.value.field == "model"


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 80), 1)", "no network"),
        ("import os; os.symlink('/etc/passwd', 'outcome.json'); os._exit(0)", "was stopped"),
    ],
)
def test_a_hostile_pickle_fails_with_an_error(tmp_path: Path, code: str, told: str) -> None:
    with pytest.raises(MeuseError, match=told) as caught:
        imported(tmp_path, dumped(Hostile(code)))
    assert (caught.value.code, caught.value.field) == ("invalid_data", "model")


def test_a_pickle_reaches_nothing_of_ours(tmp_path: Path) -> None:
    secret, victim = tmp_path / "secret", tmp_path / "victim"
    secret.write_text("swordfish")
    code = f"""
try:
    raise SystemExit(open({str(secret)!r}).read())
except OSError:
    open({str(victim)!r}, "w")
"""
    with pytest.raises(MeuseError, match="failed") as caught:
        imported(tmp_path, dumped(Hostile(code)))
    assert "swordfish" not in str(caught.value)
    assert "victim" in str(caught.value)
    assert not victim.exists()


KERAS = """
import os, sys
os.environ["KERAS_BACKEND"] = "torch"
import keras, numpy as np
from sklearn.datasets import load_iris
x, y = load_iris(return_X_y=True)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(16, activation="relu"),
    keras.layers.Dropout(0.1), keras.layers.Dense(3, activation="softmax")])
model.compile(keras.optimizers.Adam(0.02), "sparse_categorical_crossentropy")
model.fit(x, y, epochs=15, verbose=0)
model.save(sys.argv[1])
np.save(sys.argv[2], keras.ops.convert_to_numpy(model(x.astype("float32"))))
"""


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_keras_without_tensorflow(tmp_path: Path) -> None:
    """Made by Keras itself, in a process of its own: it patches torch when it is imported."""
    made, answered = tmp_path / "m.keras", tmp_path / "answers.npy"
    subprocess.run([sys.executable, "-c", KERAS, str(made), str(answered)], check=True)
    done = imported(tmp_path, made.read_bytes(), "keras", classes=list(NAMES))
    assert done.signature.classes == tuple(NAMES)
    assert done.signature.inputs == (TensorSpec("input", "FP32", (-1, 4)),)
    found = answers(done, input=X.astype(np.float32))
    assert np.abs(found["probabilities"] - np.load(answered)).max() < 1e-5
    assert (found["label"] == Y).mean() > 0.8


@pytest.mark.usefixtures("unboxed")
def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    for files, told in (
        ({"a": b"x"}, "no config.json"),
        ({"config.json": b'{"model_type": "llama"}'}, "family 'llama'"),
        (
            {"config.json": b'{"model_type": "roberta", "architectures": ["RobertaModel"]}'},
            "RobertaModel",
        ),
        (
            {
                "config.json": b'{"model_type": "bert", '
                b'"architectures": ["BertForSequenceClassification"]}',
                "pytorch_model.bin": b"x",
            },
            "no safetensors",
        ),
    ):
        with pytest.raises(MeuseError, match=told):
            imported(tmp_path, packed(files), "huggingface")
