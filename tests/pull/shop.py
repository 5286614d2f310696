"""A package index and a host of files on loopback, which can break off and lie."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from helpers_gguf import gguf

METADATA = "Metadata-Version: 2.4\nName: llm-tiny\nVersion: {version}\nLicense: Apache-2.0\n"


def zipped(members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def wheel(version: str = "1.0", **members: bytes) -> bytes:
    """A wheel with a small model in it, or with other members."""
    inside = {f"llm_tiny/{name}": content for name, content in members.items()}
    return zipped(
        (inside or {"llm_tiny/tiny.Q4.gguf": gguf(), "llm_tiny/__init__.py": b"raise SystemExit"})
        | {f"llm_tiny-{version}.dist-info/METADATA": METADATA.format(version=version).encode()}
    )


@dataclass(slots=True)
class Shop:
    """What the server has. `files` by name; `sums` are digests that it announces instead of the
    true ones; `html`: it knows no JSON; `cuts`: how often it still breaks off, after so many
    bytes; `busy`: (status, Retry-After) of answers that come before the file; `asked`: (path,
    range) of each request for a file."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)
    yanked: set[str] = field(default_factory=set)
    html: bool = False
    cuts: int = 0
    cut_after: int = 0
    status: int = 200
    busy: list[tuple[int, str]] = field(default_factory=list)
    raw: bytes = b""
    asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def index(self) -> str:
        return f"{self.url}/simple"

    def digest(self, name: str) -> str:
        return self.sums.get(name, hashlib.sha256(self.files[name]).hexdigest())

    def page(self) -> tuple[str, bytes]:
        if self.html:
            rows = [
                f'<a href="../../files/{name}#sha256={self.digest(name)}"'
                f"{' data-yanked' if name in self.yanked else ''}>{name}</a>"
                for name in self.files
            ]
            return "text/html", "\n".join(rows).encode()
        listed = [
            {
                "filename": name,
                "url": f"../../files/{name}",
                "hashes": {"sha256": self.digest(name)},
                "size": len(content),
                "yanked": "broken" if name in self.yanked else False,
            }
            for name, content in self.files.items()
        ]
        body = self.raw or json.dumps({"files": listed}).encode()
        return "application/vnd.pypi.simple.v1+json", body


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    shop: Shop

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        kind, _, name = self.path.strip("/").partition("/")
        if self.shop.status != 200:
            self.send_error(self.shop.status)
        elif kind == "simple" and name == "llm-tiny":
            self._answer(200, *self.shop.page())
        elif kind == "files" and name in self.shop.files:
            self._file(name, self.shop.files[name])
        else:
            self.send_error(404)

    def _file(self, name: str, content: bytes) -> None:
        wanted = self.headers.get("range", "")
        self.shop.asked.append((name, wanted))
        if self.shop.busy:
            status, after = self.shop.busy.pop(0)
            self.send_response(status)
            if after:
                self.send_header("retry-after", after)
            self.send_header("content-length", "0")
            self.end_headers()
            return
        start = int(wanted[6:-1]) if wanted else 0
        if wanted and start >= len(content):
            self.send_error(416)
            return
        rest = content[start:]
        if self.shop.cuts:
            self.shop.cuts -= 1
            self.close_connection = True
            self._answer(206 if wanted else 200, "x/y", rest[: self.shop.cut_after], len(rest))
        else:
            self._answer(206 if wanted else 200, "x/y", rest)

    def _answer(self, status: int, kind: str, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
