"""generation.spare: the lowest class starts where nobody else does, and after a while all the same.

The rule alone, then a replica whose engine obeys.
"""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable, Iterator

import msgspec
import pytest

from meuse.serve.frames import HIGH, LOW, NORMAL
from meuse.serve.generation.messages import Ask
from meuse.serve.generation.spare import startable
from serve.generation.rig import Answer, Scripted, Worker, raw

LONG_MS = 600_000


def may(
    better: dict[str, int] | None = None,
    low: dict[str, float] | None = None,
    running: tuple[int, ...] = (),
) -> dict[str, int]:
    """With a patience of 100 µs."""
    return startable(better or {}, low or {}, running, 100)


def test_where_nobody_else_is_all_may_start() -> None:
    """However many of them run, and of every adapter."""
    waiting = {"": 0.0, "a": 5.0}
    assert may(low=waiting) == may(low=waiting, running=(LOW,) * 8) == {"": LOW, "a": LOW}
    assert may(low={}, running=(NORMAL,)) == {}


@pytest.mark.parametrize("priority", [HIGH, NORMAL])
def test_one_of_a_better_class_that_runs_or_waits_holds_them_back(priority: int) -> None:
    """Whatever adapter it is for, and beside how many of their own."""
    low = {"": 99.0, "a": 99.0}
    assert may(low=low, running=(priority,)) == {}
    assert may(low=low, running=(LOW, priority, LOW)) == {}
    assert may({"a": priority}, low) == {}
    assert may({"b": priority}, low, (LOW,)) == {}


def test_one_that_has_waited_too_long_counts_as_the_best_that_waits() -> None:
    """So that adapters' turns see it. Only those that have, and the last class if none waits."""
    low = {"": 100.0, "a": 99.0, "b": 300.0}
    assert may({"a": NORMAL, "c": HIGH}, low) == {"": HIGH, "b": HIGH}
    assert may({"a": NORMAL}, low, (HIGH,)) == {"": NORMAL, "b": NORMAL}
    assert may(low=low, running=(NORMAL,)) == {"": LOW, "b": LOW}


def test_they_do_so_one_at_a_time() -> None:
    assert may({"": NORMAL}, {"": 900.0}, (NORMAL, LOW)) == {}


def served(low_patience_ms: int, **config: int) -> Iterator[Scripted]:
    process = Scripted(low_patience_ms=low_patience_ms, max_sequences=4, **config)
    yield process
    process.close()


@pytest.fixture
def patient() -> Iterator[Scripted]:
    """Holds them back for as long as a test takes."""
    yield from served(LONG_MS)


@pytest.fixture
def hasty() -> Iterator[Scripted]:
    yield from served(150, adapter_turn_ms=20)


def text(steps: int, adapter: str = "", n: int = 1) -> Ask:
    return msgspec.structs.replace(raw("u", max_tokens=steps, n=n), adapter=adapter)


def read_until(worker: Worker, condition: Callable[[], object]) -> None:
    while not condition():
        worker.read()


def begun(worker: Worker, number: int) -> Answer:
    answer = worker.answers[number]
    read_until(worker, lambda: answer.started)
    return answer


def test_none_starts_beside_a_better_one(patient: Scripted) -> None:
    """They stream on if they had begun, the rest when it has ended; then all share the engine."""
    worker = patient.connect()
    early = worker.send(text(100), priority=LOW)
    begun(worker, early)
    chat = worker.send(text(60))
    begun(worker, chat)
    low = [worker.send(text(60), priority=LOW) for _ in range(3)]
    for number in (early, chat, *low):
        assert worker.wait(number).last.error is None
    ended = worker.answers[chat].ended
    began = [worker.answers[number].began for number in low]
    assert worker.answers[early].began < worker.answers[chat].began
    assert ended < min(began)
    assert max(began) < min(worker.answers[number].ended for number in low)


