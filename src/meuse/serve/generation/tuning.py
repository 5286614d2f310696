"""How the engine answers faster without answering otherwise: caches, guesses, precisions.

Pure. A guess (of the prompt's own words, or of a small model) is checked by the model itself, so
that greedy texts stay what they were; only precisions may change a rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

BLOCK_TOKENS = 32
"""Tokens in a block of the cache, on CPUs."""
SHARES = {"u8": 0.6, "f16": 1.0}
"""Of 16 bits, what keys and values take: 8 bits with their scales as measured, 0.594. On CPUs
the engine computes attention over bf16 only where it also computes everything else in it."""
DEFAULT_PRECISION = "u8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """Everything off. `prefix_cache` keeps the keys and values of prompts that begin alike.

    `assistant_tokens` are guessed for each step: with `max_ngram_size`, those that followed the
    last words earlier in the text (Saxena, prompt lookup decoding, 2023); with `draft`, a model's
    files, those that it would say (Leviathan et al., 2023).
    """

    prefix_cache: bool = False
    max_ngram_size: int = 0
    assistant_tokens: int = 0
    draft: Path | None = None
    kv_precision: str = ""


def blocks(cache_mb: int, kv_bytes_per_token: int, kv_precision: str = "") -> int:
    """How many blocks `cache_mb` MiB hold; `kv_bytes_per_token` are those at 16 bits."""
    share = SHARES[kv_precision or DEFAULT_PRECISION]
    block = math.ceil(BLOCK_TOKENS * kv_bytes_per_token * share)
    return max(cache_mb * 1024 * 1024 // block, 2)
