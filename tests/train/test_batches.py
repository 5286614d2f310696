"""Batches: which rows, in which order, and how images are changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.core.errors import Code, MeuseError
from meuse.train.batches import Arrays, Batches, augmented
from meuse.train.options import Augment


def numbered(rows: int) -> Arrays:
    x = np.arange(rows, dtype=np.float32)[:, None]
    return Arrays(x, np.arange(rows))


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_every_row_comes_once_an_epoch(rows: int, size: int, epoch: int) -> None:
    """In batches of the size asked for, features beside their targets, the rest at the end."""
    batches = Batches(numbered(rows), size, 1, None, shuffle=True)
    found = list(batches.epoch(epoch))
    assert len(found) == len(batches)
    assert [len(y) for _, y in found] == [batches.rows_of(n) for n in range(len(batches))]
    assert sorted(torch.cat([y for _, y in found]).tolist()) == list(range(rows))
    for x, y in found:
        assert torch.equal(x[:, 0].long(), y)


def test_the_order_follows_from_seed_and_epoch() -> None:
    """The same again for the same seed and epoch, another one for others; from the middle too."""

    def order(seed: int, epoch: int, start: int = 0) -> list[int]:
        batches = Batches(numbered(40), 8, seed, None, shuffle=True)
        return torch.cat([y for _, y in batches.epoch(epoch, start)]).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0)[24:] == order(0, 0, 3)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_full_batches_keep_their_order() -> None:
    """Where all rows make one step, shuffling would be idle."""
    batches = Batches(numbered(10), 4, 0, None, shuffle=False)
    assert torch.cat([y for _, y in batches.epoch(0)]).tolist() == list(range(10))


def image(rows: int = 64) -> torch.Tensor:
    return torch.arange(1, 6 * 5 + 1, dtype=torch.uint8).reshape(1, 6, 5, 1).repeat(rows, 1, 1, 2)


def test_images_are_moved_and_mirrored() -> None:
    """Every result is the image moved by at most `shift`, mirrored or not, zeros around it;
    all moves and both directions occur."""
    whole = image(600)
    found = augmented(whole, Augment(shift=1, flip=True), torch.Generator().manual_seed(0))
    assert found.shape == whole.shape
    assert found.dtype == torch.uint8
    padded = np.pad(whole[0, :, :, 0].numpy(), 1)
    allowed = {}
    for down in range(3):
        for right in range(3):
            part = padded[down : down + 6, right : right + 5]
            allowed[part.tobytes()] = (down, right, False)
            allowed[part[:, ::-1].tobytes()] = (down, right, True)
    seen = {allowed[np.ascontiguousarray(one[:, :, 0].numpy()).tobytes()] for one in found}
    assert seen == set(allowed.values())
    assert torch.equal(found[..., 0], found[..., 1])  # channels go together


def test_augmentation_follows_from_seed_epoch_and_batch() -> None:
    """A batch is changed alike whether the epoch was run from its start or resumed there."""
    arrays = Arrays(image(40).numpy(), np.zeros(40, np.int64))
    batches = Batches(arrays, 16, 0, Augment(shift=2, flip=True), shuffle=True)
    whole, rest = list(batches.epoch(3)), list(batches.epoch(3, 1))
    assert torch.equal(whole[1][0], rest[0][0])
    assert not torch.equal(whole[0][0], next(batches.epoch(4))[0])


def test_only_images_are_augmented() -> None:
    """Rows of a table have no left and right."""
    with pytest.raises(MeuseError) as caught:
        Batches(numbered(4), 2, 0, Augment(flip=True), shuffle=True)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_FIELD, "augment")
