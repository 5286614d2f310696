"""Judging versions, the gate of an alias, predictions over a dataset, model cards."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn import metrics as reference
from sklearn.datasets import load_breast_cancer

from e2e import helpers
from e2e.conftest import ALL_SCOPES, Platform
from e2e.helpers import JSON, csv_bytes, get, ready, refused, start, upload

GIVEN = {"licence": "CC-BY-4.0", "intended_use": "tests <only> & nothing | else"}


def ended(client: httpx.Client, job_id: str) -> JSON:
    """With more patience: a job child imports torch, on a machine that others use too."""
    return helpers.ended(client, job_id, 300.0)


def succeeded(client: httpx.Client, job_id: str) -> JSON:
    return helpers.succeeded(client, job_id, 300.0)


@dataclass(frozen=True, slots=True)
class Cancer:
    """scikit-learn's breast cancer set with a row number, as a tenant's dataset."""

    client: httpx.Client
    data: JSON
    rows: list[list[Any]]
    header: list[str]


@pytest.fixture(scope="module")
def cancer(platform: Platform, tenant: Callable[[str], str]) -> Cancer:
    client = platform.client(platform.key(*ALL_SCOPES, tenant=tenant("eval4")))
    found = load_breast_cancer()
    header = ["n", *(str(name).replace(" ", "_") for name in found.feature_names), "benign"]
    rows = [
        [i, *map(float, row), int(label)]
        for i, (row, label) in enumerate(zip(found.data, found.target, strict=True))
    ]
    return Cancer(client, upload(client, "eval4", csv_bytes(header, rows)), rows, header)


def train(cancer: Cancer, **spec: Any) -> JSON:
    given = {"model_name": "eval4", "data": "eval4", "recipe": "linear", **spec}
    return succeeded(cancer.client, start(cancer.client, "train", **given))


@pytest.fixture(scope="module")
def good(cancer: Cancer) -> JSON:
    return train(cancer, epochs=12, card=GIVEN, slices=["mean_radius"])


@pytest.fixture(scope="module")
def bad(cancer: Cancer, good: JSON) -> JSON:
    """The same, hardly trained."""
    return train(cancer, epochs=1, learning_rate=1e-6)


@pytest.fixture(scope="module")
def compared(cancer: Cancer, good: JSON, bad: JSON) -> JSON:
    """The result of judging both, and the job's id."""
    spec = {"models": [good["model"], bad["model"]], "data": "eval4", "slices": ["mean_area"]}
    job = start(cancer.client, "evaluate", **spec)
    return {**succeeded(cancer.client, job), "job": job}


def evaluations(cancer: Cancer, version: int, model: str = "eval4") -> list[JSON]:
    items: list[JSON] = get(cancer.client, f"/api/models/{model}/versions/{version}/evaluations")[
        "items"
    ]
    return items


def test_training_judges_on_the_test_split(cancer: Cancer, good: JSON) -> None:
    """The record agrees with the version's metrics, and tells how sure it is, and of whom."""
    first = evaluations(cancer, 1)[-1]
    assert first["job"] == get(cancer.client, "/api/models/eval4/versions/1")["lineage"]["job"]
    accuracy = first["figures"]["accuracy"]
    assert accuracy == pytest.approx(good["metrics"]["test_accuracy"])
    assert accuracy > 0.9
    low, high = first["intervals"]["accuracy"]
    assert low < accuracy <= high
    assert first["rows"]["dataset_digest"] == cancer.data["digest"]
    assert (first["rows"]["split"], first["rows"]["target"]) == ("test", "benign")
    assert sum(map(sum, first["confusion"])) == first["rows"]["rows"] == 85
    assert sum(part["rows"] for part in first["slices"]) == 85
    assert {"roc_auc", "log_loss", "calibration_error", "macro_f1"} <= set(first["figures"])


