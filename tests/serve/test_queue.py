"""serve.queue: who is next, what fits together, who is refused."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.serve import engines, frames
from meuse.serve.cost import CostModel
from meuse.serve.frames import HIGH, LOW, NORMAL, Request
from meuse.serve.queue import Item, Queue, batchable, item_of
from serve import models


def item(
    number: int,
    rows: int = 1,
    width: int = 2,
    *,
    alone: bool = False,
    priority: int = NORMAL,
    flow: str = "",
    **times: float,
) -> Item:
    array = np.ones((rows, width), np.float32)
    spec = frames.spec_of("x", array)
    header = Request(number, number.to_bytes(16, "big"), 0, alone, (spec,), priority, flow)
    return item_of(header, [array], None, **times)  # type: ignore[arg-type]


def queue_of(max_rows: int, max_queue: int = 1000, *, cost: CostModel | None = None) -> Queue:
    return Queue(max_rows, max_queue, True, cost or CostModel())


def known(fixed: float, slope: float) -> CostModel:
    cost = CostModel()
    for rows in (1, 64) * 4:
        cost.observe(rows, fixed + slope * rows)
    return cost


def numbers(batch: list[Item]) -> list[int]:
    return [i.header.number for i in batch]


def test_rows_are_counted_not_requests() -> None:
    """A batch ends before it would exceed its rows; a larger request runs by itself."""
    queue = queue_of(4)
    for number, count in enumerate([2, 2, 1, 9, 1]):
        queue.add(item(number, count))
    assert [numbers(queue.take()) for _ in range(4)] == [[0, 1], [2], [3], [4]]
    assert len(queue) == 0
    assert queue.take() == []


def test_only_what_fits_together_is_joined() -> None:
    """Other shapes and `alone` requests make batches of their own, each in its turn."""
    queue = queue_of(4)
    for number, width in enumerate([2, 3, 2, 2]):
        queue.add(item(number, width=width, flow=str(width)))
    queue.add(item(4, alone=True, flow="2"))
    assert [numbers(queue.take()) for _ in range(3)] == [[0, 2, 3], [1], [4]]


def test_a_full_queue_refuses() -> None:
    """The bound is in requests; the refusal says when to come again."""
    queue = queue_of(4, 1, cost=known(0, 1_900_000))
    queue.add(item(0))
    with pytest.raises(MeuseError) as refusal:
        queue.add(item(1))
    assert (refusal.value.code, refusal.value.retry_after_s) == (Code.OVERLOADED, 4)
    assert len(queue) == 1


def test_a_fixed_batch_dimension_is_never_joined() -> None:
    """A model with one fixed row takes requests one by one."""
    fixed = engines.load("onnx", models.identity(models.FLOAT, [1, 2]))
    assert batchable(engines.load("onnx", models.doubled()).signature)
    assert not batchable(fixed.signature)
    queue = Queue(4, 9, batchable(fixed.signature), CostModel())
    queue.add(item(0))
    queue.add(item(1))
    assert numbers(queue.take()) == [0]


def test_a_batch_grows_only_as_the_objective_allows() -> None:
    """At 1 ms a row and 3 ms to go, three rows are a batch; nothing is waited for."""
    queue = queue_of(64, cost=known(0, 1000))
    for number in range(8):
        queue.add(item(number, left_us=60e6, objective_us=3500.0))
    assert numbers(queue.take(0.0)) == [0, 1, 2]
    # What cannot meet its objective any more is not spared by smaller batches.
    assert numbers(queue.take(100_000.0)) == [3, 4, 5, 6, 7]


def test_what_would_be_late_is_refused_at_once() -> None:
    """At 5 ms a row and a deadline of 22 ms, the fifth in line is told so, not the fourth."""
    queue = queue_of(1, cost=known(0, 5000))
    for number in range(4):
        queue.add(item(number, left_us=22_000), busy_us=1.0, now_us=0.0)
    with pytest.raises(MeuseError) as refusal:
        queue.add(item(4, left_us=22_000), busy_us=1.0, now_us=0.0)
    assert refusal.value.code is Code.OVERLOADED
    assert refusal.value.retry_after_s == 1
    queue.add(item(5, left_us=30_000), busy_us=1.0, now_us=0.0)


def test_an_idle_engine_always_tries() -> None:
    """A wrong idea of what a batch takes must not refuse for ever."""
    queue = queue_of(1, cost=known(0, 5e6))
    queue.add(item(0, left_us=1000), busy_us=0.0, now_us=0.0)
    assert len(queue) == 1


def test_higher_classes_come_first() -> None:
    """Then normal ones, and low ones fill what room is left."""
    queue = queue_of(2)
    for number, priority in enumerate([LOW, LOW, NORMAL, HIGH, NORMAL]):
        queue.add(item(number, priority=priority))
    assert [numbers(queue.take()) for _ in range(3)] == [[3, 2], [4, 0], [1]]


def test_one_tenants_burst_does_not_hold_up_another() -> None:
    """The second tenant's request is in the next batch, though a hundred came before."""
    queue = queue_of(4)
    for number in range(100):
        queue.add(item(number, flow="hog"))
    queue.take()
    queue.add(item(1000, flow="meek"))
    queue.add(item(1001, flow="meek"))
    assert {1000, 1001} <= set(numbers(queue.take()))


