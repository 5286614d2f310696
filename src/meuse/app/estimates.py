"""How much memory a job will need, from what is known before it starts. Pure.

Figures are resident peaks of job processes, measured: a small training with its export to ONNX
has 420 MiB; a table costs 3.5 times its float32 array, as text being parsed, as columns and as
splits.
"""

from __future__ import annotations

BASE_BYTES = 450 << 20
COPIES = 4
STATES = 4
"""Of each parameter: weight, gradient and two moments."""


def of_training(rows: int, columns: int, parameters: int = 0) -> int:
    """Bytes for a table of numbers, and a network of so many parameters trained on it."""
    return BASE_BYTES + 4 * (COPIES * rows * columns + STATES * parameters)
