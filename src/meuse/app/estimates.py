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


TUNING_BYTES = 900 << 20
"""A process with torch, transformers and peft, and what it reads of a checkpoint at a time."""
STEP_TOKENS = 1024
"""Of one pass, unless an example alone is longer (`train.llm.layout`)."""
KEPT = 44
"""Floats that a pass keeps of each token are about so many times the root of the parameters:
2.2 / width of them, and widths are about a twentieth of that root. Of SmolLM2-135M: 0.5 million.
"""
LOGITS = 4 * 4
"""Bytes of a token's logit of one word, its gradient and copies."""


def of_tuning(
    parameters: int, vocabulary: int, most_tokens: int, *, whole: bool, recomputed: bool
) -> int:
    """Bytes for a language model that is fine-tuned: `whole` for all of its weights (weight,
    gradient, two moments and the best so far), else of an adapter; `recomputed` with gradient
    checkpointing, which keeps a fifteenth."""
    weights = 4 * parameters * (STATES + 1 if whole else 1)
    kept = 4 * KEPT * parameters**0.5 / (15 if recomputed else 1)
    token = kept + LOGITS * vocabulary
    return int(TUNING_BYTES + weights + max(STEP_TOKENS, most_tokens) * token)


WINDOW = 2048
"""Tokens of a text that are read at once, where nothing else is said
(`evaluate.language.likelihood`)."""
SERVED = {"gguf": 8, "ir": 4}
"""The weights on disk, as often as the engine and the judge's graph beside it come to hold them.
Measured: at most 7.5 of a GGUF file in halves, 2.1 of an IR in halves before the engine writes."""
CACHE_BYTES = 1024 << 20
SEQUENCES = 16
"""Of answers that are written, at most (`app.work.subjects`)."""
CHUNK = 256
"""Tokens whose logits the judge's graph gives at once (`evaluate.language.ir`)."""


def of_judging(parameters: int, vocabulary: int, window: int) -> int:
    """Bytes for a language model that transformers has in float32, with or without an adapter, and
    the logits of a window of so many tokens."""
    return TUNING_BYTES + 4 * parameters + 4 * vocabulary * window


def of_judging_served(layout: str, weights: int, vocabulary: int, sequence: int) -> int:
    """Bytes for one that the engine serves, of so many bytes of `weights`. `sequence` is what the
    cache holds of an answer that is as long as can be; 0 where none are written."""
    cache = min(SEQUENCES * sequence, CACHE_BYTES)
    return BASE_BYTES + SERVED[layout] * weights + LOGITS * vocabulary * CHUNK + cache


def of_conversion(parameters: int) -> int:
    """Bytes for a language model of so many parameters as torch has it, as a graph, and as the
    engine and the judge have it, in float32 each."""
    return TUNING_BYTES + 4 * 4 * parameters
