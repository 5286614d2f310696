"""The queue and the batcher of a replica, with a real engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from meuse.core.errors import Code
from meuse.serve import engines, frames
from meuse.serve.batcher import Item, Queue, batchable, item_of, run_batch
from meuse.serve.frames import Request
from serve import models

DOUBLED = engines.load("onnx", models.doubled())
PICKY = engines.load("onnx", models.picky())


def item(number: int, array: Any, *, alone: bool = False, deadline_ms: int = 1000) -> Item:
    header = Request(
        number, bytes([number]) * 16, deadline_ms, alone, (frames.spec_of("x", array),)
    )
    return item_of(header, [array], None)


def rows(count: int, value: float = 1.0) -> Any:
    return np.full((count, 2), value, np.float32)


def numbers(batch: list[Item]) -> list[int]:
    return [i.header.number for i in batch]


def test_rows_are_counted_not_requests() -> None:
    """A batch ends before it would exceed its rows; a larger request runs by itself."""
    queue = Queue(max_rows=4, max_queue=9, together=True)
    for number, count in enumerate([2, 2, 1, 9, 1]):
        assert queue.add(item(number, rows(count)))
    assert [numbers(queue.take()) for _ in range(4)] == [[0, 1], [2], [3], [4]]
    assert len(queue) == 0


def test_only_what_fits_together_is_joined() -> None:
    """Other shapes and `alone` requests make batches of their own; groups take turns."""
    queue = Queue(max_rows=2, max_queue=9, together=True)
    for number, array in enumerate([rows(1), np.ones((1, 3), np.float32), rows(1), rows(1)]):
        queue.add(item(number, array))
    queue.add(item(4, rows(1), alone=True))
    assert [numbers(queue.take()) for _ in range(4)] == [[0, 2], [1], [4], [3]]


def test_a_full_queue_refuses() -> None:
    """The bound is in requests."""
    queue = Queue(max_rows=4, max_queue=1, together=True)
    assert queue.add(item(0, rows(1)))
    assert not queue.add(item(1, rows(1)))


def test_a_fixed_batch_dimension_is_never_joined() -> None:
    """A model with one fixed row takes requests one by one."""
    fixed = engines.load("onnx", models.identity(models.FLOAT, [1, 2]))
    assert batchable(DOUBLED.signature)
    assert not batchable(fixed.signature)
    queue = Queue(max_rows=4, max_queue=9, together=batchable(fixed.signature))
    queue.add(item(0, rows(1)))
    queue.add(item(1, rows(1)))
    assert numbers(queue.take()) == [0]


def test_answers_are_split_by_request() -> None:
    """Each request gets its own rows and its share of the time; the batch was marked."""
    marked: list[list[bytes]] = []
    batch = [item(0, rows(1, 1.0)), item(1, rows(3, 5.0))]
    done = run_batch(DOUBLED, batch, lambda ids: marked.append(list(ids)), 0)
    assert marked == [[bytes(16), b"\x01" * 16]]
    assert [d.rows for d in done] == [1, 3]
    assert done[0].outputs["y"].tolist() == [[2.0, 2.0]]
    assert done[1].outputs["y"].tolist() == [[10.0, 10.0]] * 3


def test_a_bad_request_fails_alone() -> None:
    """When a batch fails, each of it is run by itself and marked by itself."""
    marked: list[int] = []
    batch = [item(i, np.array([value], np.int64)) for i, value in enumerate([1, 99, 3])]
    done = run_batch(PICKY, batch, lambda ids: marked.append(len(ids)), 0)
    assert marked == [3, 1, 1, 1]
    assert [d.error.code if d.error else d.outputs["y"].tolist() for d in done] == [
        [11],
        Code.ENGINE_ERROR,
        [13],
    ]


def test_expired_requests_are_not_run() -> None:
    """A deadline that has passed gives `deadline_exceeded` and no mark."""
    batch = [item(0, rows(1), deadline_ms=5), item(1, rows(1), deadline_ms=500)]
    marked: list[bytes] = []
    late, ok = run_batch(DOUBLED, batch, marked.extend, 100)
    assert late.error is not None
    assert late.error.code is Code.DEADLINE_EXCEEDED
    assert ok.error is None
    assert marked == [b"\x01" * 16]


def test_unaligned_views_are_copied() -> None:
    """What numpy makes of received bytes may start anywhere; the result is still right."""
    data = b"?" + rows(1, 4.0).tobytes()
    view = np.frombuffer(data, np.float32, 2, 1).reshape(1, 2)
    (done,) = run_batch(DOUBLED, [item(0, view)], lambda ids: None, 0)
    assert done.outputs["y"].tolist() == [[8.0, 8.0]]
