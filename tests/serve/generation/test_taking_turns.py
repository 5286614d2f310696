"""A replica with an engine that says which adapter is on: never another one's, and all in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest

from meuse.serve.frames import HIGH
from serve.generation.rig import Scripted, Worker, raw

TURN_MS = 40


@pytest.fixture
def replica() -> Iterator[Scripted]:
    process = Scripted(adapter_turn_ms=TURN_MS, max_sequences=4)
    yield process
    process.close()


@pytest.fixture
def worker(replica: Scripted) -> Worker:
    return replica.connect()


Send = Callable[..., int]


@pytest.fixture
def send(worker: Worker) -> Send:
    def send(adapter: str, steps: int, n: int = 1, **more: Any) -> int:
        ask = raw("u", max_tokens=steps, n=n)
        return worker.send(msgspec.structs.replace(ask, adapter=adapter), **more)

    return send


def test_each_is_answered_by_its_own_adapter_alone(worker: Worker, send: Send) -> None:
    """Many at once, of several choices too, in more work than a turn takes on."""
    names = ["a5", "", "b0", "c1"]
    sent = [(names[i % 4], send(names[i % 4], 3 + i % 7, n=1 + i % 3)) for i in range(60)]
    switches = 0
    for name, number in sent:
        answer = worker.wait(number)
        assert answer.last.error is None
        for index in range(len(answer.last.reasons)):
            assert set(answer.text(index)) == {name[:1] or "-"}
        switches += answer.last.switches
    assert 3 <= switches < len(sent), "turns have several requests"


def test_a_busy_adapter_lets_another_in(worker: Worker, send: Send) -> None:
    """One that is asked again and again has its turn, then the other one answers."""
    busy = [send("a0", 20) for _ in range(40)]
    one = send("b0", 1)
    assert worker.wait(one).text() == "b"
    done = sum(worker.answers[number].finished is not None for number in busy)
    assert 0 < done < len(busy)
    assert worker.answers[one].last.queue_us >= TURN_MS * 1000 / 2
    for number in busy:
        assert worker.wait(number).text() == "a" * 20


def test_a_turn_shorter_than_its_switch_still_answers(worker: Worker, send: Send) -> None:
    """Every turn starts at least one."""
    sent = [(name, send(name, 2)) for _ in range(3) for name in ("a60", "b60")]
    for name, number in sent:
        assert worker.wait(number).text() == name[0] * 2


def test_a_better_class_goes_first(worker: Worker, send: Send) -> None:
    first = send("a0", 30)
    later = send("b0", 1)
    urgent = send("c0", 1, priority=HIGH)
    for number in (urgent, later, first):
        worker.wait(number)
    assert worker.answers[urgent].last.queue_us < worker.answers[later].last.queue_us


def test_one_that_cannot_be_had_fails_alone(worker: Worker, send: Send) -> None:
    """Whether that shows when it is asked for or only within the engine."""
    beside = send("a0", 30)
    assert worker.wait(send("x0", 1)).error.code == "invalid_data"
    broken = [send("X0", 1) for _ in range(2)]
    after = send("b0", 2)
    for number in broken:
        answer = worker.wait(number)
        assert (answer.error.code, answer.started) == ("engine_error", None)
    assert worker.wait(beside).text() == "a" * 30
    assert worker.wait(after).text() == "bb"
    assert worker.wait(send("", 2)).text() == "--"


def test_what_nobody_waits_for_holds_up_no_turn(worker: Worker, send: Send) -> None:
    gone = send("a0", 100_000)
    one = send("b0", 2)
    waiting = send("c0", 2)
    worker.cancel(waiting)
    worker.cancel(gone)
    assert worker.wait(one).text() == "bb"
    assert worker.wait(gone).error.code == "cancelled"
    assert worker.wait(waiting).error.code == "cancelled"
