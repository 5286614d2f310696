"""A transformer encoder (Vaswani et al., arXiv:1706.03762), normalised before each part."""

from __future__ import annotations

import torch.nn.functional as F  # noqa: N812  the field's name for it
from torch import Tensor, nn


class Encoder(nn.Module):
    """Tokens [n, length, width] → the same shape."""

    def __init__(self, width: int, depth: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """`mask` [n, 1, 1, length], bool: which tokens may be looked at."""
        for block in self.blocks:
            x = block(x, mask)
        normed: Tensor = self.norm(x)
        return normed


class Block(nn.Module):
    """Attention, then two linear layers, each beside a shortcut."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.before = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.join = nn.Linear(width, width)
        self.between = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n, length, _ = x.shape
        projected = self.project(self.before(x))
        inner = projected.shape[2] // 3  # the width, unless heads were taken out
        parts = projected.view(n, length, 3, self.heads, inner // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.dropout if self.training else 0.0
        seen = F.scaled_dot_product_attention(query, key, value, mask, dropout)
        x = x + self.drop(self.join(seen.transpose(1, 2).reshape(n, length, inner)))
        fed: Tensor = x + self.drop(self.feed(self.between(x)))
        return fed
