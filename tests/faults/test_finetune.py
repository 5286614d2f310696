"""Fine-tunings under kill -9: the same weights, and every token metered once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from faults.rig import Platform, until
from helpers_llama import chat, checkpoint, jsonl
from meuse.client import Client
from meuse.core.errors import MeuseError

EPOCHS = 40
SPEC: dict[str, Any] = {
    "epochs": EPOCHS, "batch_size": 8, "seed": 3, "checkpoint_seconds": 0.05,
    "config": {"rank": 4, "dropout": 0.1},
}  # fmt: skip
ROWS = [chat(f"What is {n} and {n}?", f"It is {2 * n}.") for n in range(24)]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """With a tiny language model "tiny:1", and a file of conversations beside its home."""
    folder = tmp_path_factory.mktemp("finetune")
    home = folder / "home"
    home.mkdir()
    (home / "meuse.toml").write_text(f'import_folders = "{folder}"\n')
    checkpoint(folder / "tiny")
    (folder / "chat.jsonl").write_bytes(jsonl(ROWS))
    platform = Platform(home)
    try:
        platform.spawn()
        platform.wait_up(120.0)
        client = platform.client()
        client.wait(client.pull(f"file:{folder / 'tiny'}", "tiny")["id"], timeout_s=120)
        yield platform
    finally:
        platform.close()


@pytest.fixture(scope="module")
def client(platform: Platform) -> Client:
    return platform.client()


@pytest.fixture(scope="module")
def file(platform: Platform, client: Client) -> str:
    sent: str = client.upload_file(platform.home.parent / "chat.jsonl")["id"]
    return sent


def weights(client: Client, model: str) -> dict[str, str]:
    version = client.version(model, 1)
    return {a["name"]: a["digest"] for a in version["artifacts"] if a["name"].startswith("adapter")}


def test_a_killed_fine_tuning_ends_as_if_nothing_was(
    client: Client, platform: Platform, file: str
) -> None:
    """Its record has the tokens of its epochs, no more: what was trained again
    from the checkpoint is billed once."""
    whole = client.wait(client.finetune("whole", "tiny:1", file, **SPEC)["id"], timeout_s=200)
    job = client.finetune("broken", "tiny:1", file, **SPEC)
    until(lambda: client.job(job["id"])["progress"] >= 0.3, 150.0)
    [child] = platform.children("job")
    assert platform.kill(child)
    done = client.wait(job["id"], timeout_s=200)
    assert done["result"]["metrics"] == whole["result"]["metrics"]
    assert weights(client, "broken") == weights(client, "whole")
    version = client.version("broken", 1)
    assert version["lineage"]["parent"] == "tiny:1"
    assert version["report"]["generation"]["layout"] == "adapter"
    told = [data["message"] for kind, data in client.events(job["id"]) if kind == "log"]
    assert any(text.startswith("going on after update") for text in told), told
    tokens = done["result"]["check"]["training_tokens"]

    def used() -> dict[str, int]:
        rows = client.usage(by="model,meter", fresh=True)["rows"]
        return {
            row["model"].rpartition("/")[2]: row["quantity"]
            for row in rows
            if row["meter"] == "training_tokens"
        }

    until(lambda: {"whole", "broken"} <= used().keys(), 60.0, 0.5)
    assert used() == {"whole": tokens, "broken": tokens}


def test_the_command_line_sends_checks_and_trains(platform: Platform) -> None:
    path = str(platform.home.parent / "chat.jsonl")
    tune = ("finetune", "typed", "--base", "tiny:1", "--data", path, "--epochs", "1")
    checked = platform.meuse(*tune, "--check")
    assert checked.returncode == 0, checked.stderr
    assert "training_tokens" in checked.stdout
    made = platform.meuse(*tune, "--rank", "2", "--merge", "--json")
    assert made.returncode == 0, made.stderr
    result = json.loads(made.stdout)["result"]
    assert (result["model"], result["merged"]) == ("typed:1", "typed:2")
    assert result["report"]["generation"]["rank"] == 2


def test_a_broken_line_17_is_refused_before_a_job_is_made(client: Client, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(jsonl(ROWS[:16]) + b'{"messages": [\n' + jsonl(ROWS[16:]))
    sent = client.upload_file(path)["id"]
    before = len(client.jobs())
    with pytest.raises(MeuseError, match="line 17: it is not JSON") as caught:
        client.finetune("never", "tiny:1", sent)
    assert caught.value.field == "data"
    assert len(client.jobs()) == before


def test_a_budget_of_tokens_ends_it_at_a_checkpoint(client: Client, file: str) -> None:
    """What was spent stays within what a step takes beyond it; a retry goes on from there."""
    terms: dict[str, Any] = {"tenant": "default", "meter": "training_tokens", "period": "total"}
    soft = client.budget(**terms, limit=1, hard=False)
    [used] = [one["used"] for one in client.budgets() if one["id"] == soft["id"]]
    client.remove_limit(soft["id"])
    budget = client.budget(**terms, limit=used + 30_000, hard=True)
    job = client.finetune("limited", "tiny:1", file, **SPEC)
    with pytest.raises(MeuseError) as caught:
        client.wait(job["id"], timeout_s=200)
    assert caught.value.code == "budget_exceeded"
    assert 0 < client.job(job["id"])["metrics"]["trained_tokens"] <= 30_000
    client.remove_limit(budget["id"])
    client.retry(job["id"])
    done = client.wait(job["id"], timeout_s=200)
    assert weights(client, "limited") == weights(client, "whole")
    assert done["result"]["model"] == "limited:1"
