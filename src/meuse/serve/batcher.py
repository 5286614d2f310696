"""The queue and the batcher of a replica: pure of sockets and of time.

Requests are grouped by what can be concatenated (names, datatypes, trailing shapes), in the
order of arrival; groups take turns. A batch is bounded in rows. Whatever fails together is
run again one by one, so that a bad request fails alone.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature
from meuse.core.ports import Engine
from meuse.serve.frames import Request

Mark = Callable[[Sequence[bytes]], None]


@dataclass(slots=True, eq=False)
class Item:
    """One request in the queue. `inputs` are views of received bytes."""

    header: Request
    inputs: dict[str, NDArray[Any]]
    rows: int
    connection: Any


@dataclass(slots=True)
class Done:
    """One answer. `error` and `outputs` exclude each other."""

    item: Item
    outputs: dict[str, NDArray[Any]]
    rows: int
    compute_us: int
    error: MeuseError | None = None


def item_of(header: Request, tensors: Sequence[NDArray[Any]], connection: Any) -> Item:
    """A queue item. Rows are the first dimension of the first input, 1 for a scalar."""
    inputs = {spec.name: tensor for spec, tensor in zip(header.tensors, tensors, strict=True)}
    shape = header.tensors[0].shape if header.tensors else ()
    return Item(header, inputs, max(shape[0], 1) if shape else 1, connection)


def batchable(signature: Signature) -> bool:
    """Whether rows of several requests may be concatenated and the outputs split again."""
    specs = (*signature.inputs, *signature.outputs)
    return all(spec.shape and spec.shape[0] == -1 for spec in specs)


class Queue:
    """Bounded in requests. `take` never waits: it gives what is there."""

    def __init__(self, max_rows: int, max_queue: int, together: bool) -> None:
        self._max_rows = max_rows
        self._max_queue = max_queue
        self._together = together
        self._groups: OrderedDict[object, deque[Item]] = OrderedDict()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, item: Item) -> bool:
        """False when the queue is full."""
        if self._length >= self._max_queue:
            return False
        key: object = item  # a group of its own
        if self._together and not item.header.alone:
            key = tuple([(s.name, s.datatype, s.shape[1:]) for s in item.header.tensors])
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = deque()
        group.append(item)
        self._length += 1
        return True

    def take(self) -> list[Item]:
        """The next batch: at least one request, at most `max_rows` rows if it is several."""
        key, group = self._groups.popitem(last=False)
        batch = [group.popleft()]
        rows = batch[0].rows
        while group and rows + group[0].rows <= self._max_rows:
            rows += group[0].rows
            batch.append(group.popleft())
        if group:
            self._groups[key] = group  # behind the other groups
        self._length -= len(batch)
        return batch


def run_batch(engine: Engine, batch: list[Item], mark: Mark, now_ms: int) -> list[Done]:
    """Answer every request of a batch, expired ones without running them."""
    live, done = [], []
    for item in batch:
        if item.header.deadline_ms <= now_ms:
            error = MeuseError(
                Code.DEADLINE_EXCEEDED, "the deadline passed while the request was queued"
            )
            done.append(Done(item, {}, 0, 0, error))
        else:
            live.append(item)
    if not live:
        return done
    mark([item.header.id for item in live])
    started = time.perf_counter_ns()
    try:
        outputs = _run(engine, live)
    except Exception as error:  # whatever an engine raises
        if len(live) == 1:
            spent = (time.perf_counter_ns() - started) // 1000
            done.append(Done(live[0], {}, 0, spent, _engine_error(error)))
        else:
            for item in live:
                done += run_batch(engine, [item], mark, now_ms)
        return done
    spent = (time.perf_counter_ns() - started) // 1000
    if len(live) == 1:
        done.append(Done(live[0], outputs, live[0].rows, spent))
        return done
    total, start = sum([item.rows for item in live]), 0
    for item in live:
        end = start + item.rows
        mine = {name: value[start:end] for name, value in outputs.items()}
        # Shares are cut by position so that they add up to the whole.
        share = spent * end // total - spent * start // total
        done.append(Done(item, mine, item.rows, share))
        start = end
    return done


def _run(engine: Engine, items: list[Item]) -> dict[str, NDArray[Any]]:
    if len(items) == 1:
        # Views of received bytes may be unaligned, which an engine need not expect.
        single = {n: a if a.flags.aligned else a.copy() for n, a in items[0].inputs.items()}
        return engine.run(single)
    joined = {
        name: np.concatenate([item.inputs[name] for item in items]) for name in items[0].inputs
    }
    rows = sum([item.rows for item in items])
    outputs = engine.run(joined)
    for name, value in outputs.items():
        if value.shape[:1] != (rows,):
            raise ValueError(f"output {name!r} has shape {value.shape} for {rows} rows")
    return outputs


def _engine_error(error: Exception) -> MeuseError:
    if isinstance(error, MeuseError):
        return error
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return MeuseError(Code.ENGINE_ERROR, f"the model failed: {lines[0][:500]}")