@pytest.mark.slow
def test_versions_side_by_side(cancer: Cancer, compared: JSON) -> None:
    """On the test rows that they share, with paired intervals of the differences."""
    assert (compared["split"], compared["rows"]) == ("test", 85)
    one, two = compared["models"]
    assert (one["model"], two["model"]) == ("eval4:1", "eval4:2")
    gap = two["differences"]["accuracy"]
    assert gap["difference"] == pytest.approx(
        two["figures"]["accuracy"] - one["figures"]["accuracy"]
    )
    assert gap["interval"][0] <= gap["difference"] <= gap["interval"][1] < 0
    kept = evaluations(cancer, 2)[0]
    assert kept["job"] == compared["job"]
    assert kept["slices"][0]["column"] == "mean_area"
    # Judged as it is served, the first one scores what its training measured.
    assert evaluations(cancer, 1)[0]["figures"] == pytest.approx(
        evaluations(cancer, 1)[-1]["figures"]
    )
    assert evaluations(cancer, 1)[0]["rows"] == evaluations(cancer, 1)[-1]["rows"]


def test_a_worse_version_does_not_pass_the_gate(
    cancer: Cancer, good: JSON, bad: JSON, compared: JSON
) -> None:
    """Refused with the numbers; forced it moves, and says so."""
    client, promote = cancer.client, "/api/models/eval4/promote"
    first = client.post(promote, json={"version": 1, "alias": "best"})
    assert first.status_code == 200, first.text
    assert first.json()["verdict"]["passed"] is True
    answer = client.post(promote, json={"version": 2, "alias": "best"})
    error = refused(answer, 422, "gate_refused", "version")
    for said in ("accuracy", "eval4:2", "eval4:1", "85 rows", "paired"):
        assert said in error["message"]
    assert get(client, "/api/models/eval4")["aliases"]["best"] == 1
    gate = {"metric": "log_loss", "max_drop": 100}
    allowed = client.post(promote, json={"version": 2, "alias": "best", "gate": gate})
    assert allowed.status_code == 200, allowed.text
    assert allowed.json()["verdict"]["drop"] > 0
    back = client.post(promote, json={"version": 1, "alias": "best"})
    assert back.json()["verdict"]["drop"] < 0
    forced = client.post(promote, json={"version": 2, "alias": "best", "force": True})
    assert forced.status_code == 200, forced.text
    assert forced.json()["verdict"]["reason"].startswith("forced")
    assert get(client, "/api/models/eval4")["aliases"]["best"] == 2


def test_a_gated_alias_refuses_a_plain_move(cancer: Cancer, good: JSON, bad: JSON) -> None:
    """Marked once, it holds for every later move; without the mark nothing is asked."""
    client, path = cancer.client, "/api/models/eval4/aliases/gated"
    assert client.put(path, json={"version": 2}).json() == {
        "model": "eval4", "alias": "gated", "version": 2,
    }  # fmt: skip
    marked = client.put(path, json={"version": 1, "gated": True, "gate": {"max_drop": 0.01}})
    assert marked.json()["gated"] == {"metric": None, "max_drop": 0.01, "data": None}
    refused(client.put(path, json={"version": 2}), 422, "gate_refused", "version")
    assert get(client, "/api/models/eval4")["aliases"]["gated"] == 1
    assert client.put(path, json={"version": 2, "force": True}).status_code == 200
    assert client.put(path, json={"version": 1}).status_code == 200
    free = client.put(path, json={"version": 2, "gated": False})
    assert free.status_code == 200, free.text
    assert "gated" not in free.json()


