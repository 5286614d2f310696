"""Fine-tuning jobs as their process runs them, on a tiny model."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import pytest

from helpers_finetune import ROWS, TENANT, Desk
from helpers_jobs import RecordedJob
from helpers_llama import chat
from meuse.app.work import finetune, spending
from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Limit
from meuse.core.ports import Paused
from meuse.meter import limits
from meuse.serve.generation import manifest as manifests


def test_an_adapter_is_made(desk: Desk, tmp_path: Path) -> None:
    job = RecordedJob(tmp_path / "job")
    done = desk.run(job=job)
    (version,) = done["versions"]
    told = version["report"]["generation"]
    assert (told["layout"], told["base"], told["rank"], told["alpha"]) == (
        "adapter",
        "tiny:1",
        4,
        8,
    )
    assert told["targets"] == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert told["dora"] is False
    config = json.loads(desk.read(version, "adapter_config.json"))
    assert config["base_model_name_or_path"] == "tiny:1"
    assert config["r"] == 4
    names = [a["name"] for a in version["artifacts"]]
    assert names == ["manifest.json", "adapter_config.json", "adapter_model.safetensors"]
    metrics = version["metrics"]
    assert metrics["validation_loss"] < metrics["validation_loss_before"]
    perplexity = math.exp(metrics["validation_loss"])
    assert metrics["validation_perplexity"] == pytest.approx(perplexity)
    assert metrics["trained_tokens"] == done["check"]["training_tokens"]
    assert done["check"]["validation_examples"] == 1
    steps = [labels["step"] for figures, labels in job.figures if "train_loss" in figures]
    assert steps[-1] == done["check"]["updates"] == 9
    json.dumps(done)


def weights(desk: Desk, done: dict[str, Any]) -> str:
    (found,) = [
        a["digest"] for a in done["versions"][0]["artifacts"] if a["name"].endswith(".safetensors")
    ]
    digest: str = found
    return digest


class Killed(RecordedJob):
    """A job whose process dies, or is to pause, after so many updates."""

    def __init__(self, folder: Path, after: int, pauses: bool) -> None:
        super().__init__(folder)
        self.after, self.pauses = after, pauses

    def progress(self, *given: Any, **more: Any) -> None:
        super().progress(*given, **more)
        note = str(more.get("note"))
        if f"update {self.after}/" in note:
            if not self.pauses:
                raise KeyboardInterrupt
            self.is_paused = True


@pytest.mark.parametrize("recipe", ["llm-lora", "llm-full"])
def test_a_run_that_was_broken_off_ends_with_the_same_weights(
    desk: Desk, tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused in the middle of an epoch, then killed behind its last checkpoint. Every token is
    counted once."""
    monkeypatch.setattr("meuse.train.llm.loop.LOOK_S", 0.0)
    config: dict[str, Any] = {"evaluate_every": 2}
    if recipe == "llm-lora":
        config |= {"rank": 4, "dropout": 0.1, "dora": True}
    changes = {"recipe": recipe, "config": config, "learning_rate": 0.003}
    whole = desk.run(job=RecordedJob(tmp_path / "whole"), **changes)
    folder = tmp_path / "broken"
    with pytest.raises(Paused):
        desk.run(job=Killed(folder, 4, pauses=True), **changes)
    assert json.loads((folder / spending.TOKENS_KEPT).read_text())["1"] > 0
    with pytest.raises(KeyboardInterrupt):
        desk.run(job=Killed(folder, 8, pauses=False), **changes)
    counted = json.loads((folder / spending.TOKENS_KEPT).read_text())["1"]
    job = RecordedJob(folder)
    broken = desk.run(job=job, **changes)
    assert "going on after update 7 of 9" in job.text
    assert weights(desk, broken) == weights(desk, whole)
    assert broken["versions"][0]["metrics"] == whole["versions"][0]["metrics"]
    total = whole["check"]["training_tokens"]
    assert json.loads((folder / spending.TOKENS_KEPT).read_text()) == {"1": total}
    assert 0 < counted < total


def test_another_seed_gives_other_weights(desk: Desk, tmp_path: Path) -> None:
    one = desk.run(job=RecordedJob(tmp_path / "1"), epochs=1)
    two = desk.run(job=RecordedJob(tmp_path / "2"), epochs=1, seed=6)
    assert weights(desk, one) != weights(desk, two)


