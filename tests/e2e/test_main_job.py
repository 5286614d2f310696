"""The main job: data → train → compress → gate → alias → deploy → predict → usage → invoice."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import httpx
import numpy as np
import pytest

from e2e.conftest import Digits, Platform
from e2e.helpers import (
    CSV,
    JSON,
    NPZ,
    csv_bytes,
    get,
    npz_bytes,
    rpc_infer,
    rpc_request,
    start,
    succeeded,
    tensor,
    upload,
)

MODEL = "default/digits"


def test_an_upload_is_described(dataset: JSON, digits: Digits) -> None:
    """The answer to an upload has version, digest, rows and columns of what was sent."""
    assert (dataset["ref"], dataset["rows"], dataset["format"]) == ("digits:1", 1797, "csv")
    assert dataset["digest"] == hashlib.sha256(digits.csv).hexdigest()
    assert dataset["bytes"] == len(digits.csv)
    assert [c["name"] for c in dataset["columns"]] == [*(f"p{i}" for i in range(64)), "digit"]
    assert {(c["kind"], c["missing"]) for c in dataset["columns"]} == {("integer", 0)}


def test_the_same_bytes_are_the_same_version(
    admin: httpx.Client, dataset: JSON, digits: Digits
) -> None:
    """Uploading the same bytes again answers 200 with the version that has them."""
    response = admin.post("/api/datasets?name=digits", content=digits.csv, headers=CSV)
    assert response.status_code == 200
    assert response.json() == dataset


def test_other_bytes_are_the_next_version(admin: httpx.Client) -> None:
    """Other bytes under a known name answer 201 with version 2; both stay readable."""
    for number in (1, 2):
        rows = csv_bytes(["a", "b"], [[number, 2]])
        response = admin.post("/api/datasets?name=twice", content=rows, headers=CSV)
        assert (response.status_code, response.json()["version"]) == (201, number)
    assert get(admin, "/api/datasets/twice")["version"] == 2
    assert get(admin, "/api/datasets/twice/versions/1")["version"] == 1
    listed = {d["name"]: d["version"] for d in get(admin, "/api/datasets")["items"]}
    assert listed["twice"] == 2


@pytest.mark.parametrize("type_", ["text/csv", "application/octet-stream"])
def test_a_form_with_a_file_works(admin: httpx.Client, type_: str) -> None:
    """A multipart upload stores the file of the form, in the format that its name says."""
    rows = csv_bytes(["a", "b"], [[1, "x"], [2, "y"]])
    name = f"form-{type_.partition('/')[2]}"
    files = {"file": ("table.csv", rows, type_)}
    response = admin.post("/api/datasets", params={"name": name}, files=files)
    assert response.status_code == 201, response.text
    made = response.json()
    assert (made["format"], made["rows"]) == ("csv", 2)
    assert made["digest"] == hashlib.sha256(rows).hexdigest()


@pytest.fixture(scope="module")
def others(admin: httpx.Client, digits: Digits) -> dict[str, str]:
    """Jobs beside the main one, by model: they train two at a time."""
    from sklearn.datasets import load_diabetes

    x = np.array(digits.rows[:400], np.float32)
    made = upload(admin, "digits-npz", npz_bytes(x=x, y=np.array(digits.labels[:400])), NPZ)
    assert (made["format"], made["rows"], len(made["columns"])) == ("npz", 400, 65)
    found = load_diabetes()
    table = np.column_stack([found.data, found.target + 0.5]).tolist()
    upload(admin, "diabetes", csv_bytes([*found.feature_names, "progression"], table))
    specs: dict[str, JSON] = {
        "from-npz": {"data": "digits-npz", "epochs": 5},
        "linear": {"data": "diabetes", "recipe": "linear", "epochs": 40},
        "mlp": {"data": "diabetes", "recipe": "mlp", "epochs": 40, "config": {"hidden": [32]}},
    }
    return {n: start(admin, "train", model_name=n, **spec) for n, spec in specs.items()}


def test_an_npz_upload_trains(admin: httpx.Client, others: dict[str, str]) -> None:
    """An NPZ of features and labels is a dataset like any other: it trains."""
    done = succeeded(admin, others["from-npz"])
    assert done["metrics"]["test_accuracy"] > 0.8


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "mlp"])
def test_regression_learns(admin: httpx.Client, others: dict[str, str], name: str) -> None:
    """A numeric target with many values is regressed, with either recipe."""
    done = succeeded(admin, others[name])
    assert 0.25 < done["metrics"]["test_r2"] < 0.8
    version = get(admin, f"/api/models/{name}/versions/1")
    assert (version["task"], version["signature"]["classes"]) == ("regression", None)


def test_training_says_where_the_model_came_from(
    admin: httpx.Client, trained: JSON, dataset: JSON
) -> None:
    """A trained version carries metrics, signature and a lineage that can make it again."""
    version = get(admin, "/api/models/digits/versions/1")
    lineage = version["lineage"]
    assert (version["ref"], version["task"], lineage["parent"]) == (
        "digits:1",
        "classification",
        None,
    )
    assert (lineage["dataset"], lineage["dataset_digest"]) == ("digits:1", dataset["digest"])
    assert re.fullmatch(r"[0-9a-f]{64}", lineage["code_digest"])
    assert (lineage["target"], lineage["seed"]) == ("digit", 0)
    assert get(admin, f"/api/jobs/{lineage['job']}")["result"]["model"] == "digits:1"
    assert version["metrics"] == trained["metrics"]
    assert trained["metrics"]["test_accuracy"] > 0.95
    assert version["signature"]["inputs"] == [
        {"name": "input", "datatype": "FP32", "shape": [-1, 64], "nullable": False}
    ]
    assert version["signature"]["classes"] == list(range(10))


def test_an_artifact_is_what_its_digest_says(admin: httpx.Client, trained: JSON) -> None:
    """A version's artifact downloads as the bytes that its digest and size name."""
    artifact = get(admin, "/api/models/digits/versions/1")["artifacts"][0]
    response = admin.get(f"/api/models/digits/versions/1/artifacts/{artifact['name']}")
    assert response.status_code == 200
    assert hashlib.sha256(response.content).hexdigest() == artifact["digest"]
    assert len(response.content) == artifact["bytes"]


