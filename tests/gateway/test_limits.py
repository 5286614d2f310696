"""Body limits hold while reading, whatever Content-Length says."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from gateway.conftest import Platform

LIMIT = 1024 * 1024


def talk(platform: Platform, headers: list[str], chunks: list[bytes]) -> tuple[int, dict[str, str]]:
    """Send by hand until the server closes or answers; status and error."""
    with socket.create_connection(("127.0.0.1", platform.worker.port), 5) as connection:
        connection.settimeout(5)
        head = ["POST /predict HTTP/1.1", "host: x", f"authorization: Bearer {platform.key}"]
        connection.sendall("\r\n".join([*head, *headers, "", ""]).encode())
        for chunk in chunks:
            connection.sendall(chunk)
        answer = b""
        while b"\r\n\r\n" not in answer or not answer.endswith(b"}"):
            part = connection.recv(1 << 16)
            assert part, answer
            answer += part
        return int(answer.split()[1]), json.loads(answer.split(b"\r\n\r\n")[1])["error"]


def test_an_announced_size_is_refused_unread(platform: Platform) -> None:
    """No byte of the body need be sent."""
    status, error = talk(platform, [f"content-length: {LIMIT + 1}"], [])
    assert (status, error["code"], error["field"]) == (413, "too_large", "body")


def test_a_chunked_body_is_refused_on_the_way(platform: Platform) -> None:
    """Without Content-Length the bytes are counted; the answer arrives mid-body."""
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    status, error = talk(platform, ["transfer-encoding: chunked"], [chunk] * 17)
    assert (status, error["code"]) == (413, "too_large")


def test_a_large_body_is_not_held(platform: Platform) -> None:
    """Many times the limit leaves the worker's memory as it was."""
    before = platform.worker.rss_mb()
    chunk = b"%x\r\n" % 65536 + b" " * 65536 + b"\r\n"
    for _ in range(3):
        talk(platform, ["transfer-encoding: chunked"], [chunk] * 480)
    assert platform.worker.rss_mb() - before < 20


def test_a_body_at_the_limit_is_read(platform: Platform) -> None:
    """Exactly max_body_bytes are accepted, one more is not."""
    body = b'{"model":"double","input_data":[[1,2]]}'
    padded = body + b" " * (LIMIT - len(body))
    assert platform.http.post("/predict", content=padded).status_code == 200
    answer = platform.http.post("/predict", content=padded + b" ")
    assert (answer.status_code, answer.json()["error"]["field"]) == (413, "body")


def test_a_client_that_leaves_mid_body_costs_nothing(platform: Platform) -> None:
    """No record, no error, and the worker goes on."""
    before = len(platform.rig.records())
    with socket.create_connection(("127.0.0.1", platform.worker.port), 5) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 500\r\n"
            + f"authorization: Bearer {platform.key}\r\n\r\n".encode()
            + b'{"model":'
        )
    time.sleep(0.05)
    assert platform.http.get("/health/ready").status_code == 200
    assert len(platform.rig.records()) == before


@pytest.mark.parametrize("rows", [1, 100, 3000])
def test_many_rows_in_one_request(platform: Platform, rows: int) -> None:
    """More rows than a batch holds run as one request."""
    body = {"model": "double", "input_data": [[i, 1] for i in range(rows)]}
    answer = platform.http.post("/predict", json=body).json()
    assert answer["output_data"] == [[2.0 * i, 2.0] for i in range(rows)]


def test_a_worker_is_small(platform: Platform) -> None:
    """At most 100 MB resident after all the tests above."""
    rss = platform.worker.rss_mb()
    print(f"worker RSS {rss:.0f} MB")
    assert rss <= 100


def test_the_gateway_imports_no_heavy_library() -> None:
    """Neither directly nor through others: no database, no web framework, no engine."""
    script = (
        "import sys, meuse.gateway.worker\n"
        "heavy = {'sqlalchemy', 'fastapi', 'pydantic', 'torch', 'onnxruntime', 'onnx'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    source = Path(__file__).resolve().parents[2] / "src"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(source)},
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
