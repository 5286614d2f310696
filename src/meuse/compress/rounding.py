"""Rounding of weights to whole numbers of a few bits and back, simulated in float32."""

from __future__ import annotations

import torch
from torch import Tensor


def rounded(rows: Tensor, bits: int, limit: Tensor | None = None) -> Tensor:
    """`rows` [outputs, inputs] as they are after rounding to `bits` (2 to 16), symmetric.

    `limit` [outputs, 1] (or one for all, [1, 1]) is the magnitude that the largest whole number
    stands for, by default each output's greatest; what is beyond is clipped to it.
    """
    if limit is None:
        limit = rows.abs().amax(dim=1, keepdim=True)
    most = 2 ** (bits - 1) - 1
    scale = torch.where(limit > 0, limit / most, 1.0)
    return (rows / scale).round().clamp(-most, most) * scale
