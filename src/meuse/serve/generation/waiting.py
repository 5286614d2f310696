"""Requests that wait for their turn: classes of priority, and tenants in turn within one.

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
    """Bounded in requests."""

    def __init__(self, max_queue: int) -> None:
        self._max_queue = max_queue
        self._queue = Queue(1, max_queue, False, CostModel())
        self._next: Request | None = None  # taken, and too large to start yet

    def __len__(self) -> int:
        return len(self._queue) + (self._next is not None)

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
        self._queue.add(item)
        request.item = item

    def head(self) -> Request | None:
        """Whose turn it is."""
        if self._next is None and len(self._queue):
            self._next = self._queue.take()[0].connection
        return self._next

    def pop(self) -> None:
        """Take what `head` gave."""
        assert self._next is not None
        self._next.item = None
        self._next = None

    def remove(self, request: Request) -> None:
        """One that waits does so no longer."""
        assert request.item is not None
        if request is self._next:
            self._next = None
        else:
            self._queue.cancel(request.item)
        request.item = None
