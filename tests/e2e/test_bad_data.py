"""Bad data, training that cannot work, and the gate: told precisely, nothing half-written."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import httpx
import numpy as np
import pytest

from e2e.conftest import Digits
from e2e.helpers import (
    CSV,
    JSON,
    NPZ,
    csv_bytes,
    ended,
    get,
    npz_bytes,
    ready,
    refused,
    start,
    succeeded,
    upload,
)

NAMES = ["", "Upper", "-dash", "a b", "ä", "a" * 64, "a\n", "../a", "a/b"]
ZEROS = 560 << 20  # more than a table may have, unpacked


def bomb() -> bytes:
    """An NPZ of little more than half a megabyte that would unpack to more than half a gigabyte."""
    file = io.BytesIO()
    piece = bytes(8 << 20)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        header = io.BytesIO()
        layout = {"descr": "<f4", "fortran_order": False, "shape": (ZEROS // 4,)}
        np.lib.format.write_array_header_1_0(header, layout)
        with archive.open("x.npy", "w") as entry:
            entry.write(header.getvalue())
            for _ in range(ZEROS // len(piece)):
                entry.write(piece)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "field"),
    [
        (b"", "line 1"),
        (b"\n\n", "line 1"),
        (b"a,b\n", "line 2"),
        (b"a,b\n1,2\n3\n", "line 3"),
        (b"a,b\n1,2\n3,4,5\n", "line 3"),
        (b"a,\n1,2\n", "line 1"),
        (b"a,a\n1,2\n", "line 1"),
        (b'a,b\n"1,2\n', "line 2"),
        (b"a,b\n1,\xff\n", "line 2"),
    ],
)
def test_csv_that_is_no_table(admin: httpx.Client, content: bytes, field: str) -> None:
    """CSV that is empty, ragged, without rows or not text is refused with its line."""
    answer = admin.post("/api/datasets?name=no-table", content=content, headers=CSV)
    refused(answer, 400, "invalid_data", field)
    refused(admin.get("/api/datasets/no-table"), 404, "not_found", "data")


@pytest.mark.parametrize(
    ("arrays", "field"),
    [
        ({"x": np.zeros((3, 2)), "y": np.zeros(4)}, "columns.y"),
        ({"x": np.zeros((0, 2))}, "columns.x"),
        ({"x": np.array(5.0)}, "columns.x"),
        ({"x": np.zeros(3, np.complex64)}, "columns.x"),
        ({"x": np.array([{"a": 1}], object)}, "columns.x"),
    ],
)
def test_npz_that_is_no_table(admin: httpx.Client, arrays: Any, field: str) -> None:
    """NPZ of unequal lengths, without rows, of odd types or of pickles is refused by array."""
    answer = admin.post("/api/datasets?name=no-table", content=npz_bytes(**arrays), headers=NPZ)
    error = refused(answer, 400, "invalid_data", field)
    if "object" in str(arrays):
        assert "pickle" in error["message"]
    refused(admin.get("/api/datasets/no-table"), 404, "not_found", "data")


def test_archives_that_are_no_npz(admin: httpx.Client, digits: Digits) -> None:
    """A file that is no archive, a cut one and one of other files are refused."""
    whole = npz_bytes(x=np.zeros(9), y=np.zeros(9))
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x.npy", b"\x80\x04pickled")
    for content, field in (
        (b"", "body"), (b"x" * 99, "body"), (whole[:-30], "body"), (other.getvalue(), "columns.x"),
    ):  # fmt: skip
        answer = admin.post("/api/datasets?name=no-table", content=content, headers=NPZ)
        refused(answer, 400, "invalid_data", field)


def test_a_zip_bomb_is_not_unpacked(admin: httpx.Client) -> None:
    """An NPZ within the upload limit that unpacks to more than a table may have answers 413."""
    content = bomb()
    answer = admin.post("/api/datasets?name=bomb", content=content, headers=NPZ)
    refused(answer, 413, "too_large", "body")
    refused(admin.get("/api/datasets/bomb"), 404, "not_found", "data")


def test_uploads_that_say_not_what_they_are(admin: httpx.Client) -> None:
    """An upload without a name, of an unknown type, or a form without a file is refused."""
    rows = csv_bytes(["a", "b"], [[1, 2]])
    refused(admin.post("/api/datasets", content=rows, headers=CSV), 400, "invalid_field", "name")
    for name in NAMES:
        answer = admin.post("/api/datasets", params={"name": name}, content=rows, headers=CSV)
        refused(answer, 400, "invalid_field", "name")
    path = "/api/datasets?name=odd"
    answer = admin.post(f"{path}&format=xlsx", content=rows)
    refused(answer, 400, "invalid_field", "format")
    answer = admin.post(path, content=rows, headers={"content-type": "application/json"})
    refused(answer, 415, "unsupported_media_type", "Content-Type")
    answer = admin.post(path, files={"note": (None, b"text")})
    refused(answer, 400, "invalid_field", "file")
    answer = admin.post(path, content=rows, headers={"content-type": "multipart/form-data"})
    refused(answer, 400, "invalid_request", "body")
    refused(admin.get("/api/datasets/odd"), 404, "not_found", "data")


def _table(rows: list[list[Any]]) -> bytes:
    good = [[i, i * i % 7, i % 2] for i in range(30)]
    return csv_bytes(["u", "v", "label"], [*good, *rows])


BAD_TABLES: dict[str, tuple[bytes, JSON, str]] = {
    "nan-feature": (
        _table([["nan", 1, 0]]),
        {"prepare": {"columns": {"u": {"missing": "refuse"}}}},
        "columns.u",
    ),
    "texts": (_table([[f"t{i}", 1, i % 2] for i in range(300)]), {}, "columns.u"),
    "no-label": (_table([[1, 1, ""]]), {}, "target"),
    "rare-class": (_table([[1, 1, 9]]), {}, "target"),
    "fractions": (_table([[1, 1, 0.5]]), {"task": "classification"}, "target"),
    "one-column": (csv_bytes(["a"], [[1], [2]]), {}, "columns"),
}


@pytest.fixture(scope="module")
def failed(admin: httpx.Client) -> dict[str, JSON]:
    """One job for each bad table, after all have ended."""
    jobs = {}
    for name, (content, more, _) in BAD_TABLES.items():
        upload(admin, f"bad-{name}", content)
        jobs[name] = start(admin, "train", model_name="never", data=f"bad-{name}", **more)
    return {name: ended(admin, job_id, timeout_s=90) for name, job_id in jobs.items()}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_data_that_cannot_train(admin: httpx.Client, failed: dict[str, JSON], name: str) -> None:
    """Training on data that cannot be learned fails with the column at fault, and no version."""
    job, field = failed[name], BAD_TABLES[name][2]
    assert (job["status"], job["result"]) == ("failed", None)
    error = job["error"]
    assert (error["code"], error["field"]) == ("invalid_data", field), error
    assert error["hint"]
    refused(admin.get("/api/models/never"), 404, "not_found", "model")


@pytest.fixture(scope="module")
def heavy(admin: httpx.Client) -> JSON:
    """A linear model of a noise-free sum, on data that int8 must hurt: one feature's scale is
    set by a few rows many orders of magnitude above the others."""
    random = np.random.default_rng(0)
    x = random.normal(size=(2000, 5))
    tail = random.standard_cauchy(size=(2000, 1)) * 1e3
    table = npz_bytes(x=np.hstack([x, tail]).astype(np.float32), y=x.sum(1).astype(np.float32))
    upload(admin, "heavy", table, NPZ)
    spec = {"model_name": "heavy", "data": "heavy", "recipe": "linear"}
    return succeeded(admin, start(admin, "train", **spec, epochs=15))


@pytest.mark.parametrize(
    ("goal", "field", "number"),
    [
        ({"max_bytes": 1000}, "goal.max_bytes", "1,000"),
        ({"max_latency_ms": 1e-6}, "goal.max_latency_ms", "1e-06"),
    ],
)
def test_the_gate_holds_size_and_latency(
    admin: httpx.Client, compressed: JSON, goal: JSON, field: str, number: str
) -> None:
    """A child over its goal's size or latency is refused with the numbers, and not kept."""
    _is_refused(admin, "digits:1", goal, field, number)


