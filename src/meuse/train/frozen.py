"""What a network that is trained in part alone gives of its frozen part, reckoned once."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from meuse.core.ports import JobContext, Paused

_BLOCK_ROWS = 64
_EVERY_S = 1.0


def embedded(job: JobContext, network: Any, x: NDArray[Any]) -> NDArray[np.float32]:
    """`network.embed` of token ids [n, length], 0 is padding → [n, width].

    Rows of like length go together, since the longest of a block says what it costs. Raises
    `Paused` when the job is to stop: what was reckoned is reckoned anew.
    """
    network.eval()
    order = np.argsort((x != 0).sum(axis=1), kind="stable")
    parts: list[NDArray[np.float32]] = []
    told = time.monotonic()
    with torch.no_grad():
        for start in range(0, len(x), _BLOCK_ROWS):
            rows = torch.from_numpy(x[order[start : start + _BLOCK_ROWS]])
            parts.append(network.embed(rows).numpy())
            if time.monotonic() - told > _EVERY_S:
                told = time.monotonic()
                if job.paused():
                    raise Paused
                job.progress(0.0, note=f"encoded {start + len(rows):,} of {len(x):,} texts")
    found = np.concatenate(parts)
    features = np.empty_like(found)
    features[order] = found
    return features