def test_the_meek_are_not_refused_for_the_hogs_queue() -> None:
    """A backlog of one tenant is not counted against another's deadline beyond its turns."""
    queue = queue_of(1, cost=known(0, 1000))
    for number in range(1000 - 1):
        queue.add(item(number, flow="hog", left_us=60e6), 1.0, 0.0)
    queue.add(item(1000, flow="meek", left_us=5000), 1.0, 0.0)
    assert 1000 in {number for _ in range(3) for number in numbers(queue.take())}


def test_what_is_cancelled_is_not_taken() -> None:
    """Nor counted, wherever in the queue it stood."""
    queue = queue_of(8)
    items = [item(number, flow="ab"[number % 2]) for number in range(6)]
    for one in items:
        queue.add(one)
    for number in (0, 3, 5):
        queue.cancel(items[number])
    assert len(queue) == 3
    assert sorted(numbers(queue.take())) == [1, 2, 4]
    assert queue.take() == []
    queue.add(item(9, flow="a"))
    assert numbers(queue.take()) == [9]


_ITEMS = st.lists(
    st.tuples(
        st.integers(1, 6),  # rows
        st.sampled_from([2, 3]),  # width: what fits together
        st.sampled_from([HIGH, NORMAL, LOW]),
        st.sampled_from("abc"),
        st.booleans(),  # alone
        st.booleans(),  # cancelled
    ),
    max_size=40,
)


@settings(deadline=None)
@given(_ITEMS, st.integers(1, 8), st.integers(0, 3))
def test_everything_comes_out_once(given_items: Any, max_rows: int, between: int) -> None:
    """Each request that was not cancelled is in exactly one batch, in order within its flow,
    class and kind; batches hold to their rows and to what can be joined."""
    queue = queue_of(max_rows, cost=known(10, 5))
    out: list[Item] = []
    items = []
    for number, (rows, width, priority, flow, alone, gone) in enumerate(given_items):
        one = item(number, rows, width, alone=alone, priority=priority, flow=flow)
        queue.add(one)
        items.append(one)
        if gone:
            queue.cancel(one)
        if len(queue) and between and number % between == 0:
            out += checked(queue.take(), max_rows)
    while len(queue):
        out += checked(queue.take(), max_rows)
    assert queue.take() == []
    assert sorted(numbers(out)) == sorted(i.header.number for i in items if not i.cancelled)
    kinds: dict[object, list[int]] = {}
    for one in out:
        kind = (one.header.flow, one.header.priority)
        kinds.setdefault(kind, []).append(one.header.number)
    assert all(found == sorted(found) for found in kinds.values())


def checked(batch: list[Item], max_rows: int) -> list[Item]:
    assert batch
    assert len(batch) == 1 or sum(i.rows for i in batch) <= max_rows
    assert len({i.header.tensors[0].shape[1:] for i in batch}) == 1
    assert len(batch) == 1 or not any(i.header.alone for i in batch)
    assert all(math.isinf(i.due_us) for i in batch)
    return batch
