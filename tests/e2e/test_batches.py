"""Files and batches through the official client: what goes in, what comes out, what it costs."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import openai
import pytest

from e2e.conftest import MAX_UPLOAD, Platform
from e2e.helpers import JSON, get, ready, start, succeeded, until
from helpers_tiny_llm import write_gguf
from serve import models

URL = "/v1/embeddings"
LONG = 32_768
"""Tokens: more than are produced while a test looks on."""
TEXTS = {"cat": [1.0, 0.5], "dog": [2.0, 1.0], "cow": [0.0, 0.0]}


@pytest.fixture(scope="module")
def payer(admin: httpx.Client, tenant: Callable[[str], str]) -> str:
    """A tenant that may call `e2e-words`, which turns texts into vectors."""
    name = tenant("batcher")
    path = "/api/models/e2e-words/versions"
    made = admin.post(
        path, content=models.embedder(tokens=True), headers={"content-type": "application/onnx"}
    )
    assert made.status_code == 201, made.text
    body = {"model": made.json()["ref"], "access": {"tenants": [name]}}
    response = admin.put("/api/deployments/e2e-words", json=body)
    assert response.status_code == 202, response.text
    ready(admin, "e2e-words")
    return name


@pytest.fixture(scope="module")
def client(platform: Platform, payer: str) -> Iterator[openai.OpenAI]:
    key = platform.key("infer", "data", "train", tenant=payer)
    with openai.OpenAI(
        api_key=key, base_url=f"{platform.url}/v1", max_retries=0, timeout=60
    ) as made:
        yield made


@pytest.fixture(scope="module")
def talker(platform: Platform, admin: httpx.Client) -> Iterator[str]:
    """A language model of random weights that may talk for long."""
    folder = platform.home / "import" / "talker"
    folder.mkdir(parents=True, exist_ok=True)
    path = write_gguf(folder / "talker.gguf", context=LONG)
    made = succeeded(admin, start(admin, "import", source=f"file:{path}", model_name="e2e-talker"))
    body = {"model": made["model"], "engine": {"cache_mb": 64, "max_sequences": 4}}
    admin.put("/api/deployments/e2e-talker", json=body).raise_for_status()
    ready(admin, "e2e-talker")
    yield "e2e-talker"
    admin.delete("/api/deployments/e2e-talker")


def _read(stream: Any, enough: threading.Event) -> None:
    """To its end, or until there is enough of it."""
    with stream:
        for _ in stream:
            if enough.is_set():
                return


def asking(*asked: tuple[str, Any], url: str = URL) -> bytes:
    """An input file of lines by custom id and model or input."""
    lines = [
        {
            "custom_id": name,
            "method": "POST",
            "url": url,
            "body": {"model": "default/e2e-words", "input": text},
        }
        for name, text in asked
    ]
    return "\n".join(map(json.dumps, lines)).encode()


def begun(client: openai.OpenAI, content: bytes, **more: Any) -> Any:
    file = client.files.create(file=("asks.jsonl", content), purpose="batch")
    given: Any = {"endpoint": URL, "completion_window": "24h", **more}
    return client.batches.create(input_file_id=file.id, **given)


def ended(client: openai.OpenAI, batch_id: str) -> Any:
    def look() -> Any:
        found = client.batches.retrieve(batch_id)
        return found if found.status in ("completed", "failed", "cancelled", "expired") else None

    return until(look, f"batch {batch_id} ends", 110)


def lines_of(client: openai.OpenAI, file_id: str | None) -> dict[str, JSON]:
    """By custom id; each is there once."""
    if file_id is None:
        return {}
    lines = client.files.content(file_id).text.splitlines()
    found = {told["custom_id"]: told for told in map(json.loads, lines)}
    assert len(found) == len(lines)
    return found


def test_files_are_kept_listed_read_and_deleted(client: openai.OpenAI) -> None:
    """The official client's calls on files, from the upload to the end."""
    made = client.files.create(file=("a b.jsonl", b"x" * 5000), purpose="batch")
    assert made.id.startswith("file-")
    assert (made.object, made.bytes, made.filename) == ("file", 5000, "a b.jsonl")
    assert (made.purpose, made.status) == ("batch", "processed")
    other = client.files.create(file=io.BytesIO(b"y"), purpose="fine-tune")
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).read() == b"x" * 5000
    listed = [file.id for file in client.files.list(limit=1)]  # page by page
    assert {made.id, other.id} <= set(listed)
    assert listed == sorted(listed, reverse=True)
    assert [f.id for f in client.files.list(purpose="fine-tune")] == [other.id]
    oldest = [file.id for file in client.files.list(order="asc")]
    assert oldest == sorted(listed)
    for file in (made, other):
        assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError) as caught:
        client.files.retrieve(made.id)
    assert (caught.value.param, caught.value.type) == ("file", "invalid_request_error")


