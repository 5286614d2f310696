"""The ways of a fine-tuning: LoRA, DoRA or all weights, bfloat16, activations computed twice."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaAttention

from helpers_finetune import ROWS, Desk
from helpers_jobs import RecordedJob
from helpers_llama import CHATML
from meuse.language.checkpoint import open_checkpoint
from meuse.serve.generation import lora
from meuse.train.llm import run
from meuse.train.llm.model import old_names

FULL: dict[str, Any] = {"recipe": "llm-full", "config": {}, "learning_rate": 0.01}


def likely(model: Any, words: Any) -> Tensor:
    """The log-probabilities of what follows each token of some questions."""
    ids = torch.tensor([words(f"What is {n}?")["input_ids"] for n in range(3, 8)])
    with torch.no_grad(), old_names():
        found: Tensor = model(ids).logits.log_softmax(-1)
    return found


@pytest.mark.parametrize("dora", [False, True])
def test_the_merged_model_says_what_base_and_adapter_say(
    desk: Desk, tmp_path: Path, tiny: Path, dora: bool
) -> None:
    """And it can be fine-tuned itself: it is a checkpoint like any other."""
    from peft import PeftModel

    done = desk.run(config={"rank": 4, "merge": True, "dora": dora})
    adapter, merged = done["versions"]
    assert merged["report"]["generation"]["layout"] == "hf"
    assert merged["report"]["generation"]["base"] == "tiny:1"
    whole, _ = open_checkpoint(desk.written(merged, tmp_path / "merged"))
    base, words = open_checkpoint(tiny)
    before = likely(base, words)
    with old_names():
        both = PeftModel.from_pretrained(base, desk.written(adapter, tmp_path / "adapter")).eval()
    said = likely(both, words)
    torch.testing.assert_close(likely(whole, words), said, rtol=1e-3, atol=1e-4)
    assert (said - before).abs().max() > 0.01
    again = Desk(tmp_path / "again", tmp_path / "merged").run(epochs=1)
    assert again["versions"][0]["report"]["generation"]["layout"] == "adapter"


def test_dora_trains_a_magnitude_for_each_output(desk: Desk, tmp_path: Path, tiny: Path) -> None:
    """It is told in the report and the configuration, and is what the judge of adapters reads."""
    done = desk.run(config={"rank": 4, "dora": True})
    (version,) = done["versions"]
    told = version["report"]["generation"]
    assert (told["layout"], told["dora"], told["rank"]) == ("adapter", True, 4)
    folder = desk.written(version, tmp_path / "adapter")
    read = lora.read((folder / lora.CONFIG).read_bytes(), (folder / lora.WEIGHTS).read_bytes())
    assert read.config.dora
    tensors = load_file(folder / lora.WEIGHTS)
    magnitudes = {n: t for n, t in tensors.items() if "lora_magnitude_vector" in n}
    layers = open_checkpoint(tiny).model.state_dict()
    assert len(magnitudes) == len(read.pairs) == 2 * 4
    for name, magnitude in magnitudes.items():
        layer = name.removeprefix("base_model.model.").partition(".lora_magnitude_vector")[0]
        # What it begins with: the length of each row of the base's weights.
        begun = layers[f"{layer}.weight"].norm(dim=1)
        assert magnitude.shape == begun.shape
        assert (magnitude - begun).abs().max() > 1e-3, name
    plain = desk.run(job=RecordedJob(tmp_path / "plain"), config={"rank": 4})
    (other,) = plain["versions"]
    tensors = load_file(desk.written(other, tmp_path / "other") / lora.WEIGHTS)
    assert not [name for name in tensors if "magnitude" in name]
    more = done["check"]["trained_parameters"] - plain["check"]["trained_parameters"]
    assert more == sum(magnitude.numel() for magnitude in magnitudes.values())


def test_all_weights_are_trained_to_a_model_of_its_own(
    desk: Desk, tmp_path: Path, tiny: Path
) -> None:
    """The loss falls, and what is kept is what was trained: with tokenizer and template."""
    job = RecordedJob(tmp_path / "job")
    done = desk.run(job=job, **FULL)
    (version,) = done["versions"]
    told = version["report"]["generation"]
    assert (told["layout"], told["base"]) == ("hf", "tiny:1")
    base, _ = open_checkpoint(tiny)
    assert done["check"]["trained_parameters"] == told["parameters"] == base.num_parameters()
    losses = [f["train_loss"] for f, labels in job.figures if "epoch" in labels]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.8 * losses[0]
    metrics = version["metrics"]
    assert metrics["validation_loss"] < 0.8 * metrics["validation_loss_before"]
    made, words = open_checkpoint(desk.written(version, tmp_path / "made"))
    assert words.chat_template == CHATML
    before = base.state_dict()
    for name, value in made.state_dict().items():
        assert not torch.equal(value, before[name]), name
    # It starts where this one ended.
    again = Desk(tmp_path / "again", tmp_path / "made").run(epochs=1, **FULL)
    started = again["versions"][0]["metrics"]["validation_loss_before"]
    assert started == pytest.approx(metrics["validation_loss"], rel=1e-4)


def test_ways_that_change_speed_alone(desk: Desk, tmp_path: Path) -> None:
    """Packing, gradient checkpointing and accumulation give the same losses to rounding."""
    plain = {"rank": 4, "dropout": 0.0, "packing": False}
    found = []
    for i, more in enumerate(
        (
            {"config": plain},
            {"config": {**plain, "packing": True}},
            {"config": {**plain, "gradient_checkpointing": True}},
            {"config": plain, "batch_size": 2, "accumulate": 2},
        )
    ):
        done = desk.run(job=RecordedJob(tmp_path / str(i)), **more)
        found.append(done["versions"][0]["metrics"])
    for other in found[1:]:
        assert other["validation_loss"] == pytest.approx(found[0]["validation_loss"], rel=2e-3)
        assert other["train_loss"] == pytest.approx(found[0]["train_loss"], rel=2e-3)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """How often attention was computed since it was last asked: by `train` or `judge`, and the
    type that sums have there."""
    counted: dict[str, int] = {}
    forward = LlamaAttention.forward

    @functools.wraps(forward)
    def seen(self: Any, *given: Any, **more: Any) -> Any:
        found = forward(self, *given, **more)
        kind = "train" if torch.is_grad_enabled() else "judge"
        name = f"{kind} {str(found[0].dtype).removeprefix('torch.')}"
        counted[name] = counted.get(name, 0) + 1
        return found

    def asked() -> dict[str, int]:
        told = dict(counted)
        counted.clear()
        return told

    monkeypatch.setattr(LlamaAttention, "forward", seen)
    return asked


@pytest.mark.parametrize("recipe", [{"config": {"rank": 4}}, FULL])
def test_with_gradient_checkpointing_layers_are_computed_twice(
    desk: Desk, tmp_path: Path, passes: Callable[[], dict[str, int]], recipe: dict[str, Any]
) -> None:
    """In training alone."""
    found = []
    for told in (False, True):
        more = {**recipe, "config": {**recipe["config"], "gradient_checkpointing": told}}
        job = RecordedJob(tmp_path / str(told))
        desk.run(job=job, **more, epochs=1, precision="fp32")
        found.append(passes())
    plain, twice = found
    assert plain["train float32"] > 0
    assert twice["train float32"] == 2 * plain["train float32"]
    assert twice["judge float32"] == plain["judge float32"]


@pytest.mark.parametrize(
    ("native", "asked", "taken"),
    [
        (True, "bf16", "bf16"), (True, "auto", "bf16"), (True, "fp32", "fp32"),
        (False, "bf16", "fp32"), (False, "auto", "fp32"),
    ],
)  # fmt: skip
def test_bf16_is_taken_where_the_processor_has_it(
    desk: Desk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    passes: Callable[[], dict[str, int]],
    native: bool,
    asked: str,
    taken: str,
) -> None:
    """For products in training and in validation; unless float32 is asked for. Who asks for what
    the processor has not is told."""
    monkeypatch.setattr(run, "bf16_is_native", lambda: native)
    job = RecordedJob(tmp_path / "job")
    done = desk.run(ROWS, job, precision=asked)
    kind = "bfloat16" if taken == "bf16" else "float32"
    assert set(passes()) == {f"train {kind}", f"judge {kind}"}
    assert f"{taken} on " in job.text
    (version,) = done["versions"]
    assert version["card"]["training"]["precision"] == taken
    warned = any("no bfloat16" in line for level, line in job.lines if level == "warning")
    assert warned is (asked == "bf16" and not native)
    metrics = version["metrics"]
    assert metrics["validation_loss"] < metrics["validation_loss_before"]
    for name, tensor in load_file(desk.written(version, tmp_path / "made") / lora.WEIGHTS).items():
        assert tensor.dtype == torch.float32, name
