"""Every parameter that the docs list of files and batches: honoured, or 400 that names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2e.conftest import Platform

DOCS = Path(__file__).parents[2] / "docs" / "openai-parameters.md"
LINE = {"custom_id": "c", "method": "POST", "url": "/v1/embeddings", "body": {"model": "none"}}
ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")

# Per parameter: values that are taken, and values that are refused by its name.
FILES: dict[str, tuple[list[Any], list[Any]]] = {
    "purpose": (["batch", "fine-tune"], [None, "", "assistants", "vision", "batch_output"]),
    "file": ([("x.jsonl", b"{}"), ("\N{OX}.txt", b"\0")], [None, ("x.jsonl", b""), "text"]),
    "expires_after": ([None], ["9", "{}"]),
}
BATCHES: dict[str, tuple[list[Any], list[Any]]] = {
    "input_file_id": ([], [None, "", 7, ["file-1"], "file-none"]),
    "endpoint": (list(ENDPOINTS), [None, "", 7, "/v1/responses", list(ENDPOINTS)]),
    "completion_window": (["24h"], [None, "1h", 24]),
    "metadata": (
        [{}, {"a": "b"}, {"k" * 64: "v" * 512}, None],
        [[], "x", {"a": 1}, {"a" * 65: ""}, {"a": "b" * 513}, {str(n): "" for n in range(17)}],
    ),
    "output_expires_after": ([None], [{"anchor": "created_at", "seconds": 3600}, 9]),
}
LISTS: dict[str, dict[str, tuple[list[Any], list[Any]]]] = {
    "files": {
        "purpose": (["batch", "none"], ["x" * 33]),
        "after": (["file-1"], ["x" * 64]),
        "limit": ([1, 10_000], [0, 10_001, "many"]),
        "order": (["asc", "desc"], ["up"]),
    },
    "batches": {
        "after": (["batch_1"], ["x" * 64]),
        "limit": ([1, 100], [0, 101, 1.5]),
    },
}


def rows(path: str) -> list[str]:
    """The names in the table of `path`."""
    table = DOCS.read_text().partition(f"## `{path}`\n")[2].partition("\n## ")[0]
    return [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]


@pytest.fixture(scope="module")
def client(platform: Platform, tenant: Callable[[str], str]) -> Iterator[httpx.Client]:
    with platform.client(platform.key("infer", "data", tenant=tenant("walker"))) as made:
        yield made


@pytest.fixture(scope="module")
def file(client: httpx.Client) -> str:
    made = client.post(
        "/v1/files", data={"purpose": "batch"}, files={"file": json.dumps(LINE).encode()}
    )
    return str(made.raise_for_status().json()["id"])


def check_refused(answer: httpx.Response, name: str) -> None:
    error = answer.json()["error"]
    assert answer.status_code in (400, 404), answer.text
    assert error["type"] == "invalid_request_error"
    assert error["param"].partition(".")[0] == name, error


def upload(client: httpx.Client, name: str, value: Any) -> httpx.Response:
    """A form in which `name` is `value`; None leaves it out."""
    given = {"purpose": "batch", "file": ("x.jsonl", b"{}"), name: value}
    parts = {key: sent if isinstance(sent, tuple) else (None, sent)
             for key, sent in given.items() if sent is not None}  # fmt: skip
    return client.post("/v1/files", files=parts)


@pytest.mark.parametrize("name", rows("/v1/files"))
def test_each_parameter_of_a_file(client: httpx.Client, name: str) -> None:
    good, bad = FILES[name]
    for value in good:
        answer = upload(client, name, value)
        assert answer.status_code == 200, (value, answer.text)
        if value is not None:
            shown = answer.json()["filename" if name == "file" else name]
            assert shown == (value[0] if name == "file" else value)
    before = client.get("/v1/files").json()
    for value in bad:
        check_refused(upload(client, name, value), name)
    assert client.get("/v1/files").json() == before


@pytest.mark.parametrize("name", rows("/v1/batches"))
def test_each_parameter_of_a_batch(client: httpx.Client, file: str, name: str) -> None:
    good, bad = BATCHES[name]
    body = {"input_file_id": file, "endpoint": ENDPOINTS[2], "completion_window": "24h"}
    for value in [*good, body.get(name)]:
        answer = client.post("/v1/batches", json={**body, name: value, "later": 1})
        assert answer.status_code == 200, (value, answer.text)
        assert answer.json().get(name) == value
    count = len(client.get("/v1/batches", params={"limit": 100}).json()["data"])
    for value in bad:
        check_refused(client.post("/v1/batches", json={**body, name: value}), name)
    assert len(client.get("/v1/batches", params={"limit": 100}).json()["data"]) == count


@pytest.mark.parametrize(
    ("path", "name"), [(path, name) for path, names in LISTS.items() for name in names]
)
def test_each_parameter_of_a_list(client: httpx.Client, path: str, name: str) -> None:
    good, bad = LISTS[path][name]
    for value in good:
        answer = client.get(f"/v1/{path}", params={name: value})
        assert answer.status_code == 200, (value, answer.text)
    for value in bad:
        check_refused(client.get(f"/v1/{path}", params={name: value}), name)
