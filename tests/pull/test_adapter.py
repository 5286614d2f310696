"""A LoRA adapter of peft, on its way to a version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import helpers_lora as made
from helpers_hub import COMMIT, Hub
from helpers_jobs import RecordedJob
from meuse.app.work import import_
from meuse.core.errors import Code, MeuseError
from meuse.pull.facts import AdapterFacts
from meuse.pull.recognise import recognise
from meuse.pull.spec import PullSpec
from meuse.serve.generation import manifest
from meuse.store.blobs import FolderBlobs

SIZES = {"layers.0.self_attn.q_proj": (6, 8), "layers.1.mlp.down_proj": (10, 6)}
BASE = {
    "model": "smollm2:1",
    "report": {"architecture": "llama", "context": 64, "vocabulary": 100, "layout": "gguf"},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made.write(tmp_path / "polite", made.matrices(SIZES, 1))


def run(
    tmp_path: Path, folder: Path, base: dict[str, Any] | None, source: str = ""
) -> dict[str, Any]:
    spec = {"source": source or f"file:{folder}", "model_name": "polite"}
    spec |= {"base": base["model"]} if base else {}
    inputs = {
        "tenant": "acme", "path": "" if source else str(folder), "index": "none", "hosts": "",
        "max_bytes": 1 << 26, "max_seconds": 60.0, "sandbox": {},
        **({"base": base} if base else {}),
    }  # fmt: skip
    job = RecordedJob(tmp_path / "job")
    return import_.work(FolderBlobs(tmp_path / "blobs"), job, {"spec": spec, "inputs": inputs})


def test_a_folder_of_peft_is_recognised(folder: Path) -> None:
    found = recognise(folder)
    assert isinstance(found, AdapterFacts)
    assert (found.rank, found.alpha, found.targets, found.dora) == (
        4, 8.0, ("down_proj", "q_proj"), False,
    )  # fmt: skip
    assert found.parameters == 4 * (6 + 8 + 10 + 6)


def test_its_version_tells_what_it_is_for(tmp_path: Path, folder: Path) -> None:
    done = run(tmp_path, folder, BASE)
    assert done["parent"] == "smollm2:1"
    names = ["manifest.json", "adapter_config.json", "adapter_model.safetensors"]
    assert [a["name"] for a in done["artifacts"]] == names
    told = done["report"]["generation"]
    assert {name: told[name] for name in ("layout", "base", "rank", "context")} == {
        "layout": "adapter", "base": "smollm2:1", "rank": 4, "context": 64,
    }  # fmt: skip
    sizes = [path.stat().st_size for path in folder.iterdir()]
    assert told["weight_bytes"] == sum(sizes)
    blobs = FolderBlobs(tmp_path / "blobs")
    kept = manifest.decode(blobs.read("acme", done["artifacts"][0]["digest"]))
    assert (kept.layout, kept.architecture) == ("adapter", "llama")
    for file in kept.files:
        assert blobs.read("acme", file.digest) == (folder / file.name).read_bytes()


def test_of_the_hub_it_tells_commit_and_licence(tmp_path: Path, folder: Path, hub: Hub) -> None:
    hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    hub.card = {"license": "apache-2.0"}
    done = run(tmp_path, folder, BASE, "hf:owner/tiny")
    told = done["report"]["generation"]
    assert (told["source"], told["licence"]) == (f"hf:owner/tiny@{COMMIT}", "apache-2.0")
    assert done["card"] == {"given": {"licence": "apache-2.0"}}


def test_without_its_base_it_is_nothing(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(MeuseError) as caught:
        run(tmp_path, folder, None)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "base")
    assert not (tmp_path / "blobs").exists()


@pytest.mark.parametrize("broken", ["weights", "config", "none"])
def test_one_that_lies_registers_nothing(tmp_path: Path, folder: Path, broken: str) -> None:
    weights = folder / "adapter_model.safetensors"
    if broken == "weights":
        weights.write_bytes(weights.read_bytes()[:-4])
    elif broken == "config":
        made.write(folder, made.matrices(SIZES, 1), r=16)
    else:
        weights.rename(folder / "adapter_model.bin")
    with pytest.raises(MeuseError) as caught:
        run(tmp_path, folder, BASE)
    assert caught.value.code == Code.INVALID_DATA
    assert not (tmp_path / "blobs").exists()


def test_a_base_is_a_version_and_of_an_adapter() -> None:
    spec = PullSpec.from_dict({"source": "file:/srv/polite", "base": "smollm2:1"})
    assert PullSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(MeuseError) as caught:
        PullSpec.from_dict({"source": "file:/srv/polite", "base": 7})
    assert caught.value.field == "base"
