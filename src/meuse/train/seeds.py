"""Seeds: one independent random stream for every purpose of a run. Standard library only."""

from __future__ import annotations

import hashlib


def derive(seed: int, purpose: str) -> int:
    """An independent 63-bit seed for one purpose of a run."""
    digest = hashlib.sha256(f"{seed}:{purpose}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