def test_one_that_waits_goes_before_them_though_it_came_later(patient: Scripted) -> None:
    """Also where one of them is too large for the places that are free."""
    worker = patient.connect()
    first = worker.send(text(40, n=2), priority=LOW)
    begun(worker, first)
    large = worker.send(text(5, n=4), priority=LOW)
    other = worker.send(text(5, "a"), priority=LOW)
    chat = worker.send(text(5))
    assert worker.wait(large).text(3) == "-----"
    assert worker.wait(other).text() == "aaaaa"
    ended = worker.wait(chat).ended
    assert ended < worker.answers[first].ended
    assert ended < min(worker.answers[large].began, worker.answers[other].began)


def test_after_a_while_one_starts_at_a_time(hasty: Scripted) -> None:
    """Beside streams that never end, and before those that wait for a place."""
    worker = hasty.connect()
    streams = [worker.send(text(1_000_000)) for _ in range(3)]
    low = [worker.send(text(40), priority=LOW) for _ in range(3)]
    answers = [worker.wait(number) for number in low]
    assert min(answer.last.queue_us for answer in answers) >= 150_000
    for before, after in itertools.pairwise(answers):
        assert before.ended < after.began
    assert not any(worker.answers[number].finished for number in streams)
    for number in streams:
        worker.cancel(number)


def test_a_full_engine_and_a_full_line_do_not_starve_them(hasty: Scripted) -> None:
    """One of several choices has its places kept, though better ones wait for them."""
    worker = hasty.connect()
    chats = [worker.send(text(20)) for _ in range(200)]
    low = worker.send(text(5, n=3), priority=LOW)
    assert worker.wait(low).text(2) == "-----"
    assert not all(worker.answers[number].finished for number in chats)
    for number in chats:
        assert worker.wait(number).text() == "-" * 20


def test_one_of_another_adapter_has_its_turn_after_a_while(hasty: Scripted) -> None:
    """What runs ends, it is answered by its own adapter, and the others go on."""
    worker = hasty.connect()
    chats = [worker.send(text(20, "a")) for _ in range(200)]
    low = worker.send(text(5, "b"), priority=LOW)
    assert worker.wait(low).text() == "bbbbb"
    assert worker.answers[low].last.queue_us >= 150_000
    assert not all(worker.answers[number].finished for number in chats)
    for number in chats:
        assert worker.wait(number).text() == "a" * 20


def test_a_replica_that_ends_holds_nothing_back(patient: Scripted) -> None:
    """Others take what comes: what it has is done soonest side by side."""
    worker = patient.connect()
    chat = worker.send(text(400))
    begun(worker, chat)
    low = worker.send(text(5), priority=LOW)
    worker.ask(text(1))  # so it has read the other
    assert worker.answers[low].started is None
    patient.process.send_signal(signal.SIGTERM)
    assert worker.wait(low).text() == "-----"
    assert worker.answers[chat].finished is None
    assert worker.wait(chat).text() == "-" * 400
    assert patient.process.wait(30) == 0


def test_one_that_was_held_back_to_its_deadline_may_come_again(patient: Scripted) -> None:
    """It did not fail: nobody had time for it. One that ran into it did."""
    worker = patient.connect()
    begun(worker, worker.send(text(1_000_000)))
    answer = worker.ask(text(5), priority=LOW, within_ms=200)
    assert (answer.started, answer.error.code) == (None, "overloaded")
    assert answer.error.retry_after_s
    late = worker.ask(text(1_000_000), within_ms=200)
    assert late.error.code == "deadline_exceeded"


def test_one_that_is_cancelled_lets_the_next_start(patient: Scripted) -> None:
    """Whether it waits or runs."""
    worker = patient.connect()
    running = worker.send(text(1_000_000))
    begun(worker, running)
    waiting = worker.send(text(1_000_000, "a"))
    low = worker.send(text(5), priority=LOW)
    for number in (waiting, running):
        worker.cancel(number)
        assert worker.wait(number).error.code == "cancelled"
    assert worker.wait(low).text() == "-----"
