"""A replica of SmolLM2 as the platform starts it, and a worker's side of its socket."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec

from meuse.core.clock import now_ms
from meuse.serve import frames
from meuse.serve.frames import Cancel, Decoder, Finished, Generate, Hello, Started, Tokens
from meuse.serve.generation import manifest as manifests
from meuse.serve.generation import messages
from meuse.serve.generation.manifest import Manifest
from meuse.serve.generation.messages import Ask, Sampling
from meuse.store.blobs import FolderBlobs

PATIENCE_S = 400.0
CONTEXT = 1024
"""Of the replica that tests share: a long prompt takes long."""


class _Process:
    process: subprocess.Popen[bytes]

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="mz-"))
        self.sockets = self.home / "s"
        self.sockets.mkdir(mode=0o700)
        self.workers: list[Worker] = []

    @property
    def socket(self) -> Path:
        return self.sockets / "r1.sock"

    def connect(self, **options: int) -> Worker:
        """A new worker, once it listens."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.workers.append(Worker(self.socket, self.process, **options))
                return self.workers[-1]
            except OSError:
                time.sleep(0.02)
        error = self.sockets / "r1.error"
        told = error.read_text() if error.exists() else "it does not listen"
        raise AssertionError(f"{told} (exit status {self.process.poll()})")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for worker in self.workers:
            worker.close()
        shutil.rmtree(self.home)


class Process(_Process):
    """`meuse replica` for one manifest, whose files are put into a fresh home first."""

    def __init__(self, manifest: Manifest, files: list[Path], **options: int | str) -> None:
        super().__init__()
        self.blobs = blobs = FolderBlobs(self.home / "blobs")
        for path in files:
            with path.open("rb") as source:
                blobs.put("acme", source)
        digest, _ = blobs.put("acme", BytesIO(manifests.encode(manifest)))
        read, self._lifeline = os.pipe()
        given: dict[str, int | str] = {
            "cores": 2,
            "max-rows": 64,
            "max-queue": 64,
            "objective-ms": 0,
            **options,
        }
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "meuse.app", "replica", "--home", str(self.home)),
                *("--sockets", str(self.sockets), "--id", "r1", "--tenant", "acme"),
                *("--version", "smollm2:1", "--format", "llm", "--digest", digest),
                *("--engine", "genai", "--lifeline", str(read)),
                *[part for name, value in given.items() for part in (f"--{name}", str(value))],
            ],
            pass_fds=[read],
            env=dict(os.environ, MEUSE_HOME=str(self.home)),
        )
        os.close(read)

    def close(self) -> None:
        super().close()
        os.close(self._lifeline)


class Scripted(_Process):
    """A replica with an engine that does what its prompt says (see `run_scripted`)."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        given = {"home": str(self.sockets), **config}
        command = [sys.executable, str(Path(__file__).with_name("run_scripted.py"))]
        self.process = subprocess.Popen([*command, json.dumps(given)])


@dataclass
class Answer:
    """All that came for one request."""

    started: Started | None = None
    parts: list[frames.Part] = field(default_factory=list)
    finished: Finished | None = None
    began: float = math.inf
    ended: float = math.inf
    """Places of `started` and `finished` among all that came."""

    def text(self, index: int = 0) -> str:
        return "".join(part.text for part in self.parts if part.index == index)

    def calls(self, index: int = 0) -> list[Any]:
        return [
            call
            for part in self.parts
            if part.index == index and part.calls
            for call in msgspec.json.decode(part.calls)
        ]

    def pieces(self) -> list[list[int]]:
        """The bytes of each token, where log-probabilities were asked for: texts leave out what is
        no character."""
        assert self.last.error is None, self.last.error
        rows = [row for part in self.parts for row in json.loads(part.logprobs or b"[]")]
        assert len(rows) == self.last.completion_tokens
        return [row["bytes"] for row in rows]

    @property
    def last(self) -> Finished:
        assert self.finished is not None
        return self.finished

    @property
    def error(self) -> frames.Failure:
        assert self.last.error is not None, self.last
        return self.last.error


class Worker:
    """A blocking connection that checks the order of what comes."""

    def __init__(
        self, path: Path, process: subprocess.Popen[bytes] | None = None, buffer: int = 0
    ) -> None:
        self._process = process
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        if buffer:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._decoder = Decoder()
        self._number = self._came = 0
        self.answers: dict[int, Answer] = {}
        self.came: list[Any] = []
        """Headers in their order; one `Tokens` for each step, as long as they are read."""
        self.hello: Hello | None = None
        while self.hello is None:
            self.read()

    def send(self, ask: Ask, *, within_ms: int = 400_000, **more: Any) -> int:
        """The number of the request."""
        self._number += 1
        header = Generate(
            self._number,
            self._number.to_bytes(16, "little"),
            now_ms() + within_ms,
            messages.encode(ask),
            **more,
        )
        self.answers[self._number] = Answer()
        self._socket.sendall(b"".join(frames.encode(header)))
        return self._number

    def cancel(self, number: int) -> None:
        self._socket.sendall(b"".join(frames.encode(Cancel(number))))

    def send_raw(self, data: bytes) -> None:
        self._socket.sendall(data)

    def read(self) -> None:
        """Take what comes next."""
        self._socket.settimeout(PATIENCE_S)
        data = self._socket.recv(1 << 20)
        if not data:
            raise AssertionError(f"the replica hung up (exit status {self._status()})")
        for header, _ in self._decoder.feed(data):
            self.came.append(header)
            self._take(header)

    def wait(self, number: int) -> Answer:
        answer = self.answers[number]
        while answer.finished is None:
            self.read()
        return answer

    def ask(self, ask: Ask, **more: Any) -> Answer:
        return self.wait(self.send(ask, **more))

    def close(self) -> None:
        self._socket.close()

    def _status(self) -> int | None:
        """Of the process, whose socket may be closed before it has ended: -11 is a crash."""
        try:
            return self._process.wait(10) if self._process else None
        except subprocess.TimeoutExpired:
            return None

    def _take(self, header: Any) -> None:
        self._came += 1
        if isinstance(header, Hello):
            self.hello = header
        elif isinstance(header, Tokens):
            for part in header.parts:
                answer = self.answers[part.number]
                assert answer.started is not None
                assert answer.finished is None
                assert part.tokens >= (answer.parts[-1].tokens if answer.parts else 0)
                answer.parts.append(part)
        else:
            answer = self.answers[header.number]
            if isinstance(header, Started):
                assert answer.started is None
                answer.started, answer.began = header, self._came
            else:
                assert isinstance(header, Finished)
                assert answer.finished is None
                answer.finished, answer.ended = header, self._came


def chat(*turns: str, **sampling: Any) -> Ask:
    """A conversation that begins with the user; greedy unless told otherwise."""
    return Ask(
        messages=msgspec.json.encode(
            [
                {"role": ("user", "assistant")[i % 2], "content": turn}
                for i, turn in enumerate(turns)
            ]
        ),
        sampling=greedy(**sampling),
    )


def raw(prompt: str, **sampling: Any) -> Ask:
    """A prompt as it is."""
    return Ask(prompt=prompt, sampling=greedy(**sampling))


def greedy(**sampling: Any) -> Sampling:
    return Sampling(**{"temperature": 0.0, "max_tokens": 16, **sampling})
