"""A Hugging Face hub on loopback: the calls that a pull makes of one. It can break off and lie."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LFS = (".safetensors", ".gguf", ".bin")


def blob_digest(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()


def sibling(path: str, content: bytes) -> dict[str, Any]:
    """A file as the hub lists it."""
    told: dict[str, Any] = {"rfilename": path, "size": len(content)}
    if not path.endswith(LFS):
        return told | {"blobId": blob_digest(content)}
    lfs = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return told | {"blobId": "f" * 40, "lfs": lfs}


@dataclass(slots=True)
class Hub:
    """One repository, owner/tiny. `branches` are commits by name; `listed` are files as the hub
    tells of them in place of the truth; `cuts`: how often it still breaks off, after `cut_after`
    bytes; `cdn`: where the content of LFS files is; `refusal`: (status, the hub's own code) of
    the list, or of the files; `asked`: (path, range, authorization) of each request for content.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    listed: list[dict[str, Any]] | None = None
    card: dict[str, Any] = field(default_factory=dict)
    answer: bytes | None = None
    list_refusal: tuple[int, str] | None = None
    file_refusal: tuple[int, str] | None = None
    cdn: str = ""
    cuts: int = 0
    cut_after: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    lists_asked: list[tuple[str, str]] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Of the files that were asked for, in order."""
        return [path for path, _, _ in self.asked]

    def info(self, commit: str) -> bytes:
        siblings = [sibling(path, content) for path, content in self.files.items()]
        told = {"id": "owner/tiny", "sha": commit, "cardData": self.card}
        return json.dumps(told | {"siblings": self.listed or siblings}).encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_: Any) -> None: ...

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        path, token = unquote(parts.path), self.headers.get("authorization", "")
        if path.startswith("/api/models/"):
            self.hub.lists_asked.append((self.path, token))
            name, _, branch = path.removeprefix("/api/models/").partition("/revision/")
            self._list(name, branch or "main")
        elif path.startswith("/content/"):
            self._file(path.removeprefix("/content/"))
        else:
            name, _, rest = path.strip("/").partition("/resolve/")
            commit, _, path = rest.partition("/")
            if name == "owner/tiny" and commit in self.hub.branches.values():
                self._resolved(path)
            else:
                self._answer(404, refusal="RepoNotFound")

    def _list(self, name: str, branch: str) -> None:
        if self.hub.list_refusal:
            self._answer(self.hub.list_refusal[0], refusal=self.hub.list_refusal[1])
        elif name != "owner/tiny":
            self._answer(404, refusal="RepoNotFound")
        elif branch not in {*self.hub.branches, *self.hub.branches.values()}:
            self._answer(404, refusal="RevisionNotFound")
        else:
            commit = self.hub.branches.get(branch, branch)
            self._answer(200, self.hub.answer or self.hub.info(commit))

    def _resolved(self, path: str) -> None:
        if self.hub.file_refusal:
            self._note(path)
            self._answer(self.hub.file_refusal[0], refusal=self.hub.file_refusal[1])
        elif self.hub.cdn and path.endswith(LFS):
            self._note(path)
            self._answer(302, location=f"{self.hub.cdn}/content/{path}")
        else:
            self._file(path)

    def _note(self, path: str) -> None:
        told = self.headers.get("range", ""), self.headers.get("authorization", "")
        self.hub.asked.append((path, *told))

    def _file(self, path: str) -> None:
        self._note(path)
        content, wanted = self.hub.files.get(path), self.headers.get("range", "")
        if content is None:
            self._answer(404, refusal="EntryNotFound")
            return
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        rest = content[start:]
        if self.hub.cuts and len(rest) > self.hub.cut_after:
            self.hub.cuts -= 1
            self.close_connection = True
            self._answer(206 if wanted else 200, rest[: self.hub.cut_after], length=len(rest))
        else:
            self._answer(206 if wanted else 200, rest)

    def _answer(
        self,
        status: int,
        body: bytes = b"",
        *,
        refusal: str = "",
        location: str = "",
        length: int | None = None,
    ) -> None:
        self.send_response(status)
        if refusal:
            self.send_header("x-error-code", refusal)
        if location:
            self.send_header("location", location)
        self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub that listens while the block runs."""
    hub = Hub()
    handler = type("Bound", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def name_it(monkeypatch: Any, hub: Hub) -> None:
    """As HF_ENDPOINT does, which huggingface_hub reads once in the life of a process."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