def test_a_check_spends_nothing(desk: Desk, tmp_path: Path) -> None:
    """It counts, and says time and cost by the tenant's prices."""
    order = desk.order(check_only=True)
    price = {"meter": "training_tokens", "amount": "2.50", "per": 1000, "currency": "EUR"}
    order["inputs"]["prices"] = [price]
    job = RecordedJob(tmp_path / "job")
    done = finetune.work(desk.blobs, job, order, desk.files)
    check = done["check"]
    assert set(done) == {"check"}
    assert (check["examples"], check["validation_examples"]) == (11, 1)
    assert check["training_tokens"] == 3 * check["tokens"]
    assert 0 < check["answer_tokens"] < check["tokens"]
    assert check["seconds"] > 0
    amount = check["training_tokens"] * 2.5 / 1000
    assert check["cost"] == {"amount": f"{amount:.6f}", "currency": "EUR"}
    assert not job.figures
    assert not (tmp_path / "job" / spending.TOKENS_KEPT).exists()
    assert "EUR" in job.text


def test_validations_are_part_of_what_it_will_take(desk: Desk, tmp_path: Path) -> None:
    """A third of a training step each; that is in the seconds and what they cost."""
    order = desk.order(check_only=True, epochs=1000, config={"rank": 4, "evaluate_every": 1})
    price = {"meter": "training_ms", "amount": "1", "per": 1000, "currency": "EUR"}
    order["inputs"]["prices"] = [price]
    job = RecordedJob(tmp_path / "job")
    check = finetune.work(desk.blobs, job, order, desk.files)["check"]
    # 11 examples in batches of 4: three updates an epoch, and one before all.
    assert (check["updates"], check["validations"]) == (3000, 3001)
    line = check["validation_tokens"] / 3001
    assert line == int(line)
    assert 0 < line <= check["longest"] + 1
    tokens = check["training_tokens"] + check["validation_tokens"] / 3
    assert check["seconds"] == pytest.approx(tokens / check["tokens_per_s"], rel=0.02)
    assert float(check["cost"]["amount"]) == pytest.approx(check["seconds"])
    assert "in 3,001 validations" in job.text
    none = desk.run(job=job, check_only=True, validation_fraction=0)["check"]
    assert (none["validations"], none["validation_tokens"]) == (0, 0)


@pytest.mark.parametrize(
    ("rows", "changes", "field", "told"),
    [
        ([*ROWS, chat("q" * 600, "a")], {}, "data", "line 13: it has .* no answer begins"),
        ([chat("a", "b" * 600)], {"config": {"too_long": "refuse"}}, "data", "line 1: .* 512"),
        (b"{", {}, "data", "line 1: it is not JSON"),
        (ROWS, {"config": {"max_tokens": 513}}, "config.max_tokens", "context window"),
        (ROWS, {"config": {"targets": ["nothing"]}}, "config.targets", "no linear layer"),
        (ROWS, {"config": {"targets": ["lm_head"]}}, "config.targets", "no linear layer"),
        (ROWS, {"learning_rate": 1000.0, "clip_norm": None, "optimizer": "sgd",
                "recipe": "llm-full", "config": {}}, "learning_rate", "diverged"),
    ],
)  # fmt: skip
def test_what_is_refused(
    desk: Desk, rows: Any, changes: dict[str, Any], field: str, told: str
) -> None:
    with pytest.raises(MeuseError, match=told) as caught:
        desk.run(rows, **changes)
    assert caught.value.field == field
    assert caught.value.code in (Code.INVALID_DATA, Code.INVALID_FIELD)


def test_a_hostile_template_ends_with_the_lines_at_fault(tmp_path: Path, tiny: Path) -> None:
    desk = Desk(tmp_path, tiny, "{{ ''.__class__.__mro__ }}")
    with pytest.raises(MeuseError, match="line 1: the chat template fails"):
        desk.run()


def test_it_stops_when_validation_gets_no_better(desk: Desk, tmp_path: Path) -> None:
    """And keeps the best weights, not the last: a rate too high for long unlearns again."""
    stopping = {"patience": 2, "min_delta": 1.0}
    job = RecordedJob(tmp_path / "job")
    done = desk.run(job=job, epochs=30, early_stopping=stopping)
    epochs = [figures for figures, labels in job.figures if "epoch" in labels]
    assert 2 <= len(epochs) < 30
    assert "no improvement since epoch" in job.text
    metrics = done["versions"][0]["metrics"]
    judged = [f["validation_loss"] for f, labels in job.figures if "validation_accuracy" in f]
    assert metrics["validation_loss"] == min(judged[1:])
    [best] = {labels["step"] for figures, labels in job.figures
              if figures.get("validation_loss") == min(judged[1:])}  # fmt: skip
    assert done["best_update"] == best
    assert epochs[-1]["validation_loss"] == judged[-1]


def test_without_validation_the_last_weights_stay(desk: Desk) -> None:
    done = desk.run(validation_fraction=0, epochs=1)
    (version,) = done["versions"]
    assert done["check"]["validation_examples"] == 0
    assert set(version["metrics"]) == {"train_loss", "trained_tokens"}