def test_what_is_wrong_with_a_file_or_a_batch_is_named(
    client: openai.OpenAI, platform: Platform
) -> None:
    good: Any = {"endpoint": URL, "completion_window": "24h", "input_file_id": "file-none"}
    learned = client.files.create(file=("l.jsonl", b"{}"), purpose="fine-tune").id
    for change, param in (
        ({}, "input_file_id"),
        ({"input_file_id": learned}, "input_file_id"),
        ({"input_file_id": 7}, "input_file_id"),
        ({"endpoint": "/v1/responses"}, "endpoint"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 9}}, "output_expires_after"),
    ):
        with pytest.raises(openai.APIStatusError) as refused:
            client.batches.create(**{**good, **change})
        assert (refused.value.status_code in (400, 404), refused.value.param) == (True, param)
    client.files.delete(learned)
    key = {"authorization": f"Bearer {client.api_key}"}
    for data, files, param in (
        ({"purpose": "assistants"}, {"file": b"x"}, "purpose"),
        ({"purpose": "batch"}, {"file": b""}, "file"),
        ({"purpose": "batch"}, {"other": b"x"}, "file"),
        ({"purpose": "batch", "expires_after[seconds]": "9"}, {"file": b"x"}, "expires_after"),
    ):
        answer = httpx.post(f"{platform.url}/v1/files", data=data, files=files, headers=key)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    with pytest.raises(openai.APIStatusError) as large:
        client.files.create(file=b"x" * (MAX_UPLOAD + 1), purpose="batch")
    assert large.value.status_code == 413
    kind = httpx.post(
        f"{platform.url}/api/jobs", json={"kind": "batch", "spec": {"batch": "b"}}, headers=key
    )
    assert (kind.status_code, kind.json()["error"]["field"]) == (400, "kind")


def test_a_batch_answers_every_line_and_is_billed_at_its_tier(
    client: openai.OpenAI, admin: httpx.Client, payer: str
) -> None:
    """Answers in the output file, refusals in the error file, usage at the tier `batch`."""
    asked = [(f"c{n}", list(TEXTS)[n % 3]) for n in range(30)]
    content = asking(*asked, ("wrong", [])) + b"\n" + asking(("missing", "one")).replace(
        b"default/e2e-words", b"nothing"
    )  # fmt: skip
    made = begun(client, content, metadata={"for": "test"})
    assert made.id.startswith("batch_")
    assert (made.object, made.endpoint, made.completion_window) == ("batch", URL, "24h")
    assert made.status in ("validating", "in_progress")
    assert made.expires_at - made.created_at == 24 * 3600
    done = ended(client, made.id)
    assert (done.status, done.errors, done.metadata) == ("completed", None, {"for": "test"})
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (32, 30, 2)
    assert done.usage.input_tokens == done.usage.total_tokens == 30
    assert done.created_at <= done.in_progress_at <= done.finalizing_at <= done.completed_at
    answers = lines_of(client, done.output_file_id)
    assert set(answers) == {name for name, _ in asked}
    for name, text in asked:
        told = answers[name]
        assert told["id"].startswith("batch_req_")
        assert (told["error"], told["response"]["status_code"]) == (None, 200)
        [vector] = told["response"]["body"]["data"]
        assert vector["embedding"] == TEXTS[text]
    errors = lines_of(client, done.error_file_id)
    refused = {name: told["response"] for name, told in errors.items()}
    assert {name: told["status_code"] for name, told in refused.items()} == {
        "wrong": 400, "missing": 404,
    }  # fmt: skip
    assert refused["missing"]["body"]["error"]["code"] == "model_not_found"
    output = client.files.retrieve(done.output_file_id)
    assert (output.purpose, output.filename) == ("batch_output", f"{done.id}_output.jsonl")
    assert made.id in [batch.id for batch in client.batches.list(limit=1)]

    since = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0).isoformat()
    query = {"from": since, "by": "tier,meter", "tenant": payer, "fresh": True}
    rows = get(admin, "/api/usage", **query)["rows"]
    used = {(row["tier"], row["meter"]): row["quantity"] for row in rows}
    assert (used["batch", "requests"], used["batch", "rows"]) == (30, 30)
    assert {tier for tier, _ in used} == {"batch"}