@pytest.mark.slow
def test_what_was_never_judged_alike_is_told(cancer: Cancer, good: JSON) -> None:
    """Another split is other rows: the gate names the job to run. That judges both on the rows
    that neither has seen, and the gate passes."""
    client = cancer.client
    number = int(train(cancer, epochs=12, seed=7)["model"].partition(":")[2])
    assert client.put("/api/models/eval4/aliases/other", json={"version": 1}).status_code == 200
    body = {"version": number, "alias": "other", "gate": {"max_drop": 0.2}}
    error = refused(
        client.post("/api/models/eval4/promote", json=body), 422, "gate_refused", "version"
    )
    models = [f"eval4:{number}", "eval4:1"]
    assert f'"models": ["{models[0]}", "{models[1]}"]' in error["hint"]
    result = succeeded(client, start(client, "evaluate", models=models, data="eval4"))
    assert result["split"] == "test"
    assert 0 < result["rows"] < 40
    passed = client.post("/api/models/eval4/promote", json=body)
    assert passed.status_code == 200, passed.text
    assert passed.json()["verdict"]["rows"] == result["rows"]
    # A gate may name its data: rows that are new to both are all judged.
    other = [[row[0], *(v * 1.01 for v in row[1:-1]), row[-1]] for row in cancer.rows]
    upload(client, "eval4-other", csv_bytes(cancer.header, other))
    body["gate"] = {"max_drop": 0.2, "data": "eval4-other"}
    client.put("/api/models/eval4/aliases/other", json={"version": 1}).raise_for_status()
    refused(client.post("/api/models/eval4/promote", json=body), 422, "gate_refused", "version")
    result = succeeded(client, start(client, "evaluate", models=models, data="eval4-other"))
    assert (result["split"], result["rows"]) == ("all", 569)
    passed = client.post("/api/models/eval4/promote", json=body)
    assert passed.status_code == 200, passed.text
    assert passed.json()["verdict"]["dataset"] == "eval4-other:1"


def logistic(features: int, name: str = "scores") -> bytes:
    """An uploaded classifier: softmax of a fixed matrix."""
    weights = np.zeros((features, 2), np.float32)
    weights[3, 0] = 0.01  # mean_area, behind n
    bias = np.array([-6.5, 0], np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["z"]),
            helper.make_node("Softmax", ["z"], [name], axis=1),
        ],
        "logistic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", features])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", 2])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    data: bytes = onnx.ModelProto.SerializeToString(model)
    return data


def test_an_uploaded_version_is_judged_when_its_task_is_named(cancer: Cancer, good: JSON) -> None:
    """On all rows by itself, as scikit-learn scores its answers."""
    client = cancer.client
    made = client.post(
        "/api/models/eval4-own/versions",
        content=logistic(31),
        headers={"content-type": "application/onnx"},
    )
    assert made.status_code == 201, made.text
    body = {"kind": "evaluate", "spec": {"models": ["eval4-own:1"], "data": "eval4"}}
    refused(client.post("/api/jobs", json=body), 400, "invalid_field", "target")
    body["spec"] |= {"target": "benign"}
    refused(client.post("/api/jobs", json=body), 400, "invalid_field", "task")
    spec = {**body["spec"], "task": "classification"}
    result = succeeded(client, start(client, "evaluate", **spec))
    assert (result["split"], result["rows"]) == ("all", 569)
    area = np.array([row[3] for row in cancer.rows], np.float32)
    truth = np.array([row[-1] for row in cancer.rows])
    z = 0.01 * area - 6.5
    score = 1 / (1 + np.exp(z.astype(np.float64)))
    figures = result["models"][0]["figures"]
    assert figures["accuracy"] == pytest.approx(((score > 0.5) == truth).mean())
    assert figures["roc_auc"] == pytest.approx(reference.roc_auc_score(truth, score), abs=1e-4)
    job = ended(client, start(client, "evaluate", **{**spec, "task": "regression"}))
    assert (job["error"]["code"], job["error"]["field"]) == ("invalid_field", "task")
    both = {**spec, "models": ["eval4-own:1", "eval4:1"]}
    assert succeeded(client, start(client, "evaluate", **both))["split"] == "test"


