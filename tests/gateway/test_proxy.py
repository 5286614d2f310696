"""What is not the data plane's goes to control as it is, and comes back as it is."""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from gateway.rig import until
from meuse.core.errors import Code, MeuseError
from meuse.gateway.control_proxy import ControlProxy

if TYPE_CHECKING:
    from gateway.conftest import Platform

UPLOAD = 2 * 1024 * 1024
MODEL = 4 * 1024 * 1024


@pytest.fixture(scope="module")
def proxied(platform: Platform) -> Iterator[Platform]:
    """The platform with something behind `control.sock`."""
    path = platform.rig.sockets / "control.sock"
    script = Path(__file__).parent / "run_control.py"
    process = subprocess.Popen([sys.executable, str(script), str(path)])
    until(path.exists)
    until(lambda: platform.http.get("/api/x").status_code == 201)
    yield platform
    process.kill()
    process.wait()
    path.unlink()


def test_requests_pass_unchanged(proxied: Platform) -> None:
    """Method, undecoded path, query, headers and body; hop-by-hop headers stay behind."""
    answer = proxied.http.request(
        "PUT",
        "/api/models/a%2Fb/x?y=1&z=%20",
        content=b"body",
        headers={"connection": "keep-alive, x-mine", "x-mine": "1", "te": "trailers", "x-a": "b"},
    )
    body = answer.json()
    assert (answer.status_code, body["method"], body["size"]) == (201, "PUT", 4)
    assert (body["path"], body["query"]) == ("/api/models/a%2Fb/x", "y=1&z=%20")
    headers = body["headers"]
    assert headers["authorization"] == f"Bearer {proxied.key}"
    assert headers["x-a"] == "b"
    assert not {"x-mine", "te"} & set(headers)
    assert headers["x-request-id"] == answer.headers["x-request-id"]
    assert "x-private" not in answer.headers


def test_bodies_stream(proxied: Platform) -> None:
    """Uploads larger than an inference body arrive whole, with and without a length."""
    data = bytes(range(256)) * (UPLOAD // 256)
    expected = hashlib.sha256(data).hexdigest()
    parts = [data[i : i + 65536] for i in range(0, len(data), 65536)]
    for content in (data, iter(parts)):
        answer = proxied.http.post("/api/datasets?name=x", content=content).json()
        assert (answer["size"], answer["sha256"]) == (len(data), expected)


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize(("path", "most"), [("datasets", UPLOAD), ("models/m/versions", MODEL)])
def test_uploads_are_limited(proxied: Platform, announced: bool, path: str, most: int) -> None:
    """One byte too many is 413, said or counted; models may be larger than other bodies."""
    data = b"x" * (most + 1)
    content: Any = data if announced else iter([data[:most], data[most:]])
    assert proxied.http.post(f"/api/{path}", content=data[:most]).json()["size"] == most
    answer = proxied.http.post(f"/api/{path}", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert answer.json()["error"]["field"] == "body"


def test_events_come_one_by_one_and_leaving_is_noticed(proxied: Platform) -> None:
    """A first event arrives while the stream is open; control learns that the client left."""
    before = proxied.http.get("/api/x").json()["left"]
    with proxied.http.stream("GET", "/api/events") as stream:
        assert next(stream.iter_raw()) == b"data: 1\n\n"
    until(lambda: proxied.http.get("/api/x").json()["left"] == before + 1)


@pytest.mark.parametrize("target", [b"*", b"/x\xe9", b"/x?\xff", b"/x?\x7f", b"/" + b"a" * 70_000])
def test_a_path_that_no_url_has_is_refused(target: bytes) -> None:
    """It is the caller's mistake, whatever the HTTP parser before us lets through."""
    path, _, query = target.partition(b"?")
    scope = {"method": "GET", "headers": [], "raw_path": path, "query_string": query}

    async def ask() -> None:
        async def unused(*_: Any) -> Any:
            raise AssertionError

        proxy = ControlProxy(Path("/nonexistent.sock"), 1, 1)
        try:
            await proxy(scope, unused, unused, "id")
        finally:
            await proxy.close()

    with pytest.raises(MeuseError) as caught:
        asyncio.run(ask())
    assert (caught.value.code, caught.value.field) == (Code.INVALID_REQUEST, "path")
    assert caught.value.hint


def test_a_request_for_no_path_is_refused(platform: Platform) -> None:
    """`OPTIONS *` needs no key, and is 400 rather than our fault."""
    with socket.create_connection(("127.0.0.1", platform.worker.port), 5) as connection:
        connection.sendall(b"OPTIONS * HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        with connection.makefile("rb") as answer:
            assert answer.readline().split()[1] == b"400"
            body = answer.read().split(b"\r\n\r\n")[1]
    assert json.loads(body)["error"]["code"] == "invalid_request"


def test_an_early_answer_arrives(proxied: Platform) -> None:
    """Control may refuse before it has read the body."""
    answer = proxied.http.post("/api/early", content=b"x" * 500_000)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
