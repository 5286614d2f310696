"""api.stories and api.bell: news without asking, slow clients, tails of logs"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.api import stories
from meuse.api.bell import Bell
from meuse.core.nouns import Job, JobEvent, Scope
from meuse.core.states import JobStatus
from meuse.store.database import Database
from meuse.store.jobs import SqlJobs


class Counting(SqlJobs):
    """The real store, which counts how often its events are read."""

    reads = 0

    def events(self, job_id: str, after: int, limit: int | None = None) -> list[JobEvent]:
        self.reads += 1
        return super().events(job_id, after, limit)


@pytest.fixture
def bell() -> Bell:
    return Bell()


@pytest.fixture
def store(tmp_path: Path, bell: Bell) -> Iterator[Counting]:
    database = Database(f"sqlite:///{tmp_path / 'meuse.db'}")
    database.migrate("meuse")
    store = Counting(database, bell.ring)
    store.add(
        Job(
            id="job-1", scope=Scope("acme"), kind="train", spec={}, status=JobStatus.QUEUED,
            progress=0.0, attempt=1, metrics={}, result=None, error=None, cancel_requested=False,
            created_ms=1, updated_ms=1,
        )
    )  # fmt: skip
    yield store
    database.close()


def follow(store: SqlJobs, bell: Bell, after: int = 0, beat: float = 5.0) -> AsyncIterator[str]:
    return stories.follow(store, bell, "job-1", after, beat)


def ids(said: list[str]) -> list[int]:
    return [int(line.removeprefix("id: ").split("\n")[0]) for line in said if line[:2] == "id"]


def test_news_comes_at_once_and_nobody_polls(store: Counting, bell: Bell) -> None:
    """What a thread writes reaches a listener well before its next look, with few reads."""

    async def listen() -> tuple[list[str], float]:
        said, late = [], 0.0
        writer = threading.Thread(target=write)
        async for text in follow(store, bell):
            if not said:
                await asyncio.sleep(1.0)  # nothing happens, nothing is read
                writer.start()
            elif "log" in text:
                late = max(late, time.time() - float(text.split('"at": ')[1].split("}")[0]))
            said.append(text)
        writer.join()
        return said, late

    def write() -> None:
        store.update("job-1", status=JobStatus.RUNNING)
        for number in range(5):
            store.add_events("job-1", [("log", {"number": number, "at": time.time()})])
            time.sleep(0.15)
        store.update("job-1", status=JobStatus.SUCCEEDED)

    said, late = asyncio.run(listen())
    assert ids(said) == list(range(1, 8))
    assert late < 3.0  # of heartbeats of 5 s
    assert store.reads <= 12


def test_a_silent_job_has_a_heartbeat(store: Counting, bell: Bell) -> None:
    """Comments come while nothing else does, and what rang no bell is found then."""

    async def listen() -> list[str]:
        said = []
        async for text in follow(store, bell, beat=0.1):
            said.append(text)
            if len(said) == 3:
                quiet = SqlJobs(store._database)  # as another process writes
                quiet.update("job-1", status=JobStatus.CANCELLED)
        return said

    said = asyncio.run(listen())
    assert [text for text in said[:3] if text.startswith(":")]
    assert ids(said) == [1]


def test_a_slow_client_holds_a_page_and_no_thread(store: Counting, bell: Bell) -> None:
    """Of a long story no more is read than the client takes; others are not kept waiting."""
    store.add_events("job-1", [("log", {"number": n}) for n in range(3 * stories.PAGE)])
    store.update("job-1", status=JobStatus.CANCELLED)

    async def listen() -> None:
        slow = [follow(store, bell) for _ in range(100)]  # more than there are threads
        for one in slow:
            await anext(one)
            await anext(one)
        assert store.reads == len(slow)
        quick = [text async for text in follow(store, bell, after=stories.PAGE)]
        assert ids(quick) == list(range(stories.PAGE + 1, 3 * stories.PAGE + 2))
        for one in slow:
            await one.aclose()  # type: ignore[attr-defined]
        assert bell._listeners == {}

    asyncio.run(listen())


@settings(deadline=None)
@given(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=9)),
    st.booleans(), st.integers(0, 8), st.integers(1, 9),
)  # fmt: skip
def test_tails_are_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], closed: bool, n: int, block: int
) -> None:
    """Whatever the lines and the size of the blocks they are read in."""
    text = "\n".join(lines) + ("\n" if closed and lines else "")
    path = tmp_path_factory.mktemp("tail") / "log.txt"
    path.write_bytes(text.encode())
    expected = _lines(text.encode())
    old, stories.BLOCK = stories.BLOCK, block
    try:
        assert b"".join(stories.tail(path, n)) == b"".join(expected[-n:] if n else [])
        assert b"".join(stories.tail(path, None)) == text.encode()
    finally:
        stories.BLOCK = old


def _lines(text: bytes) -> list[bytes]:
    parts = text.split(b"\n")
    return [part + b"\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])


def test_no_log_is_an_empty_one(tmp_path: Path) -> None:
    """A job that has not run yet has said nothing."""
    assert list(stories.tail(tmp_path / "log.txt", 5)) == []
