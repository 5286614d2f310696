"""The hub, as huggingface_hub asks a server on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("huggingface_hub")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b"{}", "model.safetensors": b"weights", "pytorch_model.bin": b"pickle",
    "modeling_own.py": b"raise SystemExit", "m.Q4.gguf": b"four", "m.Q8.gguf": b"eight",
    "chat_template.jinja": b"hi", "openvino_model.bin": b"ov",
}  # fmt: skip
CALL = """
import json, sys
from pathlib import Path
from meuse.convert import hub
from meuse.core.errors import MeuseError
reference, folder, patterns = json.loads(sys.argv[1])
try:
    found = hub.fetch(reference, Path(folder), patterns, "source")
    names = sorted(p.name for p in found.iterdir() if p.is_file())
    print(json.dumps({"names": names}))
except MeuseError as error:
    print(json.dumps(error.to_dict()))
"""


class Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0]
        content, more, status = b"", {}, 404
        if path in ("/api/models/owner/tiny/revision/main", "/api/models/owner/tiny/revision/v1"):
            content, status = json.dumps({"id": "owner/tiny", "sha": COMMIT}).encode(), 200
        elif path == f"/api/models/owner/tiny/tree/{COMMIT}":
            tree = [
                {"type": "file", "path": name, "size": len(held), "oid": "0" * 40}
                for name, held in FILES.items()
            ]
            content, status = json.dumps(tree).encode(), 200
        elif path.startswith(f"/owner/tiny/resolve/{COMMIT}/"):
            content, status = FILES[path.rpartition("/")[2]], 200
            digest = hashlib.sha1(content).hexdigest()
            more = {"etag": f'"{digest}"', "x-repo-commit": COMMIT}
        elif path.startswith("/api/models/owner/none"):
            more = {"x-error-code": "RepoNotFound"}
        self.send_response(status)
        for name, value in {**more, "content-length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(0.02), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def fetch(url: str, reference: str, folder: Path, patterns: list[str]) -> Any:
    """In a process of its own: the hub's address is read once."""
    home = {"HF_HOME": str(folder / "home"), "HF_ENDPOINT": url, "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", CALL, json.dumps([reference, str(folder / "out"), patterns])],
        env={k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | home,
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def test_only_what_was_asked_for_comes(url: str, tmp_path: Path) -> None:
    from meuse.pull.bring import HUB_FILES

    found = fetch(url, "owner/tiny", tmp_path, list(HUB_FILES))
    assert found == {
        "names": ["chat_template.jinja", "config.json", "model.safetensors", "openvino_model.bin"]
    }


def test_one_file_of_a_revision(url: str, tmp_path: Path) -> None:
    assert fetch(url, "owner/tiny@v1", tmp_path, ["m.Q4.gguf"]) == {"names": ["m.Q4.gguf"]}


def test_what_is_not_there_is_said(url: str, tmp_path: Path) -> None:
    found = fetch(url, "owner/none", tmp_path, ["*.json"])
    assert (found["code"], found["field"]) == ("not_found", "source")
    found = fetch("http://127.0.0.1:1", "owner/tiny", tmp_path, ["*.json"])
    assert (found["code"], found["field"]) == ("unavailable", "source")
