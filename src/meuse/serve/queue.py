"""The queue of a replica: who is next, what fits together, who comes too late to wait.

Classes of priority come strictly one after the other. Within a class, flows (tenants) share
the engine by rows: the flow that has been given least is next (start-time fair queueing, Goyal
et al. 1996), so that one tenant's burst does not hold up another's single request. A batch
takes what can be concatenated with its first request (names, datatypes, trailing shapes) as
long as its rows and, by what batches are known to take, its members' due times allow; it never
waits for more. Pure of sockets and of time: moments are given, in µs of one monotonic clock.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature
from meuse.serve.cost import CostModel
from meuse.serve.frames import LOW, Request


@dataclass(slots=True, eq=False)
class Item:
    """One request in the queue. `inputs` are views of received bytes.

    `due_us`: when its answer should be there, the earlier of deadline and objective.
    """

    header: Request
    inputs: dict[str, NDArray[Any]]
    rows: int
    connection: Any
    arrived_us: int = 0
    deadline_us: float = math.inf
    due_us: float = math.inf
    cancelled: bool = False


def item_of(
    header: Request,
    tensors: Sequence[NDArray[Any]],
    connection: Any,
    *,
    now_us: int = 0,
    left_us: float = math.inf,
    objective_us: float = math.inf,
) -> Item:
    """A queue item. Rows are the first dimension of the first input, 1 for a scalar.

    `left_us`: until the deadline.
    """
    inputs: dict[str, NDArray[Any]] = {}
    for spec, tensor in zip(header.tensors, tensors, strict=True):
        inputs[spec.name] = tensor
    shape = header.tensors[0].shape if header.tensors else ()
    return Item(
        header,
        inputs,
        max(shape[0], 1) if shape else 1,
        connection,
        now_us,
        now_us + left_us,
        now_us + min(left_us, objective_us),
    )


def batchable(signature: Signature) -> bool:
    """Whether rows of several requests may be concatenated and the outputs split again."""
    specs = (*signature.inputs, *signature.outputs)
    return all(spec.shape and spec.shape[0] == -1 for spec in specs)


class _Flow:
    """What one tenant has waiting in one class. `given` are the rows it was served, on the
    class's scale."""

    __slots__ = ("given", "items", "name", "rows")

    def __init__(self, name: str, given: float) -> None:
        self.name = name
        self.given = given
        self.items: deque[Item] = deque()
        self.rows = 0


class _Class:
    """One class of priority: its flows, and whose turn it is."""

    def __init__(self) -> None:
        self.flows: dict[str, _Flow] = {}
        self.rows = 0
        self._turns: list[tuple[float, int, _Flow]] = []  # a heap of all but the two below
        self._current: _Flow | None = None
        self._passed: list[_Flow] = []
        self._order = 0
        self._given = 0.0  # of the flow that was served last, before it was

    def add(self, item: Item) -> None:
        name = item.header.flow
        flow = self.flows.get(name)
        if flow is None:
            flow = self.flows[name] = _Flow(name, self._given)
            self._push(flow)
        flow.items.append(item)
        flow.rows += item.rows
        self.rows += item.rows

    def head(self) -> Item | None:
        """The first item of the flow that was given least, of those not passed over."""
        while True:
            flow = self._current
            if flow is None:
                if not self._turns:
                    return None
                flow = self._current = heapq.heappop(self._turns)[2]
            items = flow.items
            while items and items[0].cancelled:
                items.popleft()
            if not items:
                del self.flows[flow.name]
            elif not self._turns or flow.given <= self._turns[0][0]:
                return items[0]
            else:
                self._push(flow)
            self._current = None

    def pop(self) -> None:
        """Take what `head` gave."""
        flow = self._current
        assert flow is not None
        item = flow.items.popleft()
        self.forget(flow, item)
        self._given = flow.given
        flow.given += item.rows

    def pass_over(self) -> None:
        """Leave what `head` gave where it is, and its flow out of account until `again`."""
        assert self._current is not None
        self._passed.append(self._current)
        self._current = None

    def again(self) -> None:
        for flow in self._passed:
            self._push(flow)
        self._passed.clear()

    def forget(self, flow: _Flow, item: Item) -> None:
        flow.rows -= item.rows
        self.rows -= item.rows

    def _push(self, flow: _Flow) -> None:
        self._order += 1
        heapq.heappush(self._turns, (flow.given, self._order, flow))


