"""Requests that wait for their turn: by adapter, then classes of priority, and tenants in turn
within one.

The rules are those of `serve.queue`; a request counts as many rows as it wants choices. Those of
the class LOW stand apart: they may be held back, or start before better ones (see `spare`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

from meuse.core.errors import Code, MeuseError
from meuse.serve import frames
from meuse.serve.cost import CostModel
from meuse.serve.generation.choice import Choice
from meuse.serve.generation.messages import Ask
from meuse.serve.generation.prompt import Prompt
from meuse.serve.queue import Item, Queue

if TYPE_CHECKING:
    from meuse.serve.generation.connection import Connection


@dataclass(slots=True, eq=False)
class Request:
    """One request from arrival to its last word."""

    header: frames.Generate
    connection: Connection
    arrived_us: int
    deadline_us: float
    ask: Ask = field(default_factory=Ask)
    prompt: Prompt | None = None
    choices: list[Choice] = field(default_factory=list)
    started_us: int = 0
    ended: bool = False
    item: Item | None = None

    @property
    def tokens(self) -> int:
        """Produced so far, over all choices."""
        return sum([choice.tokens for choice in self.choices])

    @property
    def waits(self) -> bool:
        return self.item is not None

    @property
    def priority(self) -> int:
        """Its class."""
        return min(max(self.header.priority, frames.HIGH), frames.LOW)

    def late(self) -> MeuseError:
        """What to tell when its deadline has passed. One that was held back is to come again."""
        if self.waits and self.priority == frames.LOW:
            return MeuseError(
                Code.OVERLOADED,
                "others kept the replica busy until the deadline",
                hint="Try again later, or add replicas.",
                retry_after_s=1,
            )
        return MeuseError(Code.DEADLINE_EXCEEDED, "the deadline passed before the text was whole")


class Waiting:
    """Bounded in requests. Each adapter, "" is the base, has a queue for LOW and one for others."""

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._lines: dict[tuple[str, bool], _Line] = {}  # by adapter, and whether it is LOW's

    def __len__(self) -> int:
        return sum([len(line.requests) for line in self._lines.values()])

    def classes(self) -> dict[str, int]:
        """By adapter that any of a better class than LOW waits for, the best that does."""
        return {adapter: line.best() for (adapter, low), line in self._lines.items() if not low}

    def low(self, now_us: int) -> dict[str, float]:
        """By adapter that any of LOW waits for, how long the first has (µs)."""
        return {
            adapter: now_us - next(iter(line.requests)).arrived_us
            for (adapter, low), line in self._lines.items()
            if low
        }

    def of(self, adapter: str) -> list[Request]:
        """All that wait for it."""
        lines = [self._lines.get((adapter, low)) for low in (False, True)]
        return [request for line in lines if line is not None for request in line.requests]

    def expect(self) -> None:
        """Raises `overloaded` when no place is left: told before a prompt is read for nothing."""
        if len(self) >= self._max_queue:
            raise MeuseError(
                Code.OVERLOADED,
                "the replica's queue is full",
                hint="Try again later, or add replicas.",
                retry_after_s=1,
            )

    def add(self, request: Request) -> None:
        """Raises `overloaded`."""
        item = Item(
            cast("frames.Request", request.header),  # what the queue reads of it they share
            {},
            request.ask.sampling.n,
            request,
            request.arrived_us,
            request.deadline_us,
            request.deadline_us,
        )
        line = self._lines.get(_key(request))
        if line is None:
            line = self._lines[_key(request)] = _Line(self._max_queue)
        line.queue.add(item)
        line.requests[request] = None
        line.classes[request.priority] += 1
        request.item = item

    def head(self, adapter: str, low: bool) -> Request | None:
        """Whose turn it is among those of an adapter, of LOW or of the classes above."""
        line = self._lines.get((adapter, low))
        if line is None:
            return None
        if line.next is None:
            line.next = line.queue.take()[0].connection
        return line.next

    def pop(self, request: Request) -> None:
        """Take what `head` gave."""
        self._lines[_key(request)].next = None
        self._left(request)

    def remove(self, request: Request) -> None:
        """One that waits does so no longer."""
        assert request.item is not None
        line = self._lines[_key(request)]
        if request is line.next:
            line.next = None
        else:
            line.queue.cancel(request.item)
        self._left(request)

    def _left(self, request: Request) -> None:
        request.item = None
        line = self._lines[_key(request)]
        del line.requests[request]
        line.classes[request.priority] -= 1
        if not line.requests:
            del self._lines[_key(request)]


class _Line:
    """One queue, and all that wait in it in the order in which they came."""

    __slots__ = ("classes", "next", "queue", "requests")

    def __init__(self, max_queue: int) -> None:
        self.queue = Queue(1, max_queue, False, CostModel())
        self.next: Request | None = None  # taken, and too large to start yet
        self.requests: dict[Request, None] = {}
        self.classes = [0] * (frames.LOW + 1)

    def best(self) -> int:
        return next(i for i, count in enumerate(self.classes) if count)


def _key(request: Request) -> tuple[str, bool]:
    return request.ask.adapter, request.priority == frames.LOW
