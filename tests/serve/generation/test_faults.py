"""What goes wrong around an engine, with one that obeys: slow, full, broken, unread, hung up."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from meuse.serve.generation.connection import MAX_HELD
from meuse.serve.page import PageReader
from serve.generation.rig import Scripted, Worker, raw


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def begun(worker: Worker, number: int, tokens: int = 1) -> None:
    answer = worker.answers[number]
    while not answer.parts or answer.parts[-1].tokens < tokens:
        assert answer.finished is None, answer
        worker.read()


def test_cancel_stops_within_two_steps() -> None:
    """Of steps that take longer than a message: at the third token 3 to 5 are counted, and all
    of them were sent. The others go on."""
    scripted = Scripted(pause_s=0.3)
    try:
        worker = scripted.connect()
        gone, other = (worker.send(raw("t", max_tokens=n)) for n in (20_000, 10))
        begun(worker, gone, 3)
        worker.cancel(gone)
        answer = worker.wait(gone)
        assert answer.error.code == "cancelled"
        assert 3 <= answer.last.completion_tokens == answer.parts[-1].tokens <= 5
        assert worker.wait(other).last.completion_tokens == 10
        worker.cancel(gone)  # the two met: no error
        assert worker.ask(raw("t", max_tokens=1)).last.error is None
    finally:
        scripted.close()


def test_a_worker_that_hangs_up_stops_its_requests(scripted: Scripted) -> None:
    """Nobody else is there, so the engine rests; it serves the next one."""
    worker = scripted.connect()
    begun(worker, worker.send(raw("t", max_tokens=90_000)))
    page = PageReader(scripted.sockets / "r1.page")
    worker.close()
    until(lambda: page.pulse()[1] % 2 == 0 and _still(page))
    page.close()
    assert scripted.connect().ask(raw("t", max_tokens=2)).text() == "ab"


def _still(page: PageReader) -> bool:
    before = page.pulse()[1]
    time.sleep(0.1)
    return page.pulse()[1] == before


def test_deadlines_end_what_runs_and_what_waits() -> None:
    """With what was produced counted."""
    scripted = Scripted(max_sequences=1)
    try:
        worker = scripted.connect()
        first = worker.send(raw("t", max_tokens=90_000), within_ms=700)
        second = worker.send(raw("t", max_tokens=5), within_ms=300)
        waited = worker.wait(second)
        assert waited.error.code == "deadline_exceeded"
        assert waited.started is None
        ran = worker.wait(first)
        assert ran.error.code == "deadline_exceeded"
        assert ran.last.completion_tokens == ran.parts[-1].tokens > 0
    finally:
        scripted.close()


def test_those_that_come_together_share_their_first_step() -> None:
    """An idle engine waits as long as they arrive: whoever is first does not make the others wait
    for a step of its own. One that is alone does not wait long."""
    scripted = Scripted(pause_s=0.3)
    try:
        worker = scripted.connect()
        numbers = []
        for _ in range(6):
            numbers.append(worker.send(raw("t", max_tokens=2)))
            time.sleep(0.0002)
        answers = [worker.answers[number] for number in numbers]
        while not any(answer.parts for answer in answers):
            worker.read()
        assert all(answer.parts for answer in answers)
        for number in numbers:
            worker.wait(number)
        begun_s = time.monotonic()
        assert worker.ask(raw("t", max_tokens=1)).last.completion_tokens == 1
        assert time.monotonic() - begun_s < 2 * 0.3
    finally:
        scripted.close()


def test_the_queue_is_bounded_and_takes_turns() -> None:
    """More than it holds is told at once; within it, tenants take turns and classes go first."""
    scripted = Scripted(max_sequences=1, max_queue=4)
    try:
        worker = scripted.connect()
        first = worker.send(raw("t", max_tokens=60))
        begun(worker, first)
        numbers = [worker.send(raw("t", max_tokens=2), flow="many") for _ in range(2)]
        numbers.append(worker.send(raw("t", max_tokens=2), flow="one"))
        numbers.append(worker.send(raw("t", max_tokens=2), flow="many", priority=0))
        refused = worker.ask(raw("t"))
        assert refused.error.code == "overloaded"
        assert refused.error.retry_after_s
        for number in numbers:
            worker.wait(number)
        order = sorted(numbers, key=lambda number: worker.answers[number].last.queue_us)
        assert order.index(numbers[3]) == 0
        assert order.index(numbers[2]) < order.index(numbers[1])
    finally:
        scripted.close()


def test_text_that_is_not_read_is_bounded(scripted: Scripted) -> None:
    """A worker that stops reading loses the flood, not its other request, and nobody else's."""
    slow, other = scripted.connect(), scripted.connect()
    flood = slow.send(raw("f", max_tokens=90_000_000))
    begun(slow, flood)
    small = slow.send(raw("t", max_tokens=300))
    assert other.ask(raw("t", max_tokens=500)).last.completion_tokens == 500
    answer = slow.wait(flood)
    assert answer.error.code == "cancelled"
    assert answer.last.completion_tokens == answer.parts[-1].tokens < 10_000_000
    assert len(answer.text()) == answer.last.completion_tokens
    assert max([len(part.text) for part in answer.parts]) < MAX_HELD * 2
    assert slow.wait(small).last.completion_tokens == 300


