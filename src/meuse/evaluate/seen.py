"""What a training split has shown: the ranges and values outside of which nothing is known.

Knows columns and numpy; the card tells it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_VALUES = 50
"""A text column with more distinct values is told by their number."""
MAX_LENGTH = 100


def limits_of(columns: Mapping[str, NDArray[Any]], missing: str) -> dict[str, Any]:
    """{ranges: {column: [low, high]}, values: {column: […]}, missing} of the training rows.

    `columns` are float [n] (NaN: missing) or text [n] ("": missing); `missing` says how the
    model takes missing values.
    """
    ranges: dict[str, list[float]] = {}
    values: dict[str, list[str]] = {}
    for name, column in columns.items():
        if column.dtype.kind in "OUS":
            distinct = sorted({str(v) for v in column.tolist()} - {""})
            shown = [v[:MAX_LENGTH] for v in distinct[:MAX_VALUES]]
            more = len(distinct) - len(shown)
            values[name] = [*shown, f"… and {more} more"] if more else shown
        else:
            present = column[np.isfinite(column)]
            if len(present):
                ranges[name] = [float(present.min()), float(present.max())]
    return {"ranges": ranges, "values": values, "missing": missing}
