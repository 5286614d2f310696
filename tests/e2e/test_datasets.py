"""Datasets of every format through the public API: upload, options, splits, lineage."""

from __future__ import annotations

import io
import json
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.helpers_data import picture, tarred, zipped
from e2e.helpers import CSV, JSON, get, refused, start, succeeded

X = np.random.default_rng(0).normal(size=(120, 2))
TABLE = pa.table(
    {
        "u": X[:, 0],
        "v": X[:, 1],
        "day": np.arange(120) // 4,
        "label": np.where(X.sum(1) > 0, "up", "down"),
    }
)
PETS = {f"{c}/{i}.png": picture(seed=i) for c in ("cat", "dog") for i in range(3)}


def parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def ipc(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return buffer.getvalue()


def lines(table: pa.Table) -> bytes:
    return "\n".join(map(json.dumps, table.to_pylist())).encode()


def put(admin: httpx.Client, name: str, content: bytes, **more: Any) -> httpx.Response:
    kind = {"content-type": more.pop("type", "application/octet-stream")}
    params = {"name": name, **more}
    return admin.post("/api/datasets", params=params, content=content, headers=kind)


@pytest.mark.parametrize(
    ("format", "content", "type"),
    [
        ("parquet", parquet(TABLE), "application/octet-stream"),
        ("arrow", ipc(TABLE), "application/vnd.apache.arrow.stream"),
        ("jsonl", lines(TABLE), "application/x-ndjson"),
    ],
)
def test_tables_of_other_formats(
    admin: httpx.Client, format: str, content: bytes, type: str
) -> None:
    """They are known by type or bytes; the digest is that of what was uploaded."""
    answer = put(admin, f"data-{format}", content, type=type)
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert (body["format"], body["rows"], body["bytes"]) == (format, 120, len(content))
    kinds = {c["name"]: c["kind"] for c in body["columns"]}
    assert kinds == {"u": "float", "v": "float", "day": "integer", "label": "string"}
    assert put(admin, f"data-{format}", content, type=type).status_code == 200


@pytest.mark.parametrize(("pack", "format"), [(zipped, "zip"), (tarred, "tar")])
def test_images_in_class_folders(admin: httpx.Client, pack: Any, format: str) -> None:
    """An archive is known by its bytes; broken files are refused, or skipped on demand."""
    body = put(admin, f"data-pets-{format}", pack(PETS)).json()
    assert (body["format"], body["rows"]) == (format, 6)
    assert body["columns"][0]["shape"] == [6, 8, 3]
    broken = pack(PETS | {"cat/bad.png": b"no"})
    refused(put(admin, "data-no", broken), 400, "invalid_data", "files.cat/bad.png")
    body = put(admin, f"data-pets-{format}", broken, on_error="skip").json()
    assert (body["version"], body["rows"], body["skipped"]) == (2, 6, ["cat/bad.png"])
    refused(put(admin, "data-no", pack({"../x.png": b""})), 400, "invalid_data", "files.../x.png")
    refused(admin.get("/api/datasets/data-no"), 404, "not_found", "data")


def test_the_same_bytes_read_otherwise_are_another_version(admin: httpx.Client) -> None:
    """Options of reading are part of what a version is."""
    content = ("a,b\n" + "1,2\n" * 300 + "3,x\n").encode()
    refused(put(admin, "data-ways", content, type="text/csv"), 400, "invalid_data", "columns.b")
    text = put(admin, "data-ways", content, type="text/csv", kinds="b:string").json()
    gaps = put(admin, "data-ways", content, type="text/csv", missing="x").json()
    assert (text["version"], gaps["version"]) == (1, 2)
    assert text["digest"] == gaps["digest"]
    assert [c["kind"] for c in (text["columns"][1], gaps["columns"][1])] == ["string", "integer"]
    assert (text["options"], gaps["options"]) == ({"kinds": {"b": "string"}}, {"missing": ["x"]})
    again = put(admin, "data-ways", content, type="text/csv", missing="x")
    assert (again.status_code, again.json()["version"]) == (200, 2)
    latin = "größe,b\n1,é\n".encode("latin-1")
    refused(put(admin, "data-ways", latin, type="text/csv"), 400, "invalid_data", "line 1")
    body = put(admin, "data-ways", latin, type="text/csv", encoding="latin-1").json()
    assert body["columns"][0]["name"] == "größe"


@pytest.mark.parametrize(
    ("option", "field"),
    [
        ({"kinds": "a:word"}, "kinds.a"),
        ({"encoding": "x"}, "encoding"),
        ({"kinds": "z:float"}, "kinds.z"),
    ],
)
def test_a_bad_option_is_refused(admin: httpx.Client, option: JSON, field: str) -> None:
    """By name, and nothing is kept."""
    answer = put(admin, "data-odd", b"a,b\n1,2\n", type="text/csv", **option)
    refused(answer, 400, "invalid_field", field)
    refused(admin.get("/api/datasets/data-odd"), 404, "not_found", "data")


def test_training_keeps_its_split_in_the_lineage(admin: httpx.Client) -> None:
    """A split by group: the column is no input, and the version says how it was split."""
    put(admin, "data-groups", parquet(TABLE))
    spec = {"model_name": "data-groups", "data": "data-groups", "recipe": "linear", "epochs": 2}
    split = {"by": "group", "column": "day", "seed": 4}
    succeeded(admin, start(admin, "train", **spec, split=split))
    version = get(admin, "/api/models/data-groups/versions/1")
    assert version["lineage"]["split"] == {**split, "ratios": [0.7, 0.15, 0.15]}
    assert version["signature"]["inputs"][0]["shape"] == [-1, 2]
    for bad, field in (
        ({"by": "time"}, "split.column"), ({"by": "time", "column": "z"}, "split.column"),
        ({"by": "luck"}, "split.by"),
    ):  # fmt: skip
        body = {"kind": "train", "spec": {**spec, "split": bad}}
        refused(admin.post("/api/jobs", json=body), 400, "invalid_field", field)


def test_formats_by_name(admin: httpx.Client) -> None:
    """`format` wins over the type; TSV has tabs."""
    answer = admin.post(
        "/api/datasets?name=data-tsv&format=tsv", content=b"a\tb\n1\tx,y\n", headers=CSV
    )
    assert [c["name"] for c in answer.json()["columns"]] == ["a", "b"]