def test_a_broken_input_fails_by_line(client: openai.OpenAI) -> None:
    content = b"\n".join(
        [asking(("a", "one")), b"{broken", asking(("a", "two")), asking(("b", "x"), url="/v1/x")]
    )
    done = ended(client, begun(client, content).id)
    assert (done.status, done.output_file_id, done.error_file_id) == ("failed", None, None)
    assert [(error.line, error.code, error.param) for error in done.errors.data] == [
        (2, "invalid_json_line", None),
        (3, "duplicate_custom_id", "custom_id"),
        (4, "invalid_url", "url"),
    ]
    assert done.failed_at
    assert done.request_counts.total == 0
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(done.id)


def test_a_batch_is_cancelled(client: openai.OpenAI) -> None:
    """However far it was, every line stands in one of its files or none was asked."""
    content = asking(*((f"c{n}", "one") for n in range(3000)))
    made = begun(client, content)
    with pytest.raises(openai.ConflictError):
        client.files.delete(made.input_file_id)
    asked = client.batches.cancel(made.id)
    assert asked.status in ("cancelling", "cancelled")
    assert asked.cancelling_at
    done = ended(client, made.id)
    assert (done.status, bool(done.cancelled_at)) == ("cancelled", True)
    lines = [*lines_of(client, done.output_file_id), *lines_of(client, done.error_file_id)]
    assert len(lines) == len(set(lines)) == done.request_counts.total in (0, 3000)


def test_a_chat_is_answered_before_lines_that_wait(
    platform: Platform, admin: httpx.Client, talker: str
) -> None:
    """While a text streams, none of them starts, and who asks meanwhile is answered; then all of
    them are."""
    asked: Any = {"model": talker, "prompt": "he", "extra_body": {"ignore_eos": True}}
    body = {"model": talker, "prompt": "he", "max_tokens": 2}
    lines = [
        {"custom_id": f"c{n}", "method": "POST", "url": "/v1/completions", "body": body}
        for n in range(12)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    url = f"{platform.url}/v1"
    with openai.OpenAI(api_key=platform.admin_key, base_url=url, max_retries=0) as client:
        stream = client.completions.create(max_tokens=LONG - 100, stream=True, **asked)
        next(stream)
        enough = threading.Event()
        reading = threading.Thread(target=_read, args=(stream, enough))
        reading.start()
        made = begun(client, content, endpoint="/v1/completions")
        until(lambda: client.batches.retrieve(made.id).status != "validating", "it asks")
        time.sleep(1)
        for _ in range(3):
            answer = client.completions.create(max_tokens=3, **asked)
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 3
        time.sleep(1)  # longer than it takes until answers are told
        assert client.batches.retrieve(made.id).request_counts.completed == 0
        assert reading.is_alive(), "the stream has ended: nothing held the lines back"
        enough.set()
        reading.join()
        done = ended(client, made.id)
        counts = done.request_counts
        assert (counts.completed, counts.failed) == (12, 0)
        assert len(lines_of(client, done.output_file_id)) == 12


@pytest.mark.slow
def test_a_spent_budget_ends_a_batch(
    client: openai.OpenAI, admin: httpx.Client, payer: str
) -> None:
    """402 stops it with an error that says so; what was answered is there."""
    query = {"meter": "requests", "tenant": payer, "limit": 1_000, "period": "total", "hard": True}
    budget = admin.post("/api/budgets", json=query)
    assert budget.status_code == 201, budget.text
    try:
        content = asking(*((f"c{n}", "two") for n in range(1_200)))
        done = ended(client, begun(client, content).id)
    finally:
        admin.delete(f"/api/budgets/{budget.json()['id']}").raise_for_status()
    assert done.status == "failed"
    [error] = done.errors.data
    assert error.code == "insufficient_quota"
    answers = lines_of(client, done.output_file_id)
    errors = lines_of(client, done.error_file_id)
    assert len(answers) + len(errors) == 1_200
    assert 0 < len(answers) <= 1_000
    assert {told["error"]["code"] for told in errors.values()} == {"insufficient_quota"}


def test_others_files_and_batches_do_not_exist(
    client: openai.OpenAI, platform: Platform, stranger: httpx.Client
) -> None:
    file = client.files.create(file=b"{}", purpose="batch")
    batch = begun(client, asking(("a", "one")))
    for method, path in (
        ("GET", f"/v1/files/{file.id}"),
        ("GET", f"/v1/files/{file.id}/content"),
        ("DELETE", f"/v1/files/{file.id}"),
        ("GET", f"/v1/batches/{batch.id}"),
        ("POST", f"/v1/batches/{batch.id}/cancel"),
    ):
        assert stranger.request(method, path).status_code == 404, path
    for path in ("/v1/files", "/v1/batches"):
        assert stranger.get(path).json()["data"] == []
    body = {"input_file_id": file.id, "endpoint": URL, "completion_window": "24h"}
    assert stranger.post("/v1/batches", json=body).status_code == 404
    ended(client, batch.id)
