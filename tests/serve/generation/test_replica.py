"""The replica with the real model and as a real process, from a worker's side of the socket."""

from __future__ import annotations

import pytest

from serve.generation.rig import Process, Worker, chat

pytestmark = pytest.mark.timeout(500)  # the model is loaded within the first test


def test_answers_a_conversation(worker: Worker) -> None:
    """Counts first, text as it comes, and the last word with the reason."""
    answer = worker.ask(chat("What is the capital of France?", max_tokens=24))
    assert answer.started is not None
    assert answer.started.prompt_tokens == answer.last.prompt_tokens > 20
    assert "Paris" in answer.text()
    assert len(answer.parts) > 4
    assert answer.last.reasons in (("stop",), ("length",))
    assert answer.parts[-1].tokens == answer.last.completion_tokens


def test_says_who_it_is(worker: Worker, replica: Process) -> None:
    """Hello names replica and version; the socket is its owner's alone; no file stays behind."""
    assert worker.hello is not None
    assert (worker.hello.replica, worker.hello.version) == ("r1", "smollm2:1")
    assert replica.socket.stat().st_mode & 0o777 == 0o600
    assert not (replica.sockets / "r1.model").exists()
