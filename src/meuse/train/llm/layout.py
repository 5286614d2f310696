"""How examples lie in rows of one length, several in a row where they are packed.

Tokens of one example see those before them in the same example and nothing else, and count their
positions from its beginning: packed or not, the loss is the same. Knows torch; knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from meuse.train.llm.examples import Example

IGNORED = -100
"""A target that is none."""
STEP_TOKENS = 1024
"""Of one pass through the model, padding included, unless a row alone is longer: bounds memory."""
LEAST_ROW = 256
"""Rows of packed examples are at least so long: below that attention costs next to nothing."""


@dataclass(frozen=True, slots=True)
class Rows:
    """`tokens`, `positions` and `targets` [rows, length]; `mask` [rows, 1, length, length] is true
    where a token (third) sees another (fourth). A target stands where its token is told from:
    one place before it. `columns` are the places of which any row has a target."""

    tokens: Tensor
    positions: Tensor
    mask: Tensor
    targets: Tensor
    columns: Tensor
    real: int
    """Tokens without padding."""


def step(examples: Sequence[Example], max_tokens: int, packed: bool) -> Iterator[Rows]:
    """The examples of a batch, laid out in parts of about `STEP_TOKENS`."""
    length = max(map(len, examples))
    if packed:
        length = min(max_tokens, max(length, LEAST_ROW))
    groups = _packed([len(e) for e in examples], length) if packed else _alone(len(examples))
    at_once = max(1, STEP_TOKENS // length)
    for start in range(0, len(groups), at_once):
        part = groups[start : start + at_once]
        yield rows([[examples[i] for i in group] for group in part])


def rows(groups: Sequence[Sequence[Example]]) -> Rows:
    """One row for each group, as long as the longest."""
    length = max(sum(map(len, group)) for group in groups)
    shape = (len(groups), length)
    tokens = torch.zeros(shape, dtype=torch.long)
    positions = torch.zeros(shape, dtype=torch.long)
    owner = torch.full(shape, -1, dtype=torch.long)  # padding sees padding: no row of nothing
    targets = torch.full(shape, IGNORED, dtype=torch.long)
    for row, group in enumerate(groups):
        at = 0
        for number, example in enumerate(group):
            end = at + len(example)
            own = torch.tensor(example.tokens)
            tokens[row, at:end] = own
            positions[row, at:end] = torch.arange(len(example))
            owner[row, at:end] = number
            learned = torch.tensor(example.taught[1:])
            targets[row, at : end - 1] = torch.where(learned, own[1:], IGNORED)
            at = end
    before = torch.ones(length, length, dtype=torch.bool).tril()
    mask = (owner[:, :, None] == owner[:, None, :]) & before
    columns = (targets != IGNORED).any(0).nonzero()[:, 0]
    real = sum(len(example) for group in groups for example in group)
    return Rows(tokens, positions, mask[:, None], targets, columns, real)


def _alone(count: int) -> list[list[int]]:
    return [[i] for i in range(count)]


def _packed(lengths: Sequence[int], room: int) -> list[list[int]]:
    """First fit, the longest first: which examples share a row of `room` tokens."""
    groups: list[list[int]] = []
    left: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((g for g, free in enumerate(left) if free >= lengths[i]), None)
        if place is None:
            place = len(groups)
            groups.append([])
            left.append(room)
        groups[place].append(i)
        left[place] -= lengths[i]
    return groups
