"""Requests that wait for their turn: by adapter, then classes of priority, and tenants in turn
within one.

The rules are those of `serve.queue`; a request counts as many rows as it wants choices.
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


class Waiting:
    """Bounded in requests. Each adapter has a queue of its own, "" is the base's."""

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._lines: dict[str, _Line] = {}

    def __len__(self) -> int:
        return sum([len(line) for line in self._lines.values()])

    def classes(self) -> dict[str, int]:
        """By adapter that anything waits for, the best class of priority that does."""
        return {adapter: line.best() for adapter, line in self._lines.items()}

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
        line = self._lines.get(request.ask.adapter)
        if line is None:
            line = self._lines[request.ask.adapter] = _Line(self._max_queue)
        line.queue.add(item)
        line.classes[_class_of(request)] += 1
        request.item = item

    def head(self, adapter: str) -> Request | None:
        """Whose turn it is among those of an adapter."""
        line = self._lines.get(adapter)
        if line is None:
            return None
        if line.next is None:
            line.next = line.queue.take()[0].connection
        return line.next

    def pop(self, request: Request) -> None:
        """Take what `head` gave."""
        self._lines[request.ask.adapter].next = None
        self._left(request)

    def remove(self, request: Request) -> None:
        """One that waits does so no longer."""
        assert request.item is not None
        line = self._lines[request.ask.adapter]
        if request is line.next:
            line.next = None
        else:
            line.queue.cancel(request.item)
        self._left(request)

    def _left(self, request: Request) -> None:
        request.item = None
        line = self._lines[request.ask.adapter]
        line.classes[_class_of(request)] -= 1
        if not len(line):
            del self._lines[request.ask.adapter]


class _Line:
    """What waits for one adapter."""

    __slots__ = ("classes", "next", "queue")

    def __init__(self, max_queue: int) -> None:
        self.queue = Queue(1, max_queue, False, CostModel())
        self.next: Request | None = None  # taken, and too large to start yet
        self.classes = [0] * (frames.LOW + 1)

    def __len__(self) -> int:
        return len(self.queue) + (self.next is not None)

    def best(self) -> int:
        return next(i for i, count in enumerate(self.classes) if count)


def _class_of(request: Request) -> int:
    return min(max(request.header.priority, frames.HIGH), frames.LOW)
