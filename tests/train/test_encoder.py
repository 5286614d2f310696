"""Text classifiers on a given encoder: trained, exported, built again; files that are none."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file, save_file

from helpers_encoders import encoder, real_texts
from helpers_jobs import RecordedJob
from meuse.core.errors import MeuseError
from meuse.core.nouns import Splits
from meuse.core.ports import Paused
from meuse.data.splits import load_splits
from meuse.evaluate.metrics import for_task
from meuse.serve import engines
from meuse.train import frozen, weights
from meuse.train.encoder import Encoder, load, save
from meuse.train.recipes import find
from meuse.train.recipes.texts import OnGiven
from meuse.train.run import fit, learn
from meuse.train.spec import TrainSpec

pytest.importorskip("tokenizers")


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    """Paragraphs that hold code or links, and those that do not."""
    path = tmp_path_factory.mktemp("texts") / "texts.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "kind"])
        for text in real_texts()[:100]:
            writer.writerow([text[:300], "marked" if "`" in text or "http" in text else "plain"])
    return load_splits(path, "csv", target="kind", task=None, seed=0, raw=True)


def spec_of(**config: Any) -> TrainSpec:
    return TrainSpec.from_dict(
        {
            "model_name": "m", "data": "d", "recipe": "text-classifier", "epochs": 2,
            "config": {"encoder": "small:1", **config}, "prepare": {"text": {"length": 24}},
        }
    )  # fmt: skip


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_given_encoder_is_trained_on_and_served(
    tmp_path: Path, splits: Splits, is_frozen: bool
) -> None:
    """Raw texts go in, by ONNX Runtime and by torch alike; a frozen encoder stays as it was."""
    given, job = encoder(), RecordedJob(tmp_path)
    done = fit(job, splits, spec_of(frozen=is_frozen), for_task(splits.task), {"encoder": given})
    files = {format: path for path, format in done.files.items()}
    tensors = load_file(files["safetensors"])
    same = [
        torch.equal(tensors[f"network.encoder.{name}"], tensor)
        for name, tensor in (given.tensors or {}).items()
    ]
    assert all(same) if is_frozen else not any(same[:1])
    checkpoint = load_file(job.checkpoint)
    assert any("encoder" in name for name in checkpoint) is not is_frozen
    texts = np.array([text.encode() for text in ("", "See `this` link", *real_texts()[:6])], object)
    onnx = engines.load("onnx", files["onnx"].read_bytes()).run({"text": texts})
    engine = engines.load("safetensors", files["safetensors"].read_bytes(), build=weights.build)
    found = engine.run({"text": texts})
    assert engine.signature == done.signature
    np.testing.assert_allclose(onnx["probabilities"], found["probabilities"], atol=1e-5)


def test_equal_trainings_give_equal_weights(tmp_path: Path, splits: Splits) -> None:
    def head(folder: str) -> Any:
        job, metric = RecordedJob(tmp_path / folder), for_task(splits.task)
        learned = learn(job, splits, spec_of(frozen=True), metric, {"encoder": encoder()})
        return learned.fitted.network.head.weight  # type: ignore[attr-defined]

    assert torch.equal(head("a"), head("b"))


def test_what_is_encoded_once_is_what_the_whole_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever rows of like length are put together; and the wish to pause is heard."""
    network = OnGiven(encoder(), 2, 0.5, frozen=True).eval()
    rng = np.random.default_rng(0)
    x = rng.integers(1, 50, (150, 12)) * (np.arange(12) < rng.integers(1, 13, 150)[:, None])
    job = RecordedJob(tmp_path)
    found = frozen.embedded(job, network, x)
    with torch.no_grad():
        wanted = torch.cat([network.embed(torch.from_numpy(row[None])) for row in x])
    np.testing.assert_allclose(found, wanted.numpy(), atol=1e-5)
    job.is_paused = True
    monkeypatch.setattr(frozen, "_EVERY_S", -1.0)
    with pytest.raises(Paused):
        frozen.embedded(job, network, x)


