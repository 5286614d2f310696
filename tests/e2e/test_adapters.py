"""LoRA adapters on one base through the public API: imported, deployed, called, metered."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

import helpers_lora as made
from e2e.conftest import Platform
from e2e.helpers import JSON, ended, get, refused, start, succeeded, until

NAME = "e2e-adapted"
SLOW_S = 300.0

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(platform: Platform) -> Path:
    """The files of a small decoder and of three adapters, where imports are allowed from."""
    pytest.importorskip("openvino_genai")
    pytest.importorskip("transformers")
    root = platform.home / "import" / "adapters"
    made.tiny(root / "base")
    for seed, name in enumerate(("polite", "terse", "late"), 1):
        made.write(root / name, made.matrices(made.layers_of("q_proj", "v_proj"), seed))
    made.write(root / "wide", made.matrices(made.layers_of("v_proj", "up_proj"), 4))
    return root


def imported(admin: httpx.Client, folder: Path, name: str, **more: Any) -> JSON:
    source = f"file:{folder / name}"
    return succeeded(admin, start(admin, "import", source=source, model_name=f"e2e-{name}", **more))


@pytest.fixture(scope="module")
def base(admin: httpx.Client, folder: Path) -> str:
    ref: str = imported(admin, folder, "base")["model"]
    return ref


@pytest.fixture(scope="module")
def adapters(admin: httpx.Client, folder: Path, base: str) -> dict[str, str]:
    """Their versions by name."""
    return {
        name: imported(admin, folder, name, base=base)["model"]
        for name in ("polite", "terse", "late", "wide")
    }


def put(admin: httpx.Client, base: str, adapters: dict[str, str], **more: Any) -> httpx.Response:
    engine = {"cache_mb": 16, "max_sequences": 8, "adapter_turn_ms": 50}
    body = {"model": base, "adapters": adapters, "engine": engine, **more}
    return admin.put(f"/api/deployments/{NAME}", json=body)


def is_ready(admin: httpx.Client) -> JSON | None:
    state: JSON = get(admin, f"/api/deployments/{NAME}")
    assert state["status"] != "failed", state["error"]
    done = state["status"] == "ready" and state["observed_generation"] == state["generation"]
    return state if done else None


@pytest.fixture(scope="module")
def chat(admin: httpx.Client, base: str, adapters: dict[str, str]) -> Iterator[str]:
    two = {name: adapters[name] for name in ("polite", "terse")}
    response = put(admin, base, two)
    assert response.status_code == 202, response.text
    state = until(lambda: is_ready(admin), "the base and its adapters are served", SLOW_S)
    assert state["adapters"] == two
    yield NAME
    admin.delete(f"/api/deployments/{NAME}")


@pytest.fixture(scope="module")
def client(platform: Platform, chat: str) -> Iterator[openai.OpenAI]:
    key = platform.key("infer")
    with openai.OpenAI(
        api_key=key, base_url=f"{platform.url}/v1", max_retries=0, timeout=SLOW_S
    ) as client:
        yield client


def say(client: openai.OpenAI, model: str) -> Any:
    return client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Name the seasons."}],
        max_tokens=16,
        temperature=0,
        logprobs=True,
    )


def told(answer: Any) -> list[list[int]]:
    return [token.bytes for token in answer.choices[0].logprobs.content]


def test_an_adapter_is_imported_as_a_child_of_its_base(
    admin: httpx.Client, base: str, adapters: dict[str, str]
) -> None:
    version = get(admin, f"/api/models/e2e-polite/versions/{adapters['polite'].partition(':')[2]}")
    assert version["lineage"]["parent"] == base
    report = version["report"]["generation"]
    assert {name: report[name] for name in ("layout", "base", "rank", "alpha", "targets")} == {
        "layout": "adapter", "base": base, "rank": 4, "alpha": 8.0,
        "targets": ["q_proj", "v_proj"],
    }  # fmt: skip
    assert [a["name"] for a in version["artifacts"]] == [
        "manifest.json", "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip


def test_what_is_no_adapter_registers_nothing(admin: httpx.Client, folder: Path, base: str) -> None:
    def failed(name: str, **more: Any) -> JSON:
        source = f"file:{folder / name}"
        job = start(admin, "import", source=source, model_name=f"e2e-{name}", **more)
        done = ended(admin, job)
        assert done["status"] == "failed"
        error: JSON = done["error"]
        return error

    shutil.copytree(folder / "polite", folder / "nobody", dirs_exist_ok=True)
    assert failed("nobody")["field"] == "base"
    weights = folder / "nobody" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-2])
    error = failed("nobody", base=base)
    assert (error["code"], "bytes" in error["message"]) == ("invalid_data", True)
    assert admin.get("/api/models/e2e-nobody").status_code == 404


def test_what_does_not_fit_is_refused(
    admin: httpx.Client, base: str, adapters: dict[str, str]
) -> None:
    refused(put(admin, base, {"x": base}), 400, "invalid_field", "adapters.x")
    refused(put(admin, base, {"x": "e2e-none:1"}), 404, "not_found", "adapters.x")
    refused(put(admin, base, {"no name": adapters["polite"]}), 400, "invalid_field", "adapters")
    refused(put(admin, adapters["polite"], {}), 400, "invalid_field", "model")
    assert admin.get(f"/api/deployments/{NAME}").status_code in (200, 404)


def test_each_is_listed_and_answers_as_itself(client: openai.OpenAI, chat: str) -> None:
    """Whatever was asked before it."""
    parents = {m.id: (m.model_extra or {}).get("parent") for m in client.models.list()}
    assert {name: parent for name, parent in parents.items() if name.startswith(chat)} == {
        chat: None, f"{chat}:polite": chat, f"{chat}:terse": chat,
    }  # fmt: skip
    names = [chat, f"{chat}:polite", f"{chat}:terse"]
    first = {name: told(say(client, name)) for name in names}
    assert len({json.dumps(answer) for answer in first.values()}) == 3
    for name in (names[1], names[2], names[1], names[0]):
        assert told(say(client, name)) == first[name]
    with pytest.raises(openai.NotFoundError) as caught:
        say(client, f"{chat}:rude")
    assert caught.value.code == "model_not_found"


def test_another_adapter_needs_no_restart(
    admin: httpx.Client,
    platform: Platform,
    client: openai.OpenAI,
    chat: str,
    base: str,
    adapters: dict[str, str],
) -> None:
    """The same process serves it as soon as the spec is answered."""

    def replicas() -> set[int]:
        found = json.loads((platform.home / "run.json").read_text())["processes"]
        return {p["pid"] for name, p in found.items() if name.startswith("replica-")}

    before, polite = replicas(), told(say(client, f"{chat}:polite"))
    response = put(admin, base, {"polite": adapters["polite"], "late": adapters["late"]})
    assert (response.status_code, response.json()["published"]) == (202, True)
    late = told(say(client, f"{chat}:late"))
    assert late != polite
    with pytest.raises(openai.NotFoundError):
        say(client, f"{chat}:terse")
    until(lambda: is_ready(admin), "the new generation is ready", SLOW_S)
    assert told(say(client, f"{chat}:polite")) == polite
    assert replicas() == before


def test_an_adapter_on_other_layers_replaces_the_replica(
    admin: httpx.Client, client: openai.OpenAI, chat: str, base: str, adapters: dict[str, str]
) -> None:
    """Whose graph had no place for it; those that are there go on answering, and the same."""
    names = {"polite": adapters["polite"], "late": adapters["late"]}
    before = {name: told(say(client, f"{chat}:{name}")) for name in names}
    assert put(admin, base, names | {"wide": adapters["wide"]}).status_code == 202

    def is_there() -> list[list[int]] | None:
        assert {name: told(say(client, f"{chat}:{name}")) for name in names} == before
        try:
            return told(say(client, f"{chat}:wide"))
        except openai.InternalServerError as error:
            if error.status_code != 503:
                raise
            return None

    wide = until(is_there, "the new replica has a place for it", SLOW_S)
    until(lambda: is_ready(admin), "the new generation is ready", SLOW_S)
    assert wide not in (*before.values(), told(say(client, chat)))
    assert told(say(client, f"{chat}:wide")) == wide


def test_use_is_reported_by_the_adapters_version(
    admin: httpx.Client, client: openai.OpenAI, chat: str, adapters: dict[str, str]
) -> None:
    usage = say(client, f"{chat}:polite").usage
    today = datetime.now(UTC).date()
    rows = get(
        admin,
        "/api/usage",
        **{"from": str(today), "to": str(today + timedelta(days=1))},
        by="model,version,meter",
        fresh="true",
    )["rows"]
    mine = {
        row["meter"]: row["quantity"]
        for row in rows
        if row["version"] == adapters["polite"] and row["model"].endswith(chat)
    }
    assert mine["completion_tokens"] >= usage.completion_tokens > 0
    assert mine["prompt_tokens"] >= usage.prompt_tokens > 0
    metrics = admin.get("/metrics").text
    assert "meuse_adapter_switches_total" in metrics
    assert f'version="{adapters["polite"]}"' in metrics
