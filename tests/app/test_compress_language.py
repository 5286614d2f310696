"""Compress jobs of language models as their process runs them, on tiny models."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from openvino import opset13

from helpers_jobs import RecordedJob
from helpers_llama import checkpoint, jsonl, learned, model
from helpers_tiny_llm import write_gguf
from meuse.app.work import compress, compress_language
from meuse.compress import page, summary
from meuse.compress.language.spec import LanguageCompressSpec
from meuse.core.errors import Code, MeuseError, RefusedError
from meuse.language.graph import graph_of
from meuse.pull import facts
from meuse.pull.recognise import recognise
from meuse.serve.generation import manifest as manifests
from meuse.store.blobs import FolderBlobs

TENANT = "acme"
TEXTS = [{"text": f"The {n}th of many lines has words of its own: {n * n}, {n}."} for n in range(9)]


@dataclass
class Desk:
    """The stores of a platform, and compress jobs on them."""

    folder: Path

    def __post_init__(self) -> None:
        self.blobs = FolderBlobs(self.folder / "blobs")
        self.files = FolderBlobs(self.folder / "files")
        self.job = RecordedJob(self.folder / "job")

    def add(self, path: Path) -> str:
        """A model as if it had been pulled; the digest of its manifest."""
        found = recognise(path)
        assert isinstance(found, facts.Facts)
        kept = tuple(
            manifests.File(name, *self.blobs.put(TENANT, io.BytesIO(file.read_bytes())))
            for name, file in found.files.items()
        )
        body = manifests.encode(facts.manifest(found, kept, "here", "MIT"))
        return self.blobs.put(TENANT, io.BytesIO(body))[0]

    def run(self, manifest: str, rows: Any = TEXTS, **spec: Any) -> dict[str, Any]:
        digest, _ = self.files.put(TENANT, io.BytesIO(jsonl(rows)))
        data = "file-" + 32 * "a"
        asked = LanguageCompressSpec.from_dict({"model": "tiny:1", "data": data, **spec})
        inputs = {"language": True, "tenant": TENANT, "data": data, "digest": digest,
                  "manifest": manifest}  # fmt: skip
        order = {"spec": asked.to_dict(), "inputs": inputs}
        return compress.work(self.blobs, self.job, order, self.files)

    def manifest_of(self, made: dict[str, Any]) -> manifests.Manifest:
        return manifests.decode(self.blobs.read(TENANT, made["artifacts"][0]["digest"]))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_checkpoint_becomes_a_smaller_version_that_is_served(desk: Desk, tmp_path: Path) -> None:
    """With a report of both sides, and the manifest of an IR that can be compressed no more."""
    parent = desk.add(checkpoint(tmp_path / "tiny", width=64))
    made = desk.run(parent, goal={"max_drop": 0.5})
    described = desk.manifest_of(made)
    assert (described.layout, described.context, described.licence) == ("ir", 512, "MIT")
    assert described.chat_template
    assert described.parameters > 0
    told = made["report"]
    assert told["generation"]["layout"] == "ir"
    before, after = told["before"], told["after"]
    assert after["weight_bytes"] < before["weight_bytes"] / 2.5
    assert made["metrics"]["perplexity"] == after["metric"] > 1
    assert told["drop"] == pytest.approx(after["metric"] / before["metric"] - 1)
    assert told["interval"][0] <= told["drop"] <= told["interval"][1]
    for side in (before, after):
        assert side["tokens_per_s"] > 0
        assert side["first_token_ms"] > 0
    assert told["verdict"]["passed"]
    json.dumps(made)
    figures = [row.figure for row in summary.rows(told)]
    assert "tokens/s, one stream" in figures
    assert "not measured" not in str(summary.rows(told))
    assert "perplexity" in page.page(told, "tiny:2")
    assert not (desk.job.folder / "parent").exists()
    digest = made["artifacts"][0]["digest"]
    with pytest.raises(MeuseError, match="integers already"):
        desk.run(digest)


def test_a_gguf_file_is_judged_by_its_dequantised_weights(desk: Desk, tmp_path: Path) -> None:
    """And the report says so; the gate refuses with the numbers when nobody could meet it."""
    parent = desk.add(write_gguf(tmp_path / "tiny.gguf"))
    steps = [{"method": "weights", "precision": "int4", "group_size": 16}]
    with pytest.raises(RefusedError) as caught:
        desk.run(parent, steps=steps, goal={"max_bytes": 1000, "max_drop": 1})
    told = caught.value.report
    assert caught.value.field == "goal.max_bytes"
    assert "the goal allows 1,000" in caught.value.message
    assert told["before"]["format"] == "gguf"
    assert any("dequantised checkpoint" in line for line in told["claims"])


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return learned(tmp_path_factory.mktemp("knowing"), [row["text"] for row in TEXTS])


INT4 = [{"method": "weights", "precision": "int4", "group_size": 16}]


def test_what_is_more_surprised_than_allowed_is_refused(desk: Desk, knowing: Path) -> None:
    """With the report of what was measured; no version is there, and no file of one."""
    parent = desk.add(knowing)
    kept = sorted((desk.folder / "blobs").rglob("*"))
    with pytest.raises(RefusedError) as caught:
        desk.run(parent, steps=INT4, goal={"max_drop": 0})
    assert (caught.value.code, caught.value.field) == (Code.GATE_REFUSED, "goal.max_drop")
    assert "the goal allows a rise of at most 0.00%" in caught.value.message
    told = caught.value.report
    assert not told["verdict"]["passed"]
    before, after = told["before"]["metric"], told["after"]["metric"]
    assert f"perplexity {before:.3f} → {after:.3f}" in caught.value.message
    assert told["drop"] == pytest.approx(after / before - 1)
    assert told["drop"] > 0
    json.dumps(told)
    assert sorted((desk.folder / "blobs").rglob("*")) == kept


def test_weights_of_4_bits_are_kept_where_they_are_good_enough(desk: Desk, knowing: Path) -> None:
    parent = desk.add(knowing)
    made = desk.run(parent, steps=INT4, goal={"max_drop": 0.5})
    told = made["report"]
    assert told["verdict"]["passed"]
    assert 0 < told["drop"] < 0.5
    assert made["metrics"]["perplexity"] == told["after"]["metric"]
    assert told["steps"][0]["config"]["precision"] == "int4"
    assert told["after"]["bits"] < 8 < 16 < told["before"]["bits"]
    graph = next(a for a in made["artifacts"] if a["name"] == "openvino_model.xml")
    assert b'element_type="i4"' in desk.blobs.read(TENANT, graph["digest"])
    assert desk.manifest_of(made).layout == "ir"


@pytest.mark.slow
def test_a_graph_that_computes_something_else_is_refused(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where tracing takes for constant what it has seen: here the places of tokens."""
    folder = checkpoint(tmp_path / "tiny", width=64)
    larger = model(width=64)
    with torch.no_grad():
        for weight in larger.parameters():
            weight.mul_(8.0 if weight.dim() == 2 else 1.0)  # so that answers depend on the places
    larger.save_pretrained(folder)
    parent = desk.add(folder)
    desk.run(parent, goal={"max_drop": 1}, steps=[{"method": "weights", "precision": "f16"}])

    def broken(given: Any) -> openvino.Model:
        graph = graph_of(given)
        places = graph.input("position_ids")
        readers = places.get_target_inputs()
        fixed = opset13.multiply(places, opset13.constant(np.int64(0)))
        for reader in readers:
            reader.replace_source_output(fixed.output(0))
        graph.validate_nodes_and_infer_types()
        return graph

    monkeypatch.setattr(compress_language, "graph_of", broken)
    with pytest.raises(MeuseError, match="does not compute") as caught:
        desk.run(parent, goal={"max_drop": 0.5})
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")


@pytest.mark.slow
def test_a_line_alone_judges_nothing(desk: Desk, tmp_path: Path) -> None:
    parent = desk.add(write_gguf(tmp_path / "tiny.gguf"))
    with pytest.raises(MeuseError, match="at least 256") as caught:
        desk.run(parent, rows=[{"text": "One line."}])
    assert caught.value.field == "data"