def test_the_gate_holds_quality(admin: httpx.Client, heavy: JSON) -> None:
    """A child that loses more than the goal allows is refused with the numbers, and not kept."""
    assert heavy["metrics"]["test_r2"] > 0.9999
    job = _is_refused(admin, "heavy:1", {"max_drop": 1e-5}, "goal.max_drop", "1e-05")
    assert "r2 fell by 0.0" in job["error"]["message"]
    assert "300 rows" in job["error"]["message"]


def _is_refused(admin: httpx.Client, model: str, goal: JSON, field: str, number: str) -> JSON:
    name = model.partition(":")[0]
    before = get(admin, f"/api/models/{name}")
    job = ended(admin, start(admin, "compress", model=model, goal=goal))
    assert job["status"] == "failed"
    error = job["error"]
    assert (error["code"], error["field"]) == ("gate_refused", field), error
    report = get(admin, f"/api/jobs/{job['id']}/report")
    assert report == job["result"]["report"]
    assert (report["verdict"]["passed"], report["verdict"]["field"]) == (False, field)
    assert report["after"]["p50_ms"] > 0
    assert number in error["message"]
    assert get(admin, f"/api/models/{name}") == before
    return job


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"goal": {"max_drop": -0.1}}, "goal.max_drop"),
        ({"goal": {"max_drop": 2}}, "goal.max_drop"),
        ({"goal": {"max_bytes": 0}}, "goal.max_bytes"),
        ({"goal": {"max_latency_ms": 0}}, "goal.max_latency_ms"),
        ({"goal": {"max_size": 1}}, "goal.max_size"),
        ({"goal": 0.01}, "goal"),
        ({"steps": []}, "steps"),
        ({"steps": [{"method": "shrink"}]}, "steps.0.method"),
        ({"steps": [{"method": "quantize"}] * 2}, "steps.1.method"),
        ({"model": "digits"}, "model"),
        ({"model": None}, "model"),
        ({"model_name": "x"}, "model_name"),
        ({"data": "digits:x"}, "data"),
    ],
)
def test_compress_names_the_bad_field(
    admin: httpx.Client, trained: JSON, change: JSON, field: str
) -> None:
    """A bad field of a compress job is refused by name, and no job is made."""
    spec = {"model": "digits:1", **change}
    answer = admin.post("/api/jobs", json={"kind": "compress", "spec": spec})
    refused(answer, 400, "invalid_field", field)


def test_a_model_is_not_compressed_on_other_data(
    admin: httpx.Client, trained: JSON, heavy: JSON
) -> None:
    """Compressing against a dataset without the model's columns fails, and keeps nothing."""
    before = get(admin, "/api/models/digits")
    job = ended(admin, start(admin, "compress", model="digits:1", data="heavy"))
    assert (job["status"], job["result"]) == ("failed", None)
    assert (job["error"]["code"], job["error"]["field"]) == ("invalid_field", "target")
    assert get(admin, "/api/models/digits") == before


def test_the_server_still_works(admin: httpx.Client, digits: Digits) -> None:
    """After all of this the platform trains, deploys and predicts."""
    rows = [[*row, label] for row, label in zip(digits.rows, digits.labels, strict=True)][:300]
    upload(admin, "after", csv_bytes([*(f"p{i}" for i in range(64)), "digit"], rows))
    spec = {"model_name": "after", "data": "after", "epochs": 3, "deploy": True}
    done = succeeded(admin, start(admin, "train", **spec))
    assert done["deployment"] == "after"
    ready(admin, "after")
    answer = admin.post("/predictions/after", json=digits.rows[:3])
    assert (answer.status_code, answer.json()["model"]) == (200, "after:1")