@pytest.mark.parametrize(
    ("kind", "change", "status", "field"),
    [
        ("evaluate", {"models": ["eval4:99"]}, 404, "models[0]"),
        ("evaluate", {"data": "eval4-none"}, 404, "data"),
        ("evaluate", {"slices": ["nothing"]}, 400, "slices"),
        ("evaluate", {"target": "nothing"}, 400, "target"),
        ("evaluate", {"task": "regression"}, 400, "task"),
        ("predict", {"model": "eval4:99"}, 404, "model"),
        ("predict", {"model": None}, 400, "model"),
        ("predict", {"model": None, "deployment": "eval4-none"}, 404, "deployment"),
        ("predict", {"keep": ["nothing"]}, 400, "keep[0]"),
        ("predict", {"output": "No"}, 400, "output"),
        ("predict", {"batch_rows": 0}, 400, "batch_rows"),
    ],
)
def test_bad_specs_are_refused_at_once(
    cancer: Cancer, good: JSON, kind: str, change: JSON, status: int, field: str
) -> None:
    """Before anything is queued, naming the field."""
    spec = {
        "evaluate": {"models": ["eval4:1"], "data": "eval4"},
        "predict": {"model": "eval4:1", "data": "eval4", "output": "eval4-no"},
    }[kind]
    answer = cancer.client.post("/api/jobs", json={"kind": kind, "spec": {**spec, **change}})
    code = {404: "not_found", 400: "invalid_field"}[status]
    refused(answer, status, code, field)


def test_data_of_another_kind_fails_with_the_reason(cancer: Cancer, good: JSON) -> None:
    """Other features, or labels that the version does not know: nothing is kept."""
    client = cancer.client
    narrow = [[*row[:5], row[-1]] for row in cancer.rows]
    upload(client, "eval4-narrow", csv_bytes([*cancer.header[:5], "benign"], narrow))
    labels = [[*row[:-1], row[-1] + 5] for row in cancer.rows]
    upload(client, "eval4-labels", csv_bytes(cancer.header, labels))
    before = len(evaluations(cancer, 1))
    for data, field, said in (
        ("eval4-narrow", "data", "takes"), ("eval4-labels", "target", "'5'"),
    ):  # fmt: skip
        job = ended(client, start(client, "evaluate", models=["eval4:1"], data=data))
        assert job["status"] == "failed"
        assert (job["error"]["code"], job["error"]["field"]) == ("invalid_data", field)
        assert said in job["error"]["message"]
    assert len(evaluations(cancer, 1)) == before


def usage(client: httpx.Client, model: str) -> dict[tuple[str, str], int]:
    """Quantities by (tier, meter)."""
    rows = get(client, "/api/usage", by="model,tier,meter", fresh="true")["rows"]
    return {(r["tier"], r["meter"]): r["quantity"] for r in rows if r["model"] == model}


def answers(platform: Platform, cancer: Cancer, name: str) -> list[dict[str, str]]:
    """The rows of a dataset version, as they lie in the blobs."""
    found = next(d for d in get(cancer.client, "/api/datasets")["items"] if d["name"] == name)
    data = (platform.home / "blobs" / "eval4" / found["digest"]).read_text()
    return list(csv.DictReader(io.StringIO(data)))