def test_compression_makes_a_child_with_a_report(
    admin: httpx.Client, trained: JSON, compressed: JSON, dataset: JSON
) -> None:
    """The compressed version names its parent, and its report has sizes and latencies."""
    assert compressed["model"] == "digits:2"
    child = get(admin, "/api/models/digits/versions/2")
    lineage = child["lineage"]
    assert (lineage["parent"], lineage["dataset_digest"]) == ("digits:1", dataset["digest"])
    assert re.fullmatch(r"[0-9a-f]{64}", lineage["code_digest"])
    report = child["report"]
    assert report == compressed["report"]
    for side, number in (("before", 1), ("after", 2)):
        artifact = get(admin, f"/api/models/digits/versions/{number}")["artifacts"][0]
        assert report[side]["bytes"] == artifact["bytes"]
        assert 0 < report[side]["p50_ms"] <= report[side]["p95_ms"]
    assert report["after"]["bytes"] < report["before"]["bytes"] / 2
    assert (report["method"], report["metric_name"]) == ("quantize", "accuracy")
    assert report["before"]["metric"] == trained["metrics"]["test_accuracy"]
    assert report["drop"] == pytest.approx(report["before"]["metric"] - report["after"]["metric"])


def test_int8_is_within_the_gate(trained: JSON, compressed: JSON) -> None:
    """The int8 model is at most 0.01 less accurate than the float model it came from."""
    drop = trained["metrics"]["test_accuracy"] - compressed["metrics"]["test_accuracy"]
    assert drop <= 0.01


def test_an_alias_names_a_version(admin: httpx.Client, served: JSON) -> None:
    """An alias leads to its version, and the deployment on it serves that version."""
    assert get(admin, "/api/models/digits/aliases/champion")["ref"] == "digits:2"
    assert get(admin, "/api/models/digits")["aliases"]["champion"] == 2
    assert [s["model"] for s in served["serving"]] == ["digits:2"]
    assert served["targets"] == [{"model": "digits@champion", "weight": 100}]


