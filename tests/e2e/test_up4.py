"""Datasets in parts, by jobs, their profiles and their end, through the public API."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from e2e.conftest import MAX_UPLOAD, Digits, Platform
from e2e.helpers import CSV, JSON, csv_bytes, ended, get, refused, start, succeeded, upload
from meuse.client import Client

ROOT = "/api/datasets/uploads"
MEUSE = Path(sys.executable).with_name("meuse")


@pytest.fixture(scope="module")
def large() -> bytes:
    """A CSV that is larger than one request may be, in three parts."""
    random = np.random.default_rng(4)
    numbers = random.normal(size=(60_000, 6))
    lines = [",".join(f"{v:.9f}" for v in row) + f",{i % 3}" for i, row in enumerate(numbers)]
    made = ("a,b,c,d,e,f,label\n" + "\n".join(lines) + "\n").encode()
    assert 2 * MAX_UPLOAD < len(made) < 3 * MAX_UPLOAD
    return made


@pytest.fixture(scope="module")
def tenant(platform: Platform, admin: httpx.Client) -> Callable[[str], httpx.Client]:
    """A client of a new tenant, with the scopes of data and training."""

    def tenant(name: str) -> httpx.Client:
        admin.put(f"/api/tenants/{name}", json={}).raise_for_status()
        return platform.client(platform.key("data", "train", tenant=name))

    return tenant


def begin(client: httpx.Client, name: str, content: bytes, **more: Any) -> JSON:
    body = {"name": name, "bytes": len(content), "format": "csv", **more}
    response = client.post(ROOT, json=body)
    assert response.status_code in (200, 201), response.text
    made: JSON = response.json()
    return made


def piece(content: bytes, upload_: JSON, number: int) -> bytes:
    size = upload_["part_size"]
    return content[(number - 1) * size : number * size]


def put(client: httpx.Client, upload_: JSON, number: int, content: bytes, **headers: str) -> Any:
    where = f"{ROOT}/{upload_['id']}/parts/{number}"
    return client.put(where, content=content, headers=headers)


def digest_of(content: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


def test_up4_parts_in_any_order_make_a_version(admin: httpx.Client, large: bytes) -> None:
    """Parts come in any order and twice; missing ones are named; the version has the bytes."""
    digest = hashlib.sha256(large).hexdigest()
    made = begin(admin, "up4-parts", large, sha256=digest, missing="NA")
    assert (made["part_size"], made["part_count"]) == (MAX_UPLOAD, 3)
    for number in (3, 1, 1):
        content = piece(large, made, number)
        done = put(admin, made, number, content, **{"content-digest": digest_of(content)})
        assert done.status_code == 200, done.text
        assert done.json()["sha256"] == hashlib.sha256(content).hexdigest()
    error = refused(admin.post(f"{ROOT}/{made['id']}/complete"), 409, "conflict", "parts")
    assert error["message"].endswith(": 2")
    again = begin(admin, "up4-parts", large, sha256=digest, missing="NA")
    assert again["id"] == made["id"]  # the way to go on without keeping the id
    assert [part["number"] for part in again["parts"]] == [1, 3]
    put(admin, made, 2, piece(large, made, 2)).raise_for_status()
    done = admin.post(f"{ROOT}/{made['id']}/complete")
    assert done.status_code == 201, done.text
    version = done.json()
    assert (version["digest"], version["rows"]) == (digest, 60_000)
    assert version["options"] == {"missing": ["NA"]}
    refused(admin.get(f"{ROOT}/{made['id']}"), 404, "not_found", "upload")


def test_up4_complete_by_a_job(platform: Platform, admin: httpx.Client, large: bytes) -> None:
    """With async=true a job reads the parts, its progress shows in the upload, and its profile
    is there at once; a second complete is the same job."""
    made = begin(admin, "up4-job", large)
    for number in (1, 2, 3):
        put(admin, made, number, piece(large, made, number)).raise_for_status()
    first = admin.post(f"{ROOT}/{made['id']}/complete", params={"async": "true"})
    second = admin.post(f"{ROOT}/{made['id']}/complete", params={"async": "true"})
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]
    refused(put(admin, made, 1, b"x"), 409, "conflict", "upload")
    result = succeeded(admin, first.json()["id"])
    assert (result["data"], result["rows"], result["new"]) == ("up4-job:1", 60_000, True)
    job = get(admin, f"/api/jobs/{first.json()['id']}")
    assert (job["metrics"]["rows"], job["metrics"]["bytes"]) == (60_000, len(large))
    data_only = platform.client(platform.key("data"))
    seen = get(data_only, f"{ROOT}/{made['id']}")
    assert (seen["status"], seen["job"]["result"]["data"]) == ("succeeded", "up4-job:1")
    assert seen["parts"] == []
    assert get(admin, "/api/datasets/up4-job/versions/1/profile")["rows"] == 60_000
    assert admin.delete(f"{ROOT}/{made['id']}").status_code == 204


def test_up4_a_raw_body_by_a_job(admin: httpx.Client) -> None:
    """async=true answers 202 with the id of an ingest job; equal bytes give the same version;
    a file that is no table fails the job with its line, and nothing is kept."""
    rows = csv_bytes(["a", "b"], [[i, i % 2] for i in range(50)])
    params = {"name": "up4-later", "async": "true"}
    for new in (True, False):
        answer = admin.post("/api/datasets", params=params, content=rows, headers=CSV)
        assert answer.status_code == 202, answer.text
        result = succeeded(admin, answer.json()["id"])
        assert (result["data"], result["new"]) == ("up4-later:1", new)
    params["name"] = "up4-bad"
    answer = admin.post("/api/datasets", params=params, content=rows + b"1,2,3\n", headers=CSV)
    error = ended(admin, answer.json()["id"])["error"]
    assert (error["code"], error["field"]) == ("invalid_data", "line 52")
    refused(admin.get("/api/datasets/up4-bad"), 404, "not_found", "data")


def test_up4_formats_and_options_in_one_request(admin: httpx.Client) -> None:
    """Parquet by its bytes, JSON lines by name, a form with a file; options of reading."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.table({"zip": ["01", "02"], "y": [1, 2]}), sink)
    octets = {"content-type": "application/octet-stream"}
    assert upload(admin, "up4-parquet", sink.getvalue(), octets)["format"] == "parquet"
    lines = b'{"zip": 1, "y": 2}\n{"zip": null, "y": 3}\n'
    answer = admin.post(
        "/api/datasets",
        params={"name": "up4-jsonl", "kinds": "zip:string", "format": "jsonl"},
        content=lines,
    )
    assert answer.json()["columns"][0]["kind"] == "string", answer.text
    form = {"file": ("t.tsv", b"a\tb\n1\t-\n2\t3\n")}
    answer = admin.post("/api/datasets", params={"name": "up4-form", "missing": "-"}, files=form)
    made = answer.json()
    assert (made["format"], made["columns"][1]["missing"]) == ("tsv", 1)


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"bytes": 0}, 400, "invalid_field", "bytes"),
        ({"bytes": "many"}, 400, "invalid_field", "bytes"),
        ({"bytes": 1 << 50}, 413, "too_large", "bytes"),
        ({"name": "No Name"}, 400, "invalid_field", "name"),
        ({"format": "xls"}, 400, "invalid_field", "format"),
        ({"sha256": "ABC"}, 400, "invalid_field", "sha256"),
        ({"kinds": {"a": "date"}}, 400, "invalid_field", "kinds.a"),
        ({"parts": 3}, 400, "invalid_field", "parts"),
    ],
)
def test_up4_announcements_that_cannot_be(
    admin: httpx.Client, change: JSON, status: int, code: str, field: str
) -> None:
    """A wrong field of a new upload is named."""
    body = {"name": "up4-never", "bytes": 100, **change}
    refused(admin.post(ROOT, json=body), status, code, field)


