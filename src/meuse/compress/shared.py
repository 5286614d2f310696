"""Weights that share values: which do, and how the values train while the codes stay.

Knows tensors and parametrizations; knows no layer, no method and no loop.

Source: Han, Mao and Dally, Deep Compression, arXiv:1510.00149, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

MOST = 256
"""Values that a shared weight has at most, zero left out."""
LEAST = 4
"""A shared weight is more than so many times as large as its codebook."""
_SAMPLE = 4096
_TELLING = 3  # values: two layers of fewer may have the same ones by chance


class Codebook:
    """Values of one weight or of several; `centroids` is the parameter that holds them,
    `counts` how many weights have each."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.centroids = values
        self.counts = torch.zeros(len(values), dtype=torch.int64)


class Shared(nn.Module):
    """A parametrization: each weight is a value of its codebook, or 0; the values train.

    The original is the codebook [k] where this weight is the first of it, else nothing. The
    gradient of a value is the sum over its weights (equation 3 of the paper), divided by their
    number: then a step of the weights' own learning rate moves the value as far as the mean of
    their steps, which is that step projected onto weights that stay equal.
    """

    codes: Tensor
    places: Tensor

    def __init__(self, weight: Tensor, book: Codebook, *, first: bool) -> None:
        super().__init__()
        self.book, self.first, self.shape = book, first, weight.shape
        flat = weight.reshape(-1)
        places = flat.nonzero().squeeze(1)
        codes = torch.searchsorted(book.values, flat[places])
        self.register_buffer("codes", codes)
        self.register_buffer("places", places)
        book.counts += torch.bincount(codes, minlength=len(book.values))

    def forward(self, original: Tensor) -> Tensor:
        if self.first:
            self.book.centroids = original
        found: Tensor = _Spread.apply(  # type: ignore[no-untyped-call]
            self.book.centroids, self.codes, self.places, self.book.counts, self.shape
        )
        return found

    def right_inverse(self, weight: Tensor) -> Tensor:
        return self.book.values.clone() if self.first else weight.new_empty(0)


def settle(held: Sequence[Any]) -> None:
    """Let parametrized weights (`ParametrizationList`s) of one codebook be removed in any order:
    each keeps the values as they are now."""
    for parametrizations in held:
        form = parametrizations[0]
        if isinstance(form, Shared) and form.first:
            form.book.centroids = parametrizations.original.detach().clone()
            form.first = False


class _Spread(torch.autograd.Function):
    """Values [k] to a weight whose nonzero places have them."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, codes: Tensor, places: Tensor, counts: Tensor, shape: torch.Size
    ) -> Tensor:
        ctx.save_for_backward(codes, places, counts)
        found = values.new_zeros(shape.numel())
        found[places] = values[codes]
        return found.view(shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        codes, places, counts = ctx.saved_tensors
        given = grads[0].reshape(-1)[places]
        sums = given.new_zeros(len(counts)).index_add_(0, codes, given)
        return sums / counts.clamp(min=1), None, None, None, None


def values_of(weight: Tensor) -> Tensor | None:
    """The values [k] that a weight shares, sorted, without 0; None where it shares none: at most
    256, and each more than four times on the mean."""
    flat = weight.reshape(-1)
    if len(torch.unique(flat[:_SAMPLE])) > MOST + 1:
        return None
    kept = flat[flat != 0]
    found = torch.unique(kept)
    is_shared = 0 < len(found) <= MOST and len(kept) > LEAST * len(found)
    return found if is_shared else None


def forms(weights: Sequence[Tensor]) -> list[Shared | None]:
    """Of each weight the parametrization that keeps its codes; None where it shares no values.

    Weights whose values are all those of another's (three or more) have its codebook: they were
    given one together. Those of one codebook are to be registered in this order.
    """
    found = [values_of(weight) for weight in weights]
    books: list[tuple[Codebook, set[float]]] = []
    given: dict[int, Codebook] = {}
    sizes = [0 if values is None else len(values) for values in found]
    for index in sorted(range(len(weights)), key=lambda i: -sizes[i]):
        values = found[index]
        if values is None:
            continue
        members = set(values.tolist())
        fitting = (b for b, all_ in books if len(members) >= _TELLING and members <= all_)
        book = next(fitting, None)
        if book is None:
            book = Codebook(values)
            books.append((book, members))
        given[index] = book
    started: set[int] = set()
    made: list[Shared | None] = []
    for index, weight in enumerate(weights):
        book = given.get(index)
        if book is None:
            made.append(None)
            continue
        made.append(Shared(weight, book, first=id(book) not in started))
        started.add(id(book))
    return made
