"""BYTES tensors: their serialisation, and how the batcher treats them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.core.errors import Code
from meuse.serve import engines, frames, strings
from meuse.serve.batcher import run_batch
from meuse.serve.cost import CostModel
from meuse.serve.frames import Request
from meuse.serve.queue import Item, Queue, batchable, item_of
from serve import models

words = st.lists(st.binary(max_size=20), max_size=12)


@given(words, st.binary(max_size=5), st.binary(max_size=5))
def test_what_is_packed_is_unpacked(given: list[bytes], before: bytes, after: bytes) -> None:
    """At any offset, and it says where it ended."""
    array = strings.array_of(given, (len(given),))
    packed = strings.pack(array)
    assert len(packed) == strings.size(array)
    start = len(before)
    got, end = strings.unpack(before + packed + after, start, start + len(packed), len(given))
    assert (got.tolist(), end) == (given, start + len(packed))


@given(words.filter(bool), st.data())
def test_nothing_is_read_beyond_the_end(given: list[bytes], data: st.DataObject) -> None:
    """However the bytes go on behind it."""
    packed = strings.pack(strings.array_of(given, (len(given),)))
    end = data.draw(st.integers(0, len(packed) - 1))
    with pytest.raises(ValueError, match=r"cut short|at least"):
        strings.unpack(packed, 0, end, len(given))


def item(number: int, given: list[bytes]) -> Item:
    array = strings.array_of(given, (len(given),))
    specs = (frames.spec_of("x", array),)
    return item_of(Request(number, bytes([number]) * 16, 1000, False, specs), [array], None)


def test_strings_are_batched_too() -> None:
    """BYTES are joined and split like numbers; bytes that are no text fail alone."""
    texts = engines.load("onnx", models.identity(models.STRING, ["n"]))
    given = [[b"a"], [b"", "né".encode()], [b"\xff"]]
    queue = Queue(9, 9, batchable(texts.signature), CostModel())
    for number, one in enumerate(given):
        queue.add(item(number, one))
    done = run_batch(texts, queue.take(), lambda ids: None)
    assert [d.outputs["y"].tolist() for d in done[:2]] == given[:2]
    assert done[2].error is not None
    assert done[2].error.code is Code.INVALID_INPUT
