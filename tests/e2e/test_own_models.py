"""Models that users bring, and the engines that run what is registered."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnx
import openvino as ov
import pytest
from onnx import TensorProto

from e2e.conftest import MAX_MODEL, Digits, Platform
from e2e.helpers import JSON, get, ready, refused, until
from meuse.client import Client
from meuse.core.errors import MeuseError
from serve import models

ONNX = {"content-type": "application/onnx"}


def bring(
    client: httpx.Client, name: str, model: bytes, headers: dict[str, str] = ONNX, **query: Any
) -> httpx.Response:
    path = f"/api/models/{name}/versions"
    return client.post(path, content=model, headers=headers, params=query)


def deploy(client: httpx.Client, name: str, **body: Any) -> JSON:
    response = client.put(f"/api/deployments/{name}", json=body)
    assert response.status_code == 202, response.text
    return ready(client, name)


def predict(client: httpx.Client, deployment: str, rows: Any) -> Any:
    response = client.post(f"/predictions/{deployment}", json={"input_data": rows})
    assert response.status_code == 200, response.text
    return response.json()["output_data"]


def test_an_onnx_file_becomes_a_version_and_serves(admin: httpx.Client) -> None:
    """Uploaded, described, deployed, asked; the same file again is the same version."""
    model = models.classifier()
    labels = [f"c{i}" for i in range(10)]
    made = bring(admin, "brought", model, classes=labels)
    assert made.status_code == 201, made.text
    version = made.json()
    assert (version["ref"], version["task"]) == ("brought:1", "custom")
    assert version["signature"]["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [-1, 64], "nullable": False}
    ]
    assert (version["lineage"]["dataset"], version["artifacts"][0]["format"]) == ("", "onnx")
    again = bring(admin, "brought", model, classes=labels)
    assert (again.status_code, again.json()) == (200, version)
    assert bring(admin, "brought", model).json()["ref"] == "brought:2"  # without the labels
    assert bring(admin, "other", model).json()["ref"] == "other:1"

    deploy(admin, "brought", model="brought:1")
    x = np.random.default_rng(2).normal(size=(3, 64)).astype(np.float32)
    wanted = [f"c{i}" for i in (x @ models.WEIGHTS).argmax(1)]
    assert predict(admin, "brought", x.tolist()) == wanted
    file = get(admin, "/api/models/brought/versions/1")["artifacts"][0]["name"]
    kept = admin.get(f"/api/models/brought/versions/1/artifacts/{file}")
    assert kept.content == model


def test_an_openvino_ir_becomes_a_version_and_serves(admin: httpx.Client, tmp_path: Path) -> None:
    """A zip of .xml and .bin runs on OpenVINO and on nothing else."""
    graph = ov.Core().read_model(models.scores())
    ov.serialize(graph, tmp_path / "m.xml", tmp_path / "m.bin")
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for part in ("m.xml", "m.bin"):
            archive.write(tmp_path / part, part)
    made = bring(admin, "ir", file.getvalue(), {"content-type": "application/zip"})
    assert made.status_code == 201, made.text
    deploy(admin, "ir", model="ir:1")
    x = np.ones((2, 64), np.float32)
    np.testing.assert_allclose(predict(admin, "ir", x.tolist()), x @ models.WEIGHTS, rtol=1e-4)
    answer = admin.put("/api/deployments/ir", json={"model": "ir:1", "engine": {"name": "onnx"}})
    assert "openvino" in refused(answer, 400, "invalid_field", "engine.name")["hint"]


def test_several_inputs_are_named(admin: httpx.Client) -> None:
    """Open Inference serves what rows alone cannot say."""
    bring(admin, "pair", models.pair())
    deploy(admin, "pair", model="pair:1")
    inputs = [
        {"name": "a", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]},
        {"name": "b", "shape": [1], "datatype": "INT64", "data": [3]},
    ]
    answer = admin.post("/v2/models/pair/infer", json={"inputs": inputs}).json()
    assert {o["name"]: o["data"] for o in answer["outputs"]} == {"s": [4.0, 5.0], "big": [True]}


def outside() -> bytes:
    """A model whose weights are in a file that every machine has."""
    model = onnx.load_from_string(models.scores())
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")
    data: bytes = model.SerializeToString()
    return data


def future() -> bytes:
    model = onnx.load_from_string(models.scores())
    model.opset_import[0].version = 999
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (lambda: b"", "not a model"),
        (lambda: b"junk" * 100, "not a model"),
        (lambda: models.scores()[:-100], "not a model"),
        (outside, "external"),
        (future, "opset"),
        (models.broken, "fails on"),
    ],
)
def test_bad_files_are_refused(admin: httpx.Client, model: Callable[[], bytes], told: str) -> None:
    """What cannot be loaded and run is told so, and nothing is registered."""
    answer = bring(admin, "bad", model())
    assert told in refused(answer, 400, "invalid_data", "body")["message"]
    assert admin.get("/api/models/bad").status_code == 404


def test_bad_calls_are_refused(admin: httpx.Client, stranger: httpx.Client) -> None:
    """Names, formats, labels, sizes: each by its field."""
    good = models.scores()
    refused(bring(admin, "A b", good), 400, "invalid_field", "name")
    refused(bring(admin, "bad", good, format="pickle"), 400, "invalid_field", "format")
    other = bring(admin, "bad", good, {"content-type": "text/csv"})
    refused(other, 415, "unsupported_media_type", "Content-Type")
    refused(bring(admin, "bad", good, classes=["a", "b"]), 400, "invalid_field", "classes")
    twice = bring(admin, "bad", models.classifier(), classes=["a", "a"])
    refused(twice, 400, "invalid_field", "classes")
    refused(bring(admin, "bad", good, format="openvino"), 400, "invalid_data", "body")
    large = bring(admin, "bad", b"\0" * (MAX_MODEL + 1))
    assert "max_model_bytes" in refused(large, 413, "too_large", "body")["hint"]
    assert admin.get("/api/models/bad").status_code == 404
    assert bring(stranger, "brought", good).json()["ref"] == "brought:1"  # in its own tenant


def test_what_was_uploaded_cannot_be_compressed(admin: httpx.Client, dataset: JSON) -> None:
    """What it predicts is not known, so no metric could judge it."""
    bring(admin, "brought", models.scores())
    spec = {"model": "brought:1", "data": dataset["ref"], "goal": {"max_drop": 0.1}}
    answer = admin.post("/api/jobs", json={"kind": "compress", "spec": spec})
    refused(answer, 400, "invalid_field", "model")


def test_the_client_uploads(platform: Platform, tmp_path: Path) -> None:
    """The SDK's verb; a file that is not there is the caller's error."""
    path = tmp_path / "m.onnx"
    path.write_bytes(models.doubled())
    with Client(platform.url, platform.admin_key) as client:
        assert client.upload_model("by-client", path)["ref"] == "by-client:1"
        path.write_bytes(b"junk")
        with pytest.raises(MeuseError) as caught:
            client.upload_model("by-client", path)
        assert caught.value.field == "body"


def test_the_command_line_uploads_and_chooses_an_engine(platform: Platform, tmp_path: Path) -> None:
    """`models NAME --upload FILE`, then `deploy NAME --engine … --cores …`."""
    path = tmp_path / "m.onnx"
    path.write_bytes(models.doubled())

    def meuse(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "MEUSE_URL": platform.url, "MEUSE_KEY": platform.admin_key}
        command = [sys.executable, "-m", "meuse", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=False)

    done = meuse("models", "by-cli", "--upload", str(path))
    assert done.stdout.startswith("by-cli:1: "), done.stderr
    missing = meuse("models", "by-cli", "--upload", str(tmp_path / "none"))
    assert (missing.returncode, "no file" in missing.stderr) == (1, True)
    options = ("--model", "by-cli:1", "--engine", "openvino", "--cores", "2", "--json")
    state = json.loads(meuse("deploy", "by-cli", *options).stdout)
    assert state["status"] == "ready"
    assert state["engine"].items() >= {"name": "openvino", "cores": 2}.items()
    assert json.loads(meuse("predict", "[[1, 2]]", "--model", "by-cli").stdout) == [[2, 4]]


def test_every_engine_gives_the_same_answers(
    platform: Platform, admin: httpx.Client, trained: JSON, digits: Digits
) -> None:
    """One version on each engine; another engine replaces the replica without a new version."""
    rows = digits.rows[:64]
    answers, pids = {}, set()
    for engine in (None, {"name": "openvino", "cores": 2}, {"name": "torch"}):
        body = {"model": trained["model"]} | ({"engine": engine} if engine else {})
        state = deploy(admin, "engines", **body)
        want = {"name": None, "cores": None} | (engine or {})
        assert state["engine"].items() >= want.items()
        name = want["name"] or "onnx"
        pid, argv = until(lambda: one_replica(platform, "engines"), "one replica is left")
        assert argv[argv.index("--engine") + 1] == name
        assert argv[argv.index("--cores") + 1] == str(want["cores"] or 1)
        answers[name] = predict(admin, "engines", rows)
        pids.add(pid)
    assert answers["openvino"] == answers["onnx"]
    assert answers["torch"] == answers["onnx"]
    assert len(pids) == 3
    formats = [a["format"] for a in get(admin, "/api/models/digits/versions/1")["artifacts"]]
    assert formats == ["onnx", "safetensors"]


def one_replica(platform: Platform, deployment: str) -> tuple[int, list[str]] | None:
    """(pid, command line) of the deployment's replica, once there is just one."""
    mine = []
    for process in json.loads((platform.home / "run.json").read_text())["processes"].values():
        if process.get("label", {}).get("deployment") == f"default/default/{deployment}":
            try:
                argv = Path(f"/proc/{process['pid']}/cmdline").read_text().split("\0")
            except OSError:
                continue
            mine.append((process["pid"], argv))
    return mine[0] if len(mine) == 1 else None


