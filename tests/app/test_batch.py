"""A batch's work against a data plane that is busy, breaks off, runs out of money, is slow."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from meuse.app.work import batch
from meuse.core.clock import now_ms
from meuse.core.ports import Paused
from meuse.store.blobs import FolderBlobs

URL = "/v1/chat/completions"
Answering = Callable[[str, int, Any], tuple[int, dict[str, Any]]]
"""(custom id, how often it was asked before, headers) → status and body; status 0 hangs up."""


class Plane:
    """An HTTP server in the place of the gateway."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.records: dict[str, set[str]] = {}
        self.headers: Any = {}
        self.most = self.now = 0
        self.answering: Answering = lambda name, before, headers: (200, good(name))
        self._lock = threading.Lock()
        plane = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                name = body["messages"]
                with plane._lock:
                    before = plane.asked[name]
                    plane.asked[name] += 1
                    plane.records.setdefault(name, set()).add(self.headers["x-meuse-record"])
                    plane.headers = self.headers
                    plane.now += 1
                    plane.most = max(plane.most, plane.now)
                status, answer = plane.answering(name, before, self.headers)
                with plane._lock:
                    plane.now -= 1
                if not status:
                    self.close_connection = True
                    return
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def good(name: str) -> dict[str, Any]:
    return {"said": name, "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


class Context:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pausing = False
        self.notes: list[str | None] = []
        self.figures: dict[str, float] = {}

    def paused(self) -> bool:
        return self.pausing

    def progress(self, fraction: float, note: str | None = None, **_: Any) -> None:
        self.notes.append(note)

    def metrics(self, figures: dict[str, float], **_: Any) -> None:
        self.figures = figures

    def log(self, message: str, level: str = "info") -> None:
        pass


class Bench:
    """A job of `lines` lines, run again and again in one folder."""

    def __init__(self, folder: Path, url: str, lines: int = 20) -> None:
        self.blobs = FolderBlobs(folder / "blobs")
        (folder / "job").mkdir()
        self.context = Context(folder / "job")
        text = b"".join(
            json.dumps(
                {
                    "custom_id": f"c{n}",
                    "method": "POST",
                    "url": URL,
                    "body": {"model": "m", "messages": f"c{n}"},
                }
            ).encode()
            + b"\n"
            for n in range(lines)
        )
        digest, _ = self.blobs.put("acme", io.BytesIO(text))
        self.inputs = {
            "tenant": "acme", "digest": digest, "endpoint": URL, "until_ms": now_ms() + 10**8,
            "cancelled": False, "pass": "batch_x", "url": url,
        }  # fmt: skip

    def run(self) -> dict[str, Any]:
        job = {"job": "job-0123456789abcdef0123456789abcdef", "inputs": self.inputs}
        return batch.work(self.blobs, self.context, job)  # type: ignore[arg-type]

    def read(self, made: dict[str, Any] | None) -> dict[str, Any]:
        """Lines of a result by custom id, each there once."""
        if made is None:
            return {}
        lines = self.blobs.read("acme", made["digest"]).decode().splitlines()
        found = {told["custom_id"]: told for told in map(json.loads, lines)}
        assert len(found) == len(lines)
        return found


@pytest.fixture
def plane() -> Iterator[Plane]:
    plane = Plane()
    yield plane
    plane.close()


@pytest.fixture
def bench(tmp_path: Path, plane: Plane, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(batch, "PAUSE_S", 0.01)
    return Bench(tmp_path, plane.url)


def test_every_line_is_answered_once_at_low_priority_a_few_at_a_time(
    bench: Bench, plane: Plane
) -> None:
    done = bench.run()
    assert done["status"] == "completed"
    assert done["counts"] == {"total": 20, "completed": 20, "failed": 0}
    assert done["error"] is None
    found = bench.read(done["output"])
    assert {name: told["response"]["body"] for name, told in found.items()} == {
        f"c{n}": good(f"c{n}") for n in range(20)
    }
    assert done["used"] == [60, 0, 40]
    assert plane.headers["x-priority"] == "low"
    assert plane.headers["authorization"] == "Bearer batch_x"
    assert plane.most <= batch.CONCURRENCY
    assert len(set.union(*plane.records.values())) == 20  # a record of its own each
    assert bench.context.notes[0] == "validating"
    assert bench.context.notes[-1] == "finalizing"


def test_busy_and_broken_is_asked_again_and_refused_is_an_error(bench: Bench, plane: Plane) -> None:
    """429, 503 and cut connections are nothing; 500 is, in the end; 400 at once. A line keeps its
    record however often it is asked."""

    def answering(name: str, before: int, _: Any) -> tuple[int, dict[str, Any]]:
        if name == "c1":
            return 400, {"error": {"message": "no"}}
        if name == "c2":
            return 500, {"error": {"message": "broken"}}
        return (0, 429, 503, 200)[min(before, 3)], good(name)

    plane.answering = answering
    done = bench.run()
    assert done["status"] == "completed"
    assert done["counts"] == {"total": 20, "completed": 18, "failed": 2}
    errors = bench.read(done["error"])
    assert {n: told["response"]["status_code"] for n, told in errors.items()} == {
        "c1": 400, "c2": 500,
    }  # fmt: skip
    assert set(bench.read(done["output"])) == {f"c{n}" for n in range(20)} - {"c1", "c2"}
    assert (plane.asked["c1"], plane.asked["c2"]) == (1, batch.TRIES)
    assert all(len(records) == 1 for records in plane.records.values())


@pytest.mark.parametrize(("status", "code"), sorted(batch.STOPS.items()))
def test_a_spent_budget_and_a_revoked_key_stop_it(
    bench: Bench, plane: Plane, status: int, code: str
) -> None:
    """What was answered stays, the rest is told why it was not."""
    told = {"error": {"message": "The budget is spent"}}
    plane.answering = lambda name, before, _: (
        (status, told) if len(plane.asked) > 10 else (200, good(name))
    )
    done = bench.run()
    assert done["status"] == "failed"
    (error,) = done["errors"]
    assert (error["code"], error["message"]) == (code, "The budget is spent")
    output, errors = bench.read(done["output"]), bench.read(done["error"])
    assert len(output) + len(errors) == 20
    assert len(output) >= 2
    assert {told["error"]["code"] for told in errors.values()} == {code}
    assert len(plane.asked) <= 10 + batch.CONCURRENCY
    # The budget was raised: what was answered is not asked again.
    plane.answering = lambda name, before, _: (200, good(name))
    before = Counter(plane.asked)
    done = bench.run()
    assert (done["status"], len(bench.read(done["output"]))) == ("completed", 20)
    assert all(plane.asked[name] == before[name] for name in output)


def test_cancelled_it_keeps_what_was_under_way(bench: Bench, plane: Plane) -> None:
    """Lines that were sent are awaited, for they are paid for; no other is sent."""

    def answering(name: str, before: int, _: Any) -> tuple[int, dict[str, Any]]:
        (bench.context.folder / batch.CANCEL).touch()
        return 200, good(name)

    plane.answering = answering
    done = bench.run()
    assert (done["status"], done["errors"]) == ("cancelled", [])
    output, errors = bench.read(done["output"]), bench.read(done["error"])
    assert set(output) == set(plane.asked)
    assert set(output) | set(errors) == {f"c{n}" for n in range(20)}
    assert 0 < len(output) <= batch.CONCURRENCY
    assert {told["error"]["code"] for told in errors.values()} == {"batch_cancelled"}


def test_expired_it_says_so_of_every_line_that_is_left(bench: Bench, plane: Plane) -> None:
    bench.inputs["until_ms"] = now_ms() - 1
    done = bench.run()
    assert (done["status"], done["output"], plane.asked.total()) == ("expired", None, 0)
    errors = bench.read(done["error"])
    assert len(errors) == 20
    assert {told["error"]["code"] for told in errors.values()} == {"batch_expired"}


def test_paused_it_goes_on_where_it_was(bench: Bench, plane: Plane) -> None:
    """While it is paused nothing is asked; answered lines are not asked again."""

    def answering(name: str, before: int, _: Any) -> tuple[int, dict[str, Any]]:
        bench.context.pausing = len(plane.asked) > 5
        return 200, good(name)

    plane.answering = answering
    with pytest.raises(Paused):
        bench.run()
    assert len(plane.asked) < 20
    manifest = (bench.context.folder / "checkpoint-parts.jsonl").read_text().splitlines()
    kept = [number for part in map(json.loads, manifest) for number, *_ in part["lines"]]
    plane.answering = lambda name, before, _: (200, good(name))
    bench.context.pausing = False
    before = Counter(plane.asked)
    done = bench.run()
    assert (done["status"], len(bench.read(done["output"]))) == ("completed", 20)
    assert kept
    assert all(plane.asked[f"c{n - 1}"] == before[f"c{n - 1}"] for n in kept)
    assert all(len(records) == 1 for records in plane.records.values())
