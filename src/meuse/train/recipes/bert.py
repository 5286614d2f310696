"""BERT's encoder in plain torch (arXiv:1810.04805), for weights that were trained elsewhere.

DistilBERT (arXiv:1910.01108) and MiniLM (arXiv:2002.10957) are the same but for sizes. The
embedding of the first kind of segment, which every token of a single text has, is part of
the positions.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from torch import Tensor, nn

from meuse.train.encoder import Architecture


class Bert(nn.Module):
    """Token ids int64 [n, length] and their mask (bool, same shape) → [n, length, width]."""

    def __init__(self, architecture: Architecture, dropout: float = 0.0) -> None:
        super().__init__()
        a = architecture
        self.words = nn.Embedding(a.vocabulary, a.width)
        self.positions = nn.Embedding(a.positions, a.width)
        self.norm = nn.LayerNorm(a.width, a.epsilon)
        self.drop = nn.Dropout(dropout)
        self.layers = nn.ModuleList(Layer(a, dropout) for _ in range(a.depth))

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.words(ids) + self.positions.weight[: ids.shape[1]]
        x = self.drop(self.norm(x))
        # The first token may always be looked at: a row without any would give no number.
        first = torch.arange(ids.shape[1]) == 0
        seen = (mask | first)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, seen)
        states: Tensor = x
        return states


class Layer(nn.Module):
    """Attention, then two linear layers; each is added to what it was given, then normalised."""

    def __init__(self, architecture: Architecture, dropout: float) -> None:
        super().__init__()
        width, inner = architecture.width, architecture.inner
        self.heads = architecture.heads
        self.dropout = dropout
        self.query, self.key, self.value, self.join = (nn.Linear(width, width) for _ in range(4))
        self.between = nn.LayerNorm(width, architecture.epsilon)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.after = nn.LayerNorm(width, architecture.epsilon)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`mask` [n, 1, 1, length], bool: which tokens may be looked at."""
        n, length, width = x.shape
        query, key, value = (
            part(x).view(n, length, self.heads, width // self.heads).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        joined = self.join(seen.transpose(1, 2).reshape(n, length, width))
        x = self.between(x + self.drop(joined))
        fed: Tensor = self.after(x + self.drop(self.down(F.gelu(self.up(x)))))
        return fed
