"""Networks for texts: token ids int64 [n, length], 0 is padding. The mask is made inside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from meuse.core.errors import invalid
from meuse.train.encoder import Encoder as Given
from meuse.train.recipes.attention import Encoder
from meuse.train.recipes.bert import Bert
from meuse.train.recipes.catalog import TextClassifier

PADDING = 0


class Pooled(nn.Module):
    """An encoder (token ids, bool mask [n, length]) → [n, length, width], and a linear layer on
    the mean over the tokens that are no padding."""

    def __init__(self, encoder: nn.Module, width: int, outputs: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.encoder = encoder
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, outputs)

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids → [n, width]."""
        return pooled(self.encoder, ids)

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.head(self.drop(self.embed(ids)))
        return scores


def pooled(encoder: nn.Module, ids: Tensor) -> Tensor:
    """The mean of an encoder's states over the tokens that are no padding, [n, width]."""
    mask = ids != PADDING
    states = encoder(ids, mask)
    weights = mask.unsqueeze(2).to(states.dtype)
    mean: Tensor = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
    return mean


class Embedding(nn.Module):
    """A given encoder alone: token ids → the mean of its states [n, width]."""

    def __init__(self, given: Given) -> None:
        super().__init__()
        self.encoder = Bert(given.architecture)
        self.encoder.load_state_dict(dict(given.tensors or {}))

    def forward(self, ids: Tensor) -> Tensor:
        return pooled(self.encoder, ids)


class OnGiven(Pooled):
    """A given encoder, and a linear layer of its own.

    `top` is what there is to train of a `frozen` one, on what `embed` gives: the encoder's
    dropout is off, so that this is the same as training the whole.
    """

    def __init__(self, given: Given, outputs: int, dropout: float, frozen: bool) -> None:
        width = given.architecture.width
        super().__init__(Bert(given.architecture, 0.0 if frozen else dropout), width, outputs)
        self.drop = nn.Dropout(dropout)
        self.frozen = frozen
        if given.tensors is not None:
            self.encoder.load_state_dict(dict(given.tensors))
        self.encoder.requires_grad_(not frozen)

    @property
    def top(self) -> nn.Module:
        return nn.Sequential(self.drop, self.head)

    def embed(self, ids: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():  # an exported graph has one shape
            longest = int((ids != PADDING).sum(dim=1).max())
            ids = ids[:, : max(1, longest)]
        return pooled(self.encoder, ids)


class Embedded(nn.Module):
    """Token ids and their mask → hidden states, trained from scratch."""

    def __init__(self, length: int, config: TextClassifier) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        nn.init.normal_(self.tokens.weight, std=0.02)
        self.position = nn.Parameter(torch.randn(1, length, config.width) * 0.02)
        self.drop = nn.Dropout(config.dropout)
        self.encoder = Encoder(config.width, config.depth, config.heads, config.dropout)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.drop(self.tokens(ids) + self.position)
        # The first token may always be looked at: a row without any would give no number.
        first = torch.arange(ids.shape[1]) == 0
        states: Tensor = self.encoder(x, (mask | first)[:, None, None, :])
        return states


def classifier(
    shape: tuple[int, ...], outputs: int, config: TextClassifier, encoder: Given | None = None
) -> nn.Module:
    """A transformer encoder, from scratch or the given one, with a linear layer on the mean of
    its states."""
    if len(shape) != 1:
        raise invalid(
            "recipe",
            f"text-classifier takes rows of token ids, not rows of the shape {list(shape)}",
            "Use a recipe for tables or images.",
        )
    if encoder is not None:
        return OnGiven(encoder, outputs, config.dropout, config.frozen)
    return Pooled(Embedded(shape[0], config), config.width, outputs, config.dropout)