def test_a_budget_of_tokens_ends_it_at_a_checkpoint(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is spent in one file with all that runs on the host; with more, the job goes on."""
    monkeypatch.setattr("meuse.train.llm.loop.LOOK_S", 0.0)
    monkeypatch.setattr(spending, "TOKENS_AHEAD", 1)
    limit = {
        "id": "b1", "kind": "budget", "meter": "training_tokens", "amount": 1500,
        "period": "total", "hard": True, "tenant": TENANT,
    }  # fmt: skip
    order = desk.order()
    order["inputs"]["token_budgets"] = {
        "meter": "training_tokens", "limits": [limit], "cells": str(tmp_path / "cells"),
    }  # fmt: skip
    job = RecordedJob(tmp_path / "job")
    with pytest.raises(MeuseError) as caught:
        finetune.work(desk.blobs, job, order, desk.files)
    assert caught.value.code is Code.BUDGET_EXCEEDED
    counted = json.loads((tmp_path / "job" / spending.TOKENS_KEPT).read_text())["1"]
    assert 0 < counted <= 1500
    order["inputs"]["token_budgets"]["limits"] = []
    done = finetune.work(desk.blobs, job, order, desk.files)
    assert "going on after update" in job.text
    counted = json.loads((tmp_path / "job" / spending.TOKENS_KEPT).read_text())["1"]
    assert counted == done["trained_tokens"] == done["check"]["training_tokens"]


def budget_of(order: dict[str, Any], tmp_path: Path, amount: int) -> Limit:
    budget = Limit("b1", "budget", amount, "total", "training_tokens", tenant=TENANT)
    order["inputs"]["token_budgets"] = {
        "meter": "training_tokens", "limits": [asdict(budget)], "cells": str(tmp_path / "cells"),
    }  # fmt: skip
    return budget


def counted_of(tmp_path: Path, budget: Limit) -> tuple[int, int]:
    spent = limits.spent(tmp_path / "cells", [budget], now_ms())[budget.id]
    return spent.used, spent.reserved


def test_a_spent_budget_stops_training_at_once_and_all_is_counted(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not when it is time to look again; what was recorded is what the budget has lost."""
    monkeypatch.setattr("meuse.train.llm.loop.LOOK_S", 3600.0)
    monkeypatch.setattr(spending, "TOKENS_AHEAD", 1)
    order = desk.order(checkpoint_seconds=3600)
    budget = budget_of(order, tmp_path, 1500)
    job = RecordedJob(tmp_path / "job")
    with pytest.raises(MeuseError) as caught:
        finetune.work(desk.blobs, job, order, desk.files)
    assert caught.value.code is Code.BUDGET_EXCEEDED
    recorded = json.loads((tmp_path / "job" / spending.TOKENS_KEPT).read_text())["1"]
    assert counted_of(tmp_path, budget) == (recorded, 0)
    assert 0 < recorded <= 1500


def test_a_budget_that_is_just_enough_is_enough(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the end nothing is left to be reserved for."""
    monkeypatch.setattr(spending, "TOKENS_AHEAD", 1)
    whole = desk.run(check_only=True)["check"]["training_tokens"]
    order = desk.order()
    budget = budget_of(order, tmp_path, whole)
    done = finetune.work(desk.blobs, RecordedJob(tmp_path / "job"), order, desk.files)
    assert done["versions"]
    assert counted_of(tmp_path, budget) == (whole, 0)


def test_a_check_asks_no_budget_of_tokens(desk: Desk, tmp_path: Path) -> None:
    order = desk.order(check_only=True)
    budget_of(order, tmp_path, 1)
    assert finetune.work(desk.blobs, RecordedJob(tmp_path / "job"), order, desk.files)["check"]


@pytest.mark.parametrize("check_only", [True, False])
def test_memory_that_the_first_measurement_does_not_get_is_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, check_only: bool
) -> None:
    """Before any training, and in a check: as in training itself."""

    def refused(*given: Any) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9")

    monkeypatch.setattr("meuse.train.llm.loop.losses", refused)
    with pytest.raises(MeuseError, match="out of memory with a batch_size of 4") as caught:
        desk.run(check_only=check_only)
    assert (caught.value.code, caught.value.field) == (Code.TOO_LARGE, "batch_size")


def test_a_file_whose_name_leads_out_of_the_folder_is_refused(desk: Desk, tmp_path: Path) -> None:
    """The base's files are laid out as a replica's are."""
    described = manifests.decode(desk.blobs.read(TENANT, desk.manifest))
    first, *rest = described.files
    hostile = msgspec.structs.replace(first, name="../../out.json")
    document = msgspec.structs.replace(described, files=(hostile, *rest))
    desk.manifest, _ = desk.blobs.put(TENANT, io.BytesIO(manifests.encode(document)))
    with pytest.raises(MeuseError, match="no name of a model's file"):
        desk.run(job=RecordedJob(tmp_path / "jobs" / "job"))
    assert not (tmp_path / "jobs" / "out.json").exists()