def test_texts_are_cut_to_the_positions_there_are(tmp_path: Path, splits: Splits) -> None:
    job, given = RecordedJob(tmp_path), encoder(positions=10)
    spec = spec_of(frozen=True)
    learned = learn(job, splits, spec, for_task(splits.task), {"encoder": given})
    assert learned.prepared.preparation.shape == (10,)
    assert "the encoder has 10 positions" in job.text


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"frozen": True}, "config.frozen"),
        ({"encoder": "e:1", "width": 64}, "config.width"),
        ({"encoder": "e:1", "vocabulary": 100}, "config.vocabulary"),
        ({"encoder": "e:1", "frozen": "perhaps"}, "config.frozen"),
        ({"encoder": "e" * 300}, "config.encoder"),
    ],
)
def test_configs_that_cannot_be(config: dict[str, Any], field: str) -> None:
    with pytest.raises(MeuseError) as caught:
        find("text-classifier").configure(config)
    assert (caught.value.code, caught.value.field) == ("invalid_field", field)


def test_options_follow_the_encoder() -> None:
    recipe = find("text-classifier")
    rates = [
        recipe.options({}, recipe.configure(config)).rate
        for config in ({}, {"encoder": "e:1"}, {"encoder": "e:1", "frozen": True})
    ]
    assert rates == [0.001, 5e-5, 0.005]
    assert recipe.options({"epochs": 7}, recipe.configure({"encoder": "e:1"})).epochs == 7


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    given = encoder()
    again = load(save(given, tmp_path / "e"))
    assert (again.architecture, again.pieces) == (given.architecture, given.pieces)
    assert all(torch.equal(again.tensors[n], t) for n, t in (given.tensors or {}).items())  # type: ignore[index]


def test_files_that_are_no_encoder_are_refused(tmp_path: Path) -> None:
    path, given = tmp_path / "e", encoder()
    path.write_bytes(b"\xff" * 64)
    refused(path, "cannot be read")
    save_file({"x": torch.zeros(1)}, path)
    refused(path, "cannot be read")
    tensors = dict(given.tensors or {})
    cases: list[tuple[str, Encoder]] = [
        ("not those of its architecture", Encoder(given.architecture, given.pieces, {})),
        ("no finite", changed(given, tensors["norm.bias"] * float("nan"))),
        ("its architecture needs", changed(given, torch.zeros(3))),
        ("its architecture needs", changed(given, tensors["norm.bias"].half())),
    ]
    small = structs.replace(given.architecture, vocabulary=100)
    cases.append(("more pieces than it embeds", Encoder(small, given.pieces, tensors)))
    for told, case in cases:
        refused(save(case, path), told)


def changed(given: Encoder, bias: torch.Tensor) -> Encoder:
    tensors = {**(given.tensors or {}), "norm.bias": bias}
    return Encoder(given.architecture, given.pieces, tensors)


def refused(path: Path, told: str) -> None:
    with pytest.raises(MeuseError, match=told) as caught:
        load(path)
    assert (caught.value.code, caught.value.field) == ("invalid_data", "config.encoder")


@pytest.mark.parametrize("change", [{"width": 30}, {"depth": 0}, {"width": 4096, "depth": 48}])
def test_weights_that_name_an_encoder_that_cannot_be(change: dict[str, int]) -> None:
    sizes = {
        "vocabulary": 50, "positions": 8, "width": 32, "depth": 1, "heads": 4, "inner": 8192,
        **change,
    }  # fmt: skip
    described = {
        "recipe": "text-classifier", "config": {"encoder": "e:1"}, "task": "regression",
        "classes": None, "target": [0.0, 1.0], "encoder": sizes,
        "preparation": {"columns": [["x", "number"]], "numbers": None, "categories": [],
                        "image": {"column": "x", "height": 1, "width": 1, "channels": 1,
                                  "pixels": True}},
    }  # fmt: skip
    with pytest.raises(MeuseError) as caught:
        weights.build(described)
    assert (caught.value.code, caught.value.field) == ("invalid_field", "encoder")