def test_a_failed_step_fails_those_in_it_alone(scripted: Scripted) -> None:
    """The engine is tried again, and serves."""
    worker = scripted.connect()
    broken = worker.ask(raw("e"))
    assert broken.error.code == "engine_error"
    assert "as asked" in broken.error.message
    assert worker.ask(raw("t", max_tokens=3)).text() == "abc"


def test_an_engine_that_is_lost_ends_the_process(scripted: Scripted) -> None:
    """After everybody was told: a new process is the only way to a working one."""
    worker = scripted.connect()
    assert worker.ask(raw("E")).error.code == "engine_error"
    assert scripted.process.wait(60) != 0


def test_sigterm_finishes_what_was_taken_on(scripted: Scripted) -> None:
    """Then ends well; the socket is gone at once."""
    worker = scripted.connect()
    number = worker.send(raw("t", max_tokens=300))
    begun(worker, number)
    scripted.process.send_signal(signal.SIGTERM)
    until(lambda: not scripted.socket.exists())
    assert worker.wait(number).last.completion_tokens == 300
    worker.close()
    assert scripted.process.wait(60) == 0


def test_a_worker_that_reads_late_gets_all_at_the_end(scripted: Scripted) -> None:
    """What is held for it when the replica ends is delivered before."""
    worker = scripted.connect()
    number = worker.send(raw("f", max_tokens=275_000))
    page = PageReader(scripted.sockets / "r1.page")
    until(lambda: page.pulse()[1] and page.pulse()[1] % 2 == 0 and _still(page))
    page.close()
    scripted.process.send_signal(signal.SIGTERM)
    until(lambda: not scripted.socket.exists())
    answer = worker.wait(number)
    assert answer.last.error is None
    assert len(answer.text()) == 275_000
    worker.close()
    assert scripted.process.wait(60) == 0


def test_shows_life_while_the_engine_holds_the_lock(scripted: Scripted) -> None:
    """Steps of a second in which no Python runs: the page beats several times in each."""
    worker = scripted.connect()
    number = worker.send(raw("h", max_tokens=3))
    page = PageReader(scripted.sockets / "r1.page")
    until(lambda: page.pulse()[1] & 1)
    (first, step), beats = page.pulse(), set[int]()
    while (pulse := page.pulse())[1] == step:
        beats.add(pulse[0])
        time.sleep(0.01)
    page.close()
    assert len(beats - {first}) >= 2
    assert worker.wait(number).last.completion_tokens == 3


@pytest.mark.parametrize("junk", [b"\0" * 64, b"\xff" * 64])
def test_a_worker_that_sends_no_frames_is_cut_off(scripted: Scripted, junk: bytes) -> None:
    """It alone."""
    good, bad = scripted.connect(), scripted.connect()
    bad.send_raw(junk)
    with pytest.raises((AssertionError, ConnectionError)):
        bad.read()
    assert good.ask(raw("t", max_tokens=2)).text() == "ab"