class Queue:
    """Bounded in requests. `take` never waits: it gives what is there."""

    def __init__(self, max_rows: int, max_queue: int, together: bool, cost: CostModel) -> None:
        self._max_rows = max_rows
        self._max_queue = max_queue
        self._together = together
        self._cost = cost
        self._classes = [_Class() for _ in range(LOW + 1)]
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, item: Item, busy_us: float = 0.0, now_us: float = 0.0) -> None:
        """Queue a request. `busy_us`: until the engine is free.

        Raises `overloaded` when the queue is full, or when the answer would come after the
        deadline by what is known: better told now than after the wait.
        """
        if self._length >= self._max_queue:
            raise _overloaded("the replica's queue is full", self.predict(item, busy_us))
        if self._length or busy_us > 0:  # an idle engine tries: so a wrong guess mends itself
            wait = self.predict(item, busy_us)
            if now_us + wait > item.deadline_us:
                raise _overloaded(
                    "the answer would come after the deadline",
                    now_us + wait - item.deadline_us,
                )
        self._classes[_class_of(item)].add(item)
        self._length += 1

    def cancel(self, item: Item) -> None:
        """Take a waiting item out."""
        item.cancelled = True
        mine = self._classes[_class_of(item)]
        mine.forget(mine.flows[item.header.flow], item)
        self._length -= 1

    def predict(self, item: Item, busy_us: float) -> float:
        """µs from now until this item, if it were added, would be answered."""
        mine = self._classes[_class_of(item)]
        ahead = sum([c.rows for c in self._classes[: _class_of(item)]])
        flow = mine.flows.get(item.header.flow)
        own = flow.rows if flow is not None else 0
        # By taking turns, others get at most as much as this flow before it is through.
        others = len(mine.flows) - (flow is not None)
        ahead += min(mine.rows, own + others * (own + item.rows))
        if not self._together:
            return busy_us + self._cost.predict(1) * (ahead + item.rows)
        most = self._max_rows
        full, rest = divmod(ahead + item.rows, most)
        cost = self._cost
        return busy_us + full * cost.predict(most) + (cost.predict(rest) if rest else 0.0)

    def take(self, now_us: float = 0.0) -> list[Item]:
        """The next batch: at least one request, at most `max_rows` rows if it is several.

        Empty only when nothing waits.
        """
        if self._length == 1:  # whatever it is, it is the batch
            return [self._only()]
        batch: list[Item] = []
        for waiting in self._classes:
            if waiting.rows and not self._fill(batch, waiting, now_us):
                break
        self._length -= len(batch)
        return batch

    def _only(self) -> Item:
        waiting = next(c for c in self._classes if c.rows)
        item = waiting.head()
        assert item is not None
        waiting.pop()
        self._length = 0
        return item

    def _fill(self, batch: list[Item], waiting: _Class, now_us: float) -> bool:
        """Add what fits of one class; whether there may be room for more."""
        rows = sum([item.rows for item in batch])
        due = min([self._due(item, now_us) for item in batch], default=math.inf)
        first = batch[0] if batch else None
        key = self._key(first) if first else None
        room = True
        while room and (item := waiting.head()) is not None:
            if first is None:
                first, key, due = item, self._key(item), self._due(item, now_us)
            elif self._key(item, first, key) != key:
                waiting.pass_over()
                continue
            else:
                both = min(due, self._due(item, now_us))
                if rows + item.rows > self._max_rows or (
                    now_us + self._cost.predict(rows + item.rows) > both
                ):
                    room = False
                    break
                due = both
            waiting.pop()
            batch.append(item)
            rows += item.rows
            room = key is not None and rows < self._max_rows
        waiting.again()
        return room

    def _key(self, item: Item, like: Item | None = None, key: object = None) -> object:
        """What items must have in common to be one batch; None is never joined. `key`: that of
        `like`, which most others equal in every dimension."""
        if not self._together or item.header.alone:
            return None
        if like is not None and item.header.tensors == like.header.tensors:
            return key
        return tuple([(s.name, s.datatype, s.shape[1:]) for s in item.header.tensors])

    def _due(self, item: Item, now_us: float) -> float:
        """What holds the batch down: nothing, for one that is late even by itself."""
        alone = now_us + self._cost.predict(item.rows)
        if alone <= item.due_us:
            return item.due_us
        return item.deadline_us if alone <= item.deadline_us else math.inf


def _class_of(item: Item) -> int:
    return min(max(item.header.priority, 0), LOW)


def _overloaded(message: str, wait_us: float) -> MeuseError:
    return MeuseError(
        Code.OVERLOADED,
        message,
        hint="Try again later, or add replicas.",
        retry_after_s=max(1, math.ceil(wait_us / 1e6)),
    )