def test_up4_parts_that_are_not_right(
    platform: Platform, admin: httpx.Client, tenant: Callable[[str], httpx.Client]
) -> None:
    """A part of a wrong size, number or digest is refused and not kept; a whole whose digest is
    another is refused when completed; another tenant sees nothing of it."""
    content = b"a,b\n" + b"1,2\n" * 100
    made = begin(admin, "up4-wrong", content, sha256="0" * 64)
    where = f"{ROOT}/{made['id']}"
    refused(put(admin, made, 2, content), 400, "invalid_field", "part")
    refused(put(admin, made, 0, content), 400, "invalid_field", "part")
    refused(put(admin, made, 1, content[:-1]), 400, "invalid_request", "body")
    refused(put(admin, made, 1, content + b"x"), 413, "too_large", "body")
    wrong = {"content-digest": digest_of(b"other")}
    refused(put(admin, made, 1, content, **wrong), 400, "invalid_request", "Content-Digest")
    wrong = {"content-digest": "md5=:abc:"}
    refused(put(admin, made, 1, content, **wrong), 400, "invalid_field", "Content-Digest")
    assert get(admin, where)["parts"] == []
    put(admin, made, 1, content).raise_for_status()
    refused(admin.post(f"{where}/complete"), 400, "invalid_data", "sha256")
    refused(admin.get("/api/datasets/up4-wrong"), 404, "not_found", "data")
    other = tenant("up4-other")
    for answer in (
        other.get(where), other.delete(where), other.post(f"{where}/complete"),
        put(other, made, 1, content),
    ):  # fmt: skip
        refused(answer, 404, "not_found", "upload")
    spec = {"kind": "ingest", "spec": {"upload": made["id"]}}
    refused(other.post("/api/jobs", json=spec), 404, "not_found", "upload")
    no_data = platform.client(platform.key("train"))
    refused(no_data.post("/api/jobs", json=spec), 403, "forbidden", "kind")
    assert admin.delete(where).status_code == 204
    assert not list((platform.home / "uploads").glob(f"{made['id']}*"))


