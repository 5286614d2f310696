"""Fetching by URL: only from allowed hosts, to checked addresses, within bounds."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from meuse.core.errors import Code, MeuseError
from meuse.data import fetch as fetching
from meuse.data.fetch import fetch
from meuse.data.hosts import Host, allowed_address, check, parse

TABLE = b"a,b\n1,2\n" * 5000
asked: list[tuple[int, bool]] = []
"""Of files that break off: where each request began, and whether it meant the same file."""


class Site(BaseHTTPRequestHandler):
    """Answers by path; knows where it is."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        here = f"http://127.0.0.1:{self.server.server_address[1]}"  # type: ignore[str-bytes-safe]
        there = {
            "/moved": f"{here}/ok.csv", "/relative": "ok.csv", "/round": "/round",
            "/away": "http://localhost:1/ok.csv", "/file": "file:///etc/passwd",
            "/other-port": "http://127.0.0.1:1/ok.csv", "/nowhere": "",
        }.get(self.path)  # fmt: skip
        if there is not None:
            self.send_response(302)
            self.send_header("location", there)
            self.send_header("content-length", "0")
            self.end_headers()
        elif self.path == "/chunked":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for _ in range(3):
                self.wfile.write(f"{len(TABLE):x}\r\n".encode() + TABLE + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
        elif self.path.startswith("/ok.csv"):
            self._whole(TABLE, len(TABLE))
        elif self.path.startswith("/broken"):
            self._broken()
        elif self.path == "/short":
            self.close_connection = True
            self._whole(TABLE, len(TABLE) + 9)
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            for _ in range(100):
                self.wfile.write(b"x" * 1000)
                time.sleep(0.05)
        else:
            self.send_error(404)

    def _broken(self) -> None:
        """Breaks off in the middle whatever is asked from the start; gives the rest of it."""
        tag = self.path.rpartition("=")[2]
        start = int(self.headers.get("range", "bytes=0-")[6:-1])
        same = self.headers.get("if-range") == f'"{tag}"'
        if start and same and start >= len(TABLE):
            self.send_error(416)
            return
        if start and same:
            self.send_response(206)
            self.send_header("content-range", f"bytes {start}-{len(TABLE) - 1}/{len(TABLE)}")
            rest = TABLE[start:]
        else:
            self.send_response(200)
            rest = TABLE
        self.send_header("content-length", str(len(rest)))
        if tag:
            self.send_header("etag", f'"{tag}"')
        self.end_headers()
        self.close_connection = True
        asked.append((start, same))
        self.wfile.write(rest if start and same else rest[: len(TABLE) // 2])

    def _whole(self, body: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("content-length", str(length))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # clients that leave
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def get(port: int, path: str, out: Path, *, family: str = "@ipv4", **bounds: Any) -> str:
    allowed = parse(f"http://127.0.0.1:{port}{family}")
    limits = {"max_bytes": 1 << 20, "max_seconds": 20.0, **bounds}
    return fetch(f"http://127.0.0.1:{port}{path}", allowed, out, **limits)


@pytest.mark.parametrize("path", ["/ok.csv", "/ok.csv?x=%20y", "/moved", "/relative"])
def test_a_file_of_an_allowed_host_comes_whole(port: int, tmp_path: Path, path: str) -> None:
    """As it is, also by a redirect on the same host."""
    assert get(port, path, tmp_path / "f") == hashlib.sha256(TABLE).hexdigest()
    assert (tmp_path / "f").read_bytes() == TABLE


def test_progress_tells_bytes(port: int, tmp_path: Path) -> None:
    """So many of so many; of a chunked answer the end is not known."""
    seen: list[tuple[int, int | None]] = []
    get(port, "/ok.csv", tmp_path / "f", progress=lambda *said: seen.append(said))
    assert seen[-1] == (len(TABLE), len(TABLE))
    get(port, "/chunked", tmp_path / "f", progress=lambda *said: seen.append(said))
    assert seen[-1] == (3 * len(TABLE), None)


@pytest.mark.parametrize(
    ("path", "bounds", "code"),
    [
        ("/away", {}, Code.FORBIDDEN),
        ("/file", {}, Code.FORBIDDEN),
        ("/other-port", {}, Code.FORBIDDEN),
        ("/round", {}, Code.UNAVAILABLE),
        ("/nothing", {}, Code.UNAVAILABLE),
        ("/short", {}, Code.UNAVAILABLE),
        ("/ok.csv", {"max_bytes": 100}, Code.TOO_LARGE),
        ("/chunked", {"max_bytes": 2 * len(TABLE)}, Code.TOO_LARGE),
        ("/slow", {"max_seconds": 0.2}, Code.DEADLINE_EXCEEDED),
        ("/ok.csv", {"family": ""}, Code.FORBIDDEN),
        ("/ok.csv", {"family": "@ipv6"}, Code.FORBIDDEN),
    ],
)
def test_what_is_not_allowed_is_refused(
    port: int, tmp_path: Path, path: str, bounds: Any, code: Code
) -> None:
    """Other hosts, schemes and ports, endless redirects, cut, large and slow answers, and an
    address that is not public unless its family is named."""
    with pytest.raises(MeuseError) as refusal:
        get(port, path, tmp_path / "f", **bounds)
    assert (refusal.value.code, refusal.value.field) == (code, "url")


def test_the_name_is_resolved_once(
    port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a name leads to later does not matter: the checked address is connected to."""
    asked: list[str] = []

    def resolve(name: str, port: int, **_: Any) -> list[Any]:
        asked.append(name)
        address = "127.0.0.1" if len(asked) == 1 else "127.9.9.9"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(fetching.socket, "getaddrinfo", resolve)
    allowed = parse(f"http://data.example:{port}@ipv4")
    url = f"http://data.example:{port}/relative"
    fetch(url, allowed, tmp_path / "f", max_bytes=1 << 20, max_seconds=20)
    assert asked == ["data.example"]
    with pytest.raises(MeuseError) as refusal:
        fetch(url, parse(f"http://data.example:{port}"), tmp_path / "f", max_bytes=9, max_seconds=9)
    assert "no public address" in refusal.value.message


@pytest.mark.parametrize(
    ("address", "family", "allowed"),
    [
        ("93.184.216.34", None, True), ("2606:2800:220:1::1", None, True),
        ("127.0.0.1", None, False), ("10.0.0.1", None, False), ("169.254.169.254", None, False),
        ("0.0.0.0", None, False), ("100.64.0.1", None, False), ("224.0.0.1", None, False),
        ("::1", None, False), ("fe80::1%eth0", None, False), ("fd00::1", None, False),
        ("::ffff:127.0.0.1", None, False), ("::ffff:10.0.0.1", 6, False),
        ("2002:7f00:1::", None, False), ("10.0.0.1", 4, True), ("10.0.0.1", 6, False),
        ("::1", 6, True), ("::ffff:10.0.0.1", 4, True),
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_need_their_family(
    address: str, family: int | None, allowed: bool
) -> None:
    """Loopback, private, link-local, shared and mapped ones, in both families."""
    assert allowed_address(Host("https", "x", 443, family), address) is allowed


def test_hosts_are_named_exactly() -> None:
    """Scheme, name and port must be the entry's; https and its port unless it says otherwise."""
    allowed = parse("data.example.org, http://files:8080@ipv4, https://[::1]:9443@ipv6")
    assert check("https://DATA.example.org/x?y=1", allowed).target == "/x?y=1"
    assert check("http://files:8080", allowed).target == "/"
    assert check("https://[::1]:9443/a#part", allowed).host.private == 6
    for url in (
        "http://data.example.org/x", "https://data.example.org:444/", "https://files:8080/",
        "https://data.example.org.evil.com/", "https://sub.data.example.org/", "http://files/",
    ):  # fmt: skip
        with pytest.raises(MeuseError) as refusal:
            check(url, allowed)
        assert refusal.value.code is Code.FORBIDDEN, url
    for url in ("https://u@data.example.org/", "https://data.example.org:x/", "data.csv",
                "https://data.example.org/a b", "https://data.example.org/\r\nx", None,
                "https://data.example.org/" + "x" * 5000, "https://[::1/x"):  # fmt: skip
        with pytest.raises(MeuseError) as refusal:
            check(url, allowed)
        assert refusal.value.code is Code.INVALID_FIELD, url
    for entry in ("ftp://x", "x:0", "x:99999", "x@ipv5", "*", "x/path", "a b"):
        with pytest.raises(MeuseError) as refusal:
            parse(entry)
        assert refusal.value.field == "data_allowed_hosts", entry


def go_on(port: int, tag: str, out: Path) -> str:
    return get(port, f"/broken?tag={tag}", out, resume=True)


def twice(port: int, out: Path, first: str, second: str) -> list[tuple[int, bool]]:
    """Fetch what breaks off in the middle, then again; what the second call asked for."""
    with pytest.raises(MeuseError, match="breaks off after 20,000"):
        go_on(port, first, out)
    asked.clear()
    if second != first or not first:  # from the start: it breaks off again
        with pytest.raises(MeuseError, match="breaks off after 20,000"):
            go_on(port, second, out)
        return asked
    assert go_on(port, second, out) == hashlib.sha256(TABLE).hexdigest()
    assert out.read_bytes() == TABLE
    return asked


def test_what_was_broken_off_goes_on_where_it_was(port: int, tmp_path: Path) -> None:
    assert twice(port, tmp_path / "a", "one", "one") == [(20_000, True)]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_another_file_or_one_without_a_mark_begins_anew(port: int, tmp_path: Path) -> None:
    assert twice(port, tmp_path / "a", "one", "two") == [(20_000, False)]
    assert twice(port, tmp_path / "b", "", "") == [(0, False)]


def test_a_whole_file_that_was_not_finished_is_fetched_again(port: int, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(TABLE)
    (tmp_path / "a.etag").write_text('"one"')
    with pytest.raises(MeuseError, match="breaks off after 20,000"):
        go_on(port, "one", tmp_path / "a")
    assert go_on(port, "one", tmp_path / "a") == hashlib.sha256(TABLE).hexdigest()