def test_engines_that_cannot_run_a_target_are_refused(admin: httpx.Client) -> None:
    """At once, by the field; the deployment stays as it was."""
    bring(admin, "onlyonnx", models.scores())
    body = {"model": "onlyonnx:1", "engine": {"name": "torch"}}
    answer = admin.put("/api/deployments/onlyonnx", json=body)
    refused(answer, 400, "invalid_field", "engine.name")
    assert admin.get("/api/deployments/onlyonnx").status_code == 404


def test_an_alias_may_come_to_mean_what_the_engine_cannot_run(
    admin: httpx.Client, trained: JSON
) -> None:
    """The deployment tells so and goes on with what it served."""
    number = int(trained["model"].partition(":")[2])
    admin.put("/api/models/digits/aliases/engine-test", json={"version": number})
    deploy(admin, "aliased", model="digits@engine-test", engine={"name": "torch"})
    other = bring(admin, "digits", models.scores()).json()["version"]
    admin.put("/api/models/digits/aliases/engine-test", json={"version": other})
    state = until(
        lambda: (s := get(admin, "/api/deployments/aliased"))["error"] and s, "the error is shown"
    )
    assert "torch" in state["error"]
    assert state["status"] == "degraded"
    assert len(predict(admin, "aliased", [[0.0] * 64])) == 1