def test_up4_open_uploads_are_bounded(tenant: Callable[[str], httpx.Client]) -> None:
    """A tenant has 16 open uploads at most; one that is deleted makes room."""
    client = tenant("up4-many")
    made = [begin(client, "up4-open", b"x" * (i + 1)) for i in range(16)]
    refused(client.post(ROOT, json={"name": "up4-open", "bytes": 99}), 409, "conflict", "upload")
    for one in made[:1]:
        client.delete(f"{ROOT}/{one['id']}").raise_for_status()
    made = [*made[1:], begin(client, "up4-open", b"xx")]
    for one in made:
        client.delete(f"{ROOT}/{one['id']}").raise_for_status()
    sizes = [{"name": "up4-open", "bytes": 15 << 30}] * 3
    answers = [client.post(ROOT, json=body) for body in sizes]
    refused(answers[2], 409, "conflict", "bytes")
    for answer in answers[:2]:
        client.delete(f"{ROOT}/{answer.json()['id']}").raise_for_status()


def test_up4_nothing_is_fetched_unless_allowed(admin: httpx.Client) -> None:
    """By default no URL is fetched; a URL that is none is refused by name."""
    for url in ("https://example.org/a.csv", "http://127.0.0.1:1/x"):
        answer = admin.post("/api/datasets", json={"name": "up4-url", "url": url})
        refused(answer, 403, "forbidden", "url")
    for url in ("file:///etc/passwd", "https://u:p@example.org/", "ftp://x/y", "", 5):
        answer = admin.post("/api/datasets", json={"name": "up4-url", "url": url})
        refused(answer, 400, "invalid_field", "url")
    refused(admin.post("/api/datasets", json={"name": "x"}), 400, "invalid_field", "url")


