"""Running batches, with a real engine."""

from __future__ import annotations

from typing import Any

import numpy as np

from meuse.core.errors import Code
from meuse.serve import engines, frames
from meuse.serve.batcher import now_us, run_batch
from meuse.serve.frames import Request
from meuse.serve.queue import Item, item_of
from serve import models

DOUBLED = engines.load("onnx", models.doubled())
PICKY = engines.load("onnx", models.picky())


def item(number: int, array: Any, *, left_us: float = 60e6) -> Item:
    header = Request(number, bytes([number]) * 16, 0, False, (frames.spec_of("x", array),))
    return item_of(header, [array], None, now_us=now_us(), left_us=left_us)


def rows(count: int, value: float = 1.0) -> Any:
    return np.full((count, 2), value, np.float32)


def test_answers_are_split_by_request() -> None:
    """Each request gets its own rows and its share of the time; the batch was marked."""
    marked: list[list[bytes]] = []
    batch = [item(0, rows(1, 1.0)), item(1, rows(3, 5.0))]
    done = run_batch(DOUBLED, batch, lambda ids: marked.append(list(ids)))
    assert marked == [[bytes(16), b"\x01" * 16]]
    assert [d.rows for d in done] == [1, 3]
    assert done[0].outputs["y"].tolist() == [[2.0, 2.0]]
    assert done[1].outputs["y"].tolist() == [[10.0, 10.0]] * 3


def test_a_bad_request_fails_alone() -> None:
    """When a batch fails, each of it is run by itself and marked by itself."""
    marked: list[int] = []
    batch = [item(i, np.array([value], np.int64)) for i, value in enumerate([1, 99, 3])]
    done = run_batch(PICKY, batch, lambda ids: marked.append(len(ids)))
    assert marked == [3, 1, 1, 1]
    assert [d.error.code if d.error else d.outputs["y"].tolist() for d in done] == [
        [11],
        Code.ENGINE_ERROR,
        [13],
    ]


def test_expired_requests_are_not_run() -> None:
    """A deadline that has passed gives `deadline_exceeded` and no mark."""
    batch = [item(0, rows(1), left_us=-1), item(1, rows(1))]
    marked: list[bytes] = []
    late, ok = run_batch(DOUBLED, batch, marked.extend)
    assert late.error is not None
    assert late.error.code is Code.DEADLINE_EXCEEDED
    assert ok.error is None
    assert marked == [b"\x01" * 16]


def test_cancelled_requests_are_not_run() -> None:
    """Nor marked: a death of the engine is none of their doing."""
    batch = [item(0, rows(1)), item(1, rows(1))]
    batch[0].cancelled = True
    marked: list[bytes] = []
    gone, ok = run_batch(DOUBLED, batch, marked.extend)
    assert gone.error is not None
    assert (gone.error.code, gone.compute_us) == (Code.CANCELLED, 0)
    assert ok.error is None
    assert marked == [b"\x01" * 16]


def test_every_batch_is_counted_once() -> None:
    """The first answer of a batch has its rows; runs one by one are batches of their own."""
    done = run_batch(DOUBLED, [item(i, rows(i + 1)) for i in range(3)], lambda ids: None)
    assert [d.batch_rows for d in done] == [6, 0, 0]
    assert all(d.queue_us >= 0 for d in done)
    picky = [item(i, np.array([value], np.int64)) for i, value in enumerate([1, 99])]
    assert [d.batch_rows for d in run_batch(PICKY, picky, lambda ids: None)] == [1, 1]


def test_unaligned_views_are_copied() -> None:
    """What numpy makes of received bytes may start anywhere; the result is still right."""
    data = b"?" + rows(1, 4.0).tobytes()
    view = np.frombuffer(data, np.float32, 2, 1).reshape(1, 2)
    (done,) = run_batch(DOUBLED, [item(0, view)], lambda ids: None)
    assert done.outputs["y"].tolist() == [[8.0, 8.0]]
