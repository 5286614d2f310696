"""Options of a language model's engine, and the job that measures them, through the public API."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import httpx
import pytest

import helpers_llm
import helpers_lora
from e2e.conftest import Platform
from e2e.helpers import JSON, ended, get, ready, refused, start, succeeded, until
from helpers_tiny_llm import write_gguf

SLOW_S = 300.0
NAME = "e2e-tuned"
ENGINE = {"cache_mb": 64, "max_sequences": 4}
ASKED = [{"role": "user", "content": "Say: the river flows past the old town to the sea."}]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def model(platform: Platform, admin: httpx.Client) -> str:
    folder = platform.home / "import" / "tuned"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(helpers_llm.weights(), folder / "model.gguf")
    job = start(admin, "import", source=f"file:{folder / 'model.gguf'}", model_name=NAME)
    made: str = succeeded(admin, job, SLOW_S)["model"]
    return made


def put(admin: httpx.Client, model: str, name: str = NAME, **more: Any) -> httpx.Response:
    return admin.put(f"/api/deployments/{name}", json={"model": model, **more})


def served(admin: httpx.Client, model: str, name: str = NAME, **engine: Any) -> JSON:
    response = put(admin, model, name, engine={**ENGINE, **engine})
    assert response.status_code == 202, response.text
    generation = response.json()["generation"]

    def is_ready() -> bool:
        state = get(admin, f"/api/deployments/{name}")
        assert state["status"] != "failed", state["error"]
        return state["status"] == "ready" and state["observed_generation"] == generation

    until(is_ready, "the language model is served", SLOW_S)
    return get(admin, f"/api/deployments/{name}")


@pytest.fixture(scope="module")
def tuned(admin: httpx.Client, model: str) -> Iterator[JSON]:
    """A deployment with every option that it may have together."""
    yield served(admin, model, prefix_cache=True, prompt_lookup=True, kv_precision="u8")
    admin.delete(f"/api/deployments/{NAME}")


def test_options_are_shown_as_they_are_written(tuned: JSON) -> None:
    engine = tuned["engine"]
    assert engine["prefix_cache"] is True
    assert engine["prompt_lookup"] == {"max_ngram_size": 3, "num_assistant_tokens": 5}
    assert (engine["kv_precision"], engine["draft_model"]) == ("u8", None)


def test_what_may_not_be_had_is_refused(admin: httpx.Client, tuned: JSON, model: str) -> None:
    """A prefix cache that several tenants would share; a draft that the engine cannot read, or
    that is not there. The deployment stays as it was."""
    for more, status, code, field in (
        ({"engine": {"prefix_cache": True}, "access": {"tenants": "*"}},
         400, "invalid_field", "engine.prefix_cache"),
        ({"engine": {"draft_model": model}}, 400, "invalid_field", "engine.draft_model"),
        ({"engine": {"draft_model": "nowhere:1"}}, 404, "not_found", "engine.draft_model"),
    ):  # fmt: skip
        refused(put(admin, model, **more), status, code, field)
    assert get(admin, f"/api/deployments/{NAME}")["generation"] == tuned["generation"]


def test_cached_tokens_are_not_told_where_the_engine_does_not(
    admin: httpx.Client, tuned: JSON
) -> None:
    """The same question twice has the same answer, and the same count of tokens."""
    body = {"model": NAME, "messages": ASKED, "temperature": 0, "max_tokens": 12}
    first, again = (
        admin.post("/v1/chat/completions", json=body, timeout=SLOW_S).json() for _ in range(2)
    )
    assert first["choices"][0]["message"] == again["choices"][0]["message"]
    assert first["usage"] == again["usage"]
    assert "prompt_tokens_details" not in first["usage"]


def test_settings_are_measured_and_the_deployment_is_left_alone(
    admin: httpx.Client, tuned: JSON
) -> None:
    """One that is tried is a row beside what was; without `apply` nothing is written."""
    spec: dict[str, Any] = {"deployment": NAME, "streams": 1, "tokens": 4, "rounds": 2}
    job = start(admin, "tune", **spec, settings=["kv_precision"], prompts=["Once upon a time"])
    done = ended(admin, job, SLOW_S)
    assert done["status"] == "succeeded", done["error"]
    result = done["result"]
    assert [row["name"] for row in result["rows"]] == ["as it is", "kv_precision f16"]
    assert all(row["tokens_s"] > 0 for row in result["rows"])
    assert len(result["rows"][1]["pairs"]) == 2
    assert set(result["changes"]) == ({"kv_precision"} if result["rows"][1]["taken"] else set())
    assert result["applied"] is False
    assert get(admin, f"/api/deployments/{NAME}")["generation"] == tuned["generation"]


def test_a_tune_job_names_its_mistakes(admin: httpx.Client, tuned: JSON) -> None:
    for field, more in (
        ("deployment", {"deployment": ""}),
        ("streams", {"streams": 0}),
        ("settings", {"settings": ["temperature"]}),
        ("prompts[0]", {"prompts": [""]}),
        ("apply", {"apply": "yes"}),
        ("tempo", {"tempo": 1}),
    ):
        body = {"kind": "tune", "spec": {"deployment": NAME, **more}}
        refused(admin.post("/api/jobs", json=body), 400, "invalid_field", field)
    body = {"kind": "tune", "spec": {"deployment": "nowhere"}}
    refused(admin.post("/api/jobs", json=body), 404, "not_found", "deployment")


def test_writing_settings_needs_its_scope(platform: Platform, tuned: JSON) -> None:
    """Measuring is a job like others; changing a deployment is not."""
    client = platform.client(platform.key("train"))
    body = {"kind": "tune", "spec": {"deployment": NAME, "apply": True}}
    refused(client.post("/api/jobs", json=body), 403, "forbidden", "apply")


@pytest.fixture(scope="module")
def slow(platform: Platform, admin: httpx.Client) -> Iterator[JSON]:
    """A deployment of a tiny model that reads prompts a few tokens at a time, which is slow."""
    folder = platform.home / "import" / "slow"
    folder.mkdir(parents=True, exist_ok=True)
    path = write_gguf(folder / "slow.gguf", context=2048)
    made = succeeded(admin, start(admin, "import", source=f"file:{path}", model_name="e2e-slow"))
    body = {"model": made["model"], "engine": {"cache_mb": 16, "max_batched_tokens": 16}}
    admin.put("/api/deployments/e2e-slow", json=body).raise_for_status()
    yield ready(admin, "e2e-slow")
    admin.delete("/api/deployments/e2e-slow")


def tune(platform: Platform, *words: str) -> tuple[list[list[str]], str]:
    """`meuse tune-engine`, as it is typed: the cells of its table, and its last line."""
    there = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
    there |= {"MEUSE_URL": platform.url, "MEUSE_KEY": platform.admin_key, "COLUMNS": "200"}
    options = ["--streams", "2", "--tokens", "2", "--rounds", "3", *words]
    done = subprocess.run(
        [sys.executable, "-m", "meuse", "tune-engine", "e2e-slow", *options],
        env=there, capture_output=True, text=True, timeout=SLOW_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "measures" in done.stderr
    *table, verdict = done.stdout.splitlines()
    return [re.split(r" {2,}", line.strip()) for line in table], verdict


NOTHING = "nothing is faster by more than noise: the deployment stays as it is"


def test_the_command_line_shows_what_was_measured(
    platform: Platform, admin: httpx.Client, slow: JSON
) -> None:
    (head, before, tried), verdict = tune(platform, "--setting", "kv_precision")
    assert head == ["name", "tokens_s", "first_ms", "of best", "same texts", "verdict"]
    assert (before[0], before[3:]) == ("as it is", ["1", "1", "-"])
    assert tried[0] == "kv_precision f16"
    assert all(float(cell) > 0 for row in (before, tried) for cell in row[1:4])
    if tried[5] == "taken":
        assert verdict == 'faster: {"kv_precision": "f16"} (--apply writes it to the deployment)'
    else:
        assert tried[5].startswith("not faster by more than")
        assert verdict == NOTHING
    assert get(admin, "/api/deployments/e2e-slow")["generation"] == slow["generation"]


def test_what_is_faster_is_applied(
    platform: Platform, admin: httpx.Client, slow: JSON, tmp_path: Path
) -> None:
    """A long prompt in one step, in place of many; tried again, what is kept is what is said."""
    (tmp_path / "prompts.txt").write_text("x" * 1000 + "\n\n" + "y" * 1000 + "\n")
    words = [
        "--setting",
        "max_batched_tokens",
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--apply",
    ]
    rows, verdict = tune(platform, *words)
    assert [row[0] for row in rows[1:3]] == ["as it is", "max_batched_tokens 128"]
    assert rows[2][5] == "taken", rows
    told, _, changes = verdict.partition(": ")
    assert told == "written to e2e-slow"
    state = ready(admin, "e2e-slow")
    assert state["engine"] == {**slow["engine"], **json.loads(changes)}
    assert state["engine"]["max_batched_tokens"] >= 128
    assert state["generation"] == slow["generation"] + 1

    rows, verdict = tune(platform, *words)
    after = ready(admin, "e2e-slow")
    if verdict == NOTHING:
        assert "taken" not in {row[5] for row in rows}
        assert (after["engine"], after["generation"]) == (state["engine"], state["generation"])
    else:
        changes = verdict.removeprefix("written to e2e-slow: ")
        assert after["engine"] == {**state["engine"], **json.loads(changes)}


def test_a_draft_says_what_the_model_says_alone(platform: Platform, admin: httpx.Client) -> None:
    """A small model that guesses for itself: the same tokens, several in one event.

    In bfloat16 as far as the first 20; in exact arithmetic on every processor:
    `tests/serve/generation/test_options.py`."""
    pytest.importorskip("transformers")
    folder = helpers_lora.tiny(platform.home / "import" / "drafted")
    job = start(admin, "import", source=f"file:{folder}", model_name="e2e-drafted")
    model = succeeded(admin, job, SLOW_S)["model"]
    body = {"model": "e2e-drafted", "messages": ASKED, "temperature": 0, "max_tokens": 40,
            "ignore_eos": True, "logprobs": True, "stream": True}  # fmt: skip

    def events() -> list[list[list[int]]]:
        """The bytes of the tokens of each."""
        text = admin.post("/v1/chat/completions", json=body, timeout=SLOW_S).text
        lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
        assert lines.pop() == "[DONE]"
        told = [json.loads(line)["choices"][0]["logprobs"] for line in lines]
        return [[token["bytes"] for token in each["content"]] for each in told if each]

    served(admin, model, "e2e-drafted")
    alone = events()
    draft = {"model": model, "num_assistant_tokens": 3}
    shown = served(admin, model, "e2e-drafted", draft_model=draft)
    assert shown["engine"]["draft_model"] == draft
    guessed = events()
    alike = 20 if helpers_llm.computes_in_bfloat16() else 40
    assert [*chain(*guessed)][:alike] == [*chain(*alone)][:alike]
    assert len([*chain(*guessed)]) == len(alone) == 40 > len(guessed)
    admin.delete("/api/deployments/e2e-drafted").raise_for_status()
