"""Models of other formats through the API: uploaded, converted in a sandbox, served."""

from __future__ import annotations

import io
import pickle
from typing import Any

import httpx
import joblib
import numpy as np
import pytest
from lightgbm import LGBMClassifier
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from e2e.helpers import JSON, ended, get, ready, refused, start, succeeded
from meuse.runtime import sandbox

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sandbox.survey().tier < 1, reason=sandbox.survey().text),
]


def bring(client: httpx.Client, name: str, content: bytes, **query: Any) -> JSON:
    """The import job's answer."""
    response = client.post(f"/api/models/{name}/versions", content=content, params=query)
    assert response.status_code == 202, response.text
    answer: JSON = response.json()
    assert answer["model_name"] == name
    return answer


def dumped(model: Any) -> bytes:
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.getvalue()


def test_a_scikit_learn_model_is_imported_and_served(admin: httpx.Client) -> None:
    model = LogisticRegression(max_iter=300).fit(X, NAMES[Y])
    job = bring(admin, "import4-iris", dumped(model), format="sklearn")
    result = succeeded(admin, job["job_id"], 120.0)
    assert result["model"] == "import4-iris:1"
    assert result["report"]["parity"]["agreeing"] == 1.0
    assert result["report"]["sandbox"]["tier"] == sandbox.survey().tier
    version = get(admin, "/api/models/import4-iris/versions/1")
    assert [artifact["format"] for artifact in version["artifacts"]] == ["onnx"]
    assert version["task"] == "classification"
    assert version["report"]["imported"]["estimator"] == "LogisticRegression"
    response = admin.put("/api/deployments/import4-iris", json={"model": "import4-iris:1"})
    assert response.status_code == 202, response.text
    ready(admin, "import4-iris")
    body = {"model": "import4-iris", "input_data": X[::10].tolist()}
    answer = admin.post("/predict", json=body).json()
    assert answer["output_data"] == model.predict(X[::10]).tolist()
    admin.delete("/api/deployments/import4-iris")


def test_a_file_is_kept_and_imported_by_a_spec(admin: httpx.Client) -> None:
    booster = LGBMClassifier(n_estimators=8, verbose=-1).fit(X, Y).booster_
    text = booster.model_to_string().encode()
    response = admin.post("/api/files", content=text)
    assert response.status_code == 201, response.text
    kept = response.json()
    assert kept["bytes"] == len(text)
    spec = {"model_name": "import4-trees", "format": "lightgbm", "classes": NAMES.tolist()}
    job = start(admin, "import", source={"upload": kept["digest"]}, **spec)
    assert succeeded(admin, job, 120.0)["report"]["imported"]["trees"] == 24
    version = get(admin, "/api/models/import4-trees/versions/1")
    assert version["signature"]["classes"] == NAMES.tolist()
    assert version["lineage"]["code_digest"] == kept["digest"]
    compress = {"model": "import4-trees:1", "steps": [{"method": "quantize"}]}
    told = refused(
        admin.post("/api/jobs", json={"kind": "compress", "spec": compress}), 400,
        "invalid_field", "model",
    )  # fmt: skip
    assert "which column it predicts is not known" in told["message"]


class Hostile:
    def __reduce__(self) -> Any:
        return exec, ("import socket; socket.create_connection(('127.0.0.1', 80), 1)",)


def test_a_hostile_pickle_registers_nothing(admin: httpx.Client) -> None:
    job = bring(admin, "import4-hostile", pickle.dumps(Hostile()), format="sklearn")
    done = ended(admin, job["job_id"], 120.0)
    assert done["status"] == "failed"
    assert done["error"]["code"] == "invalid_data"
    assert "no network" in done["error"]["hint"]
    assert admin.get("/api/models/import4-hostile").status_code == 404
    events = admin.get(f"/api/jobs/{job['job_id']}/events").text
    assert "create_connection" in events  # the traceback is in the log
    assert f"tier {sandbox.survey().tier}" in events


def test_what_an_import_job_refuses(admin: httpx.Client) -> None:
    def make(**spec: Any) -> httpx.Response:
        return admin.post("/api/jobs", json={"kind": "import", "spec": spec})

    good = {"model_name": "import4-x", "format": "sklearn", "source": {"upload": "0" * 64}}
    refused(make(**{**good, "format": "pickle"}), 400, "invalid_field", "format")
    refused(make(**{**good, "source": {"url": "x"}}), 400, "invalid_field", "source")
    refused(make(**{**good, "source": {"upload": "x"}}), 400, "invalid_field", "source.upload")
    refused(make(**{**good, "source": {"path": "/etc/passwd"}}), 403, "forbidden", "source.path")
    refused(make(**{**good, "source": {"hub": "a/b"}}), 400, "invalid_field", "source.hub")
    refused(make(**{**good, "columns": {"a": "date"}}), 400, "invalid_field", "columns.a")
    refused(make(**{**good, "extra": 1}), 400, "invalid_field", "extra")
    done = ended(admin, start(admin, "import", **good))
    assert (done["status"], done["error"]["code"]) == ("failed", "not_found")
    response = admin.post("/api/models/import4-x/versions", content=b"x", params={"format": "zz"})
    refused(response, 400, "invalid_field", "format")


def test_the_hub_out_of_reach_is_said(admin: httpx.Client) -> None:
    source = {"hub": "google-bert/bert-base-uncased"}
    spec = {"model_name": "import4-hub", "format": "huggingface", "source": source}
    done = ended(admin, start(admin, "import", **spec))
    assert done["status"] == "failed"
    assert done["error"]["field"] in ("source.hub", "model")
