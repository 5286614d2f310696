"""Encoders of the hub on their way to a version: by a pull, and by the importer of transformers."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers_hub import COMMIT, Hub, name_it, serving
from helpers_jobs import RecordedJob
from meuse.app.work import import_
from meuse.app.work.pull import FOLDER
from meuse.convert import outside
from meuse.convert.inside import worker
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Paused
from meuse.pull import download
from meuse.runtime import sandbox
from meuse.store.blobs import FolderBlobs

pytest.importorskip("transformers")

SPECS: dict[str, dict[str, Any]] = {
    "pulled": {"source": "hf:owner/tiny", "model_name": "tiny"},
    "imported": {
        "source": {"hub": "owner/tiny@main"}, "model_name": "tiny", "format": "huggingface",
    },
}  # fmt: skip
FIELDS = {"pulled": "source", "imported": "source.hub"}


def checkpoint(folder: Path) -> dict[str, bytes]:
    """A small DistilBERT, as transformers saves it."""
    import torch
    from transformers import DistilBertConfig, DistilBertModel

    from helpers_encoders import tokenizer, vocabulary

    words = vocabulary(tokenizer())
    torch.manual_seed(0)
    config = DistilBertConfig(
        vocab_size=len(words), max_position_embeddings=40, dim=32, n_layers=1, n_heads=2,
        hidden_dim=48,
    )  # fmt: skip
    DistilBertModel(config).eval().save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as found:
        name_it(monkeypatch, found)
        found.files = {"config.json": b"{}", "model.safetensors": bytes(5000)}
        found.card = {"license": "mit"}
        yield found


@pytest.fixture
def unboxed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter in this very process, which has transformers already."""

    def call(order: sandbox.Order, payload: dict[str, Any], **_: Any) -> tuple[Any, int]:
        with contextlib.chdir(order.folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return worker.work(payload), sandbox.survey().tier

    monkeypatch.setattr(outside, "call", call)


def run(tmp_path: Path, way: str, job: RecordedJob, max_bytes: int = 1 << 26) -> dict[str, Any]:
    spec = SPECS[way]
    inputs = {
        "tenant": "acme", "path": "", "index": "none", "hosts": "", "max_bytes": max_bytes,
        "max_seconds": 60.0, "sandbox": {"tier": 0, "wall_s": 600.0, "toolchains": ""},
        "source": spec["source"],
    }  # fmt: skip
    return import_.work(FolderBlobs(tmp_path / "blobs"), job, {"spec": spec, "inputs": inputs})


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", SPECS)
def test_its_version_tells_commit_and_licence(
    hub: Hub, unboxed: None, tmp_path: Path, way: str
) -> None:
    files = checkpoint(tmp_path / "distilbert")
    hub.files = files | {"pytorch_model.bin": b"pickle", "own.py": b"raise SystemExit"}
    job = RecordedJob(tmp_path / "job")
    done = run(tmp_path, way, job)
    ((_, told),) = done["report"]["imported"]["source"].items()
    assert told == f"{'hf:' if way == 'pulled' else ''}owner/tiny@{COMMIT}"
    limits = {"tokens": done["report"]["imported"]["length"]}
    assert done["card"] == {"limits": limits, "given": {"licence": "mit"}}
    assert [a["format"] for a in done["artifacts"]] == ["onnx", "encoder"]
    assert sorted(hub.names) == sorted(files)
    assert job.fractions == sorted(job.fractions)
    assert not (job.folder / FOLDER).exists()


@pytest.mark.parametrize("way", SPECS)
def test_what_came_stays_for_when_the_job_goes_on(
    hub: Hub, tmp_path: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a failure and after a pause, which is heard while it comes."""
    monkeypatch.setattr(download, "TRIES", 1)
    hub.cuts, hub.cut_after = 1, 1000
    job = RecordedJob(tmp_path / "job")
    with pytest.raises(MeuseError) as caught:
        run(tmp_path, way, job)
    assert (caught.value.code, caught.value.field) == (Code.UNAVAILABLE, FIELDS[way])
    job.is_paused = True
    with pytest.raises(Paused):
        run(tmp_path, way, job)
    (weights,) = (job.folder / FOLDER).rglob("model.safetensors")
    assert weights.stat().st_size == 1000


@pytest.mark.parametrize("way", SPECS)
def test_what_is_refused_names_the_source(hub: Hub, tmp_path: Path, way: str) -> None:
    job = RecordedJob(tmp_path / "job")
    with pytest.raises(MeuseError) as caught:
        run(tmp_path, way, job, max_bytes=1000)
    assert (caught.value.code, caught.value.field) == (Code.TOO_LARGE, FIELDS[way])
    hub.list_refusal = (404, "RepoNotFound")
    with pytest.raises(MeuseError) as caught:
        run(tmp_path, way, job)
    assert (caught.value.code, caught.value.field) == (Code.NOT_FOUND, FIELDS[way])
    assert not (job.folder / FOLDER).exists()