def test_a_dataset_of_predictions(platform: Platform, cancer: Cancer, good: JSON) -> None:
    """One answer for each row in its order, with what is kept, as the endpoint answers; billed
    once at the batch tier."""
    client = cancer.client
    spec = {"model": "eval4:1", "data": "eval4", "output": "eval4-out", "batch_rows": 100}
    result = succeeded(client, start(client, "predict", **spec, keep=["n", "benign"]))
    assert (result["data"], result["rows"], result["model"]) == ("eval4-out:1", 569, "eval4:1")
    rows = answers(platform, cancer, "eval4-out")
    assert list(rows[0]) == ["n", "benign", "prediction", "probability_0", "probability_1"]
    assert [int(row["n"]) for row in rows] == list(range(569))
    right = np.mean([row["prediction"] == row["benign"] for row in rows])
    assert right > 0.9
    assert client.put("/api/deployments/eval4", json={"model": "eval4:1"}).status_code == 202
    ready(client, "eval4")
    live = client.post(
        "/predict", json={"model": "eval4", "input_data": [row[:-1] for row in cancer.rows[:50]]}
    ).json()
    assert [str(label) for label in live["output_data"]] == [r["prediction"] for r in rows[:50]]
    first = usage(client, "eval4/eval4")
    assert first["batch", "rows"] == 569
    assert first["standard", "rows"] == 50
    # The same again, by the deployment and without the target: the rows add up, the bytes of
    # equal answers are one version.
    blind = [row[:-1] for row in cancer.rows]
    upload(client, "eval4-blind", csv_bytes(cancer.header[:-1], blind))
    spec = {"deployment": "eval4", "data": "eval4-blind", "output": "eval4-blind-out"}
    result = succeeded(client, start(client, "predict", **spec, probabilities=False))
    assert result["model"] == "eval4:1"
    again = answers(platform, cancer, "eval4-blind-out")
    assert [row["prediction"] for row in again] == [row["prediction"] for row in rows]
    assert list(again[0]) == ["prediction"]
    assert usage(client, "eval4/eval4")["batch", "rows"] == 2 * 569
    assert usage(client, "eval4/eval4")["batch", "compute_ms"] > 0


def test_an_uploaded_version_predicts_under_its_own_names(
    platform: Platform, cancer: Cancer
) -> None:
    """What its outputs mean is its owner's business."""
    client = cancer.client
    client.post(
        "/api/models/eval4-own/versions",
        content=logistic(31),
        headers={"content-type": "application/onnx"},
    ).raise_for_status()
    spec = {"model": "eval4-own", "data": "eval4", "output": "eval4-own-out", "keep": ["benign"]}
    job = ended(client, start(client, "predict", **spec))
    assert job["status"] == "succeeded", job["error"]
    rows = answers(platform, cancer, "eval4-own-out")
    assert list(rows[0]) == ["benign", "scores_0", "scores_1"]
    assert float(rows[0]["scores_0"]) + float(rows[0]["scores_1"]) == pytest.approx(1)


def test_the_card_of_a_version(cancer: Cancer, good: JSON, compared: JSON) -> None:
    """JSON, Markdown and a page, by Accept or by format; what users wrote is no markup."""
    path = "/api/models/eval4/versions/1/card"
    body = get(cancer.client, path)
    assert body["given"]["licence"] == "CC-BY-4.0"
    assert body["data"]["digest"] == cancer.data["digest"]
    assert body["data"]["split_rows"]["test"] == 85
    assert body["training"]["cpu_seconds"] > 0
    assert body["training"]["energy_joules"] is None or body["training"]["energy_joules"] > 0
    assert body["training"]["energy"]
    assert body["evaluations"][0]["figures"]
    assert body["limits"]["ranges"]["mean_radius"][0] > 0
    page = cancer.client.get(path, headers={"accept": "text/html,*/*;q=0.8"})
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "tests &lt;only&gt; &amp; nothing | else" in page.text
    text = cancer.client.get(path, params={"format": "markdown"})
    assert text.headers["content-type"].startswith("text/markdown")
    assert text.text.startswith("# Model card: eval4:1")
    refused(cancer.client.get(path, params={"format": "pdf"}), 400, "invalid_field", "format")
    assert "card" not in get(cancer.client, "/api/models/eval4/versions/1")


def test_a_card_with_an_unknown_field_is_refused(cancer: Cancer) -> None:
    """Before anything is trained."""
    spec = {"model_name": "eval4-no", "data": "eval4", "card": {"license": "MIT"}}
    answer = cancer.client.post("/api/jobs", json={"kind": "train", "spec": spec})
    refused(answer, 400, "invalid_field", "card.license")
