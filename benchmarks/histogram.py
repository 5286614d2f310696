"""A log-linear histogram of latencies, as HDR histograms have it.

Each power of two of microseconds is cut into 64 buckets, so a percentile is at most 1.6 %
above the true value at any scale, and histograms of several processes add up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

_PART = 64


class Histogram:
    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        self.counts: Counter[int] = Counter()
        for bucket, count in (counts or {}).items():
            self.counts[int(bucket)] += count

    def add(self, seconds: float) -> None:
        us = max(int(seconds * 1e6), 1)
        shift = max(us.bit_length() - 7, 0)
        self.counts[shift * _PART + (us >> shift)] += 1

    def update(self, others: Iterable[Histogram]) -> Histogram:
        for other in others:
            self.counts.update(other.counts)
        return self

    def __len__(self) -> int:
        return self.counts.total()

    def percentile_us(self, percent: float) -> float | None:
        """The upper edge of the bucket that holds this share of the values; None when empty."""
        left = len(self) * percent / 100
        for bucket in sorted(self.counts):
            left -= self.counts[bucket]
            if left <= 1e-9:
                shift = max(bucket // _PART - 1, 0)
                return float((bucket - shift * _PART + 1) << shift)
        return None

    def to_dict(self) -> dict[str, int]:
        return {str(bucket): count for bucket, count in self.counts.items()}