@pytest.fixture(scope="module")
def profiled(admin: httpx.Client) -> JSON:
    """A table with one of each: an id, dates, a constant, a leak, markup in names and values."""
    random = np.random.default_rng(0)
    label = random.integers(0, 2, 400)
    rows = [
        [1000 + i, f"2024-{i % 12 + 1:02}-03", 7, round(float(random.normal()), 3),
         f"<b>{'x' if i % 2 else 'y'}</b>", float(label[i]) * 2.5, int(label[i])]
        for i in range(400)
    ]  # fmt: skip
    header = ["customer_id", "day", "fixed", "noise", "<script>alert(1)</script>", "leak", "label"]
    return upload(admin, "up4-seen", csv_bytes(header, [*rows, *rows[:20]]))


def test_up4_a_profile_tells_what_to_look_at(admin: httpx.Client, profiled: JSON) -> None:
    """Counts, quantiles, classes, and each kind of suspicion; the same answer from the cache."""
    where = "/api/datasets/up4-seen/versions/1/profile"
    plain = get(admin, where)
    assert (plain["rows"], plain["ref"]) == (420, "up4-seen:1")
    assert (plain["duplicates"], plain["target"]) == (
        {"rows": 20, "share": 20 / 420, "exact": True}, None,
    )  # fmt: skip
    found = {(w["kind"], w["column"]) for w in plain["warnings"]}
    assert found == {
        ("duplicates", None), ("identifier", "customer_id"), ("date", "day"),
        ("constant", "fixed"),
    }  # fmt: skip
    seen = get(admin, where, target="label", split="ratio")
    assert seen["target"]["predicted_by"][0] == {"name": "leak", "score": 1.0}
    assert sum(entry["count"] for entry in seen["target"]["classes"]) == 420
    assert sum(seen["split"]["rows"].values()) == 420
    assert any(pair["rows"] for pair in seen["split"]["shared"])
    kinds = {w["kind"] for w in seen["warnings"]}
    assert {"leakage", "shared_rows"} <= kinds
    assert seen == get(admin, where, target="label", split='{"by": "ratio"}')
    assert plain == get(admin, where)


def test_up4_the_page_shows_and_escapes(admin: httpx.Client, profiled: JSON) -> None:
    """HTML by its address or by Accept: no script, nothing from elsewhere, texts escaped."""
    where = "/api/datasets/up4-seen/versions/1/profile"
    page = admin.get(f"{where}.html", params={"target": "label"})
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    text = page.text
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)" in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "<svg" in text
    assert "http" not in text.replace("http-equiv", "")
    by_accept = admin.get(where, params={"target": "label"}, headers={"accept": "text/html"})
    assert by_accept.text == text


@pytest.mark.parametrize(
    ("query", "code", "field"),
    [
        ({"target": "nothing"}, "invalid_field", "target"),
        ({"split": "ratio"}, "invalid_field", "target"),
        ({"target": "label", "split": "moon"}, "invalid_field", "split.by"),
        ({"target": "label", "split": "time"}, "invalid_field", "split.column"),
        ({"target": "label", "split": "time:nothing"}, "invalid_field", "split.column"),
        ({"target": "label", "split": "{"}, "invalid_field", "split"),
        ({"target": "fixed", "split": "ratio"}, "invalid_data", "target"),
    ],
)
def test_up4_questions_that_cannot_be_answered(
    admin: httpx.Client, profiled: JSON, query: JSON, code: str, field: str
) -> None:
    """A target or a split that the version has not is refused by name."""
    answer = admin.get("/api/datasets/up4-seen/versions/1/profile", params=query)
    refused(answer, 400, code, field)