def test_another_tenant_predicts_is_metered_and_billed(
    platform: Platform, admin: httpx.Client, served: JSON, digits: Digits
) -> None:
    """What a customer sends over four protocols is metered to the row and billed by price."""
    key = platform.key("infer", "usage", "billing", tenant="acme")
    customer = platform.client(key)
    sent, answers, labels = _call_all(platform, customer, key, digits)
    right = sum(a == b for a, b in zip(answers, labels, strict=True))
    assert right / len(labels) > 0.95

    usage = get(customer, "/api/usage", by="meter,model,version", fresh="true")
    got = {(r["meter"], r["model"], r["version"]): r["quantity"] for r in usage["rows"]}
    assert got["rows", MODEL, "digits:2"] == sent["rows"]
    assert got["requests", MODEL, "digits:2"] == sent["requests"]
    assert (
        get(admin, "/api/usage", by="meter,model,version", tenant="acme")["rows"] == (usage["rows"])
    )

    month = datetime.now(UTC).strftime("%Y-%m")
    preview = customer.post("/api/invoices", json={"period": month}).json()
    assert (preview["id"], get(customer, "/api/invoices")["invoices"]) == (None, [])
    response = admin.post("/api/invoices", json={"tenant": "acme", "period": month})
    assert response.status_code == 201, response.text
    invoice = response.json()
    assert (preview["lines"], preview["total"]) == (invoice["lines"], invoice["total"])
    assert get(customer, f"/api/invoices/{invoice['id']}") == invoice
    assert (invoice["tenant"], invoice["currency"], invoice["status"]) == ("acme", "EUR", "draft")
    assert invoice["number"] is None
    (line,) = invoice["lines"]
    assert (line["meter"], line["model"], line["quantity"]) == ("rows", MODEL, sent["rows"])
    assert (line["unit_price"], line["per"]) == ("0.50", 1000)
    exact = Decimal(sent["rows"]) * Decimal("0.50") / 1000
    assert Decimal(line["amount"]) == exact.quantize(Decimal("0.01"))  # half-even, as Decimal is
    total = sum((Decimal(row["amount"]) for row in invoice["lines"]), Decimal(0))
    assert Decimal(invoice["total"]) == total > 0
    assert invoice["unrated"] == []


def _call_all(
    platform: Platform, customer: httpx.Client, key: str, digits: Digits
) -> tuple[dict[str, int], list[int], list[int]]:
    """Send rows over every protocol: (what was sent, labels answered, labels wanted)."""
    sent = {"requests": 0, "rows": 0}
    answers: list[int] = []
    labels: list[int] = []

    def note(start: int, count: int, found: list[int]) -> None:
        sent["requests"] += 1
        sent["rows"] += count
        answers.extend(found)
        labels.extend(digits.labels[start : start + count])

    def post(path: str, body: object) -> JSON:
        response = customer.post(path, json=body)
        assert response.status_code == 200, response.text
        answer: JSON = response.json()
        return answer

    for i in range(20):
        answer = post("/predict", {"model": MODEL, "input_data": [digits.rows[i]]})
        assert answer["model"] == "digits:2"
        note(i, 1, answer["output_data"])
    for i in range(0, 1000, 100):
        rows = digits.rows[i : i + 100]
        note(i, 100, post(f"/predictions/{MODEL}", {"input_data": rows})["output_data"])
    note(7, 1, post(f"/predictions/{MODEL}", [digits.rows[7]])["output_data"])
    rows = digits.rows[100:117]
    answer = post(f"/v2/models/{MODEL}/infer", {"id": "a", "inputs": [tensor(rows)]})
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("a", MODEL, "2")
    note(100, 17, answer["outputs"][0]["data"])
    response = rpc_infer(platform.grpc, key, rpc_request(MODEL, digits.rows[200:213]))
    assert (response.model_name, response.model_version) == (MODEL, "2")
    note(200, 13, list(response.outputs[0].contents.int64_contents))
    refused = customer.post("/predict", json={"model": MODEL, "input_data": [[1.0]]})
    assert refused.status_code == 400  # and not metered
    return sent, answers, labels


def test_a_tenant_without_a_plan_is_told(admin: httpx.Client, tenant: Callable[[str], str]) -> None:
    """Without a plan and without usage there is nothing to invoice: 409 at `tenant`."""
    assert admin.put("/api/tenants/nobody", json={}).status_code == 200
    response = admin.post("/api/invoices", json={"tenant": "nobody", "period": "2026-01"})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["field"]) == (409, "conflict", "tenant")