@pytest.mark.slow
def test_up4_a_version_in_use_stays(
    admin: httpx.Client, tenant: Callable[[str], httpx.Client]
) -> None:
    """A version that a model came from answers 409 with it; another is gone, and its number is
    not given again."""
    rows = [[i, i * i % 7, i % 2] for i in range(40)]
    upload(admin, "up4-used", csv_bytes(["u", "v", "label"], rows))
    spec = {"model_name": "up4-model", "data": "up4-used", "recipe": "linear", "epochs": 1}
    succeeded(admin, start(admin, "train", **spec), 90)
    answer = admin.delete("/api/datasets/up4-used/versions/1")
    refused(answer, 409, "conflict", "version")
    assert answer.json()["users"] == ["model up4-model:1"]
    other = csv_bytes(["u", "v", "label"], rows[:20])
    assert upload(admin, "up4-used", other)["version"] == 2
    get(admin, "/api/datasets/up4-used/versions/2/profile")
    stranger = tenant("up4-stranger")
    gone = "/api/datasets/up4-used/versions/2"
    refused(stranger.delete(gone), 404, "not_found", "data")
    assert admin.delete(gone).status_code == 204
    refused(admin.get(gone), 404, "not_found", "data")
    refused(admin.get(f"{gone}/profile"), 404, "not_found", "data")
    refused(admin.delete(gone), 404, "not_found", "data")
    assert upload(admin, "up4-used", other)["version"] == 3


def _cli(platform: Platform, *words: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith("MEUSE_")}
    env |= {"MEUSE_URL": platform.url, "MEUSE_KEY": platform.admin_key}
    return subprocess.run(
        [str(MEUSE), "data", *words], env=env, capture_output=True, text=True, timeout=90,
        check=False,
    )  # fmt: skip


def test_up4_the_command_line_goes_on(
    platform: Platform, admin: httpx.Client, large: bytes, tmp_path: Path
) -> None:
    """A file in parts that was broken off: the command sends what is missing; then it profiles
    and deletes."""
    path = tmp_path / "Up4 Large.csv"
    path.write_bytes(large)
    sent: list[int] = []

    class StopError(Exception):
        pass

    def stop_after_one(done: int, total: int) -> None:
        sent.append(done)
        if done:
            raise StopError

    with Client(platform.url, platform.admin_key) as client, pytest.raises(StopError):
        client.upload_parts("up4-large", path, progress=stop_after_one)
    assert sent == [0, MAX_UPLOAD]
    with Client(platform.url, platform.admin_key) as client:
        rest: list[int] = []
        made = client.upload_parts("up4-large", path, progress=lambda done, _: rest.append(done))
    assert rest == [MAX_UPLOAD, 2 * MAX_UPLOAD, len(large)]
    assert made["rows"] == 60_000
    done = _cli(platform, str(path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("up4-large:1: 60,000 rows, 7 columns")
    done = _cli(platform, "up4-large", "--profile", "--target", "label")
    assert done.returncode == 0, done.stderr
    assert "label" in done.stdout
    assert "60,000 rows" in done.stdout
    told = json.loads(_cli(platform, "up4-large:1", "--delete", "--json").stdout)
    assert told["ref"] == "up4-large:1"
    assert _cli(platform, "up4-large").returncode == 1


def test_up4_images_have_a_profile(admin: httpx.Client, digits: Digits) -> None:
    """A zip of images in class folders: sizes, duplicates and classes."""
    import zipfile

    from PIL import Image

    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for i, (row, label) in enumerate(zip(digits.rows[:60], digits.labels[:60], strict=True)):
            picture = io.BytesIO()
            pixels = (np.array(row).reshape(8, 8) * 15).astype(np.uint8)
            Image.fromarray(pixels).resize((8 + i % 2, 8)).save(picture, "PNG")
            archive.writestr(f"{label}/{i}.png", picture.getvalue())
    made = upload(admin, "up4-images", file.getvalue(), {"content-type": "application/zip"})
    seen = get(admin, "/api/datasets/up4-images/versions/1/profile", target="label")
    image = next(c for c in seen["columns"] if c["kind"] == "image")["image"]
    assert (image["looked_at"], image["width"]) == (60, {"min": 8, "max": 9, "median": 8})
    assert made["rows"] == 60
    assert len(seen["target"]["classes"]) == 10
