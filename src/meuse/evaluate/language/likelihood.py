"""How likely a language model finds texts: perplexity, and the likelihood of continuations.

Knows token numbers and the port `LanguageModel`; no library, no tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import invalid

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

WINDOW = 2048
"""Tokens that a text is read with at once, where the model's context allows as many."""


class LanguageModel(Protocol):
    """What is judged. One thread calls it."""

    @property
    def context(self) -> int:
        """Tokens that it can see at once."""
        ...

    def log_probabilities(self, ids: Ids) -> Floats:
        """[tokens - 1]: the natural logarithm of the probability of every token but the first,
        given all before it. `ids` are [tokens], 1 to `context`."""
        ...


@dataclass(frozen=True, slots=True)
class Window:
    """The model sees the tokens `begin` to `end`; those from `scored` on count."""

    begin: int
    end: int
    scored: int


@dataclass(frozen=True, slots=True)
class Likelihood:
    """Of texts: for each of them the sum of -ln p over the `tokens` that counted, both [texts].

    `perplexity` is that of all tokens together, not a mean over texts.
    """

    nats: Floats
    tokens: NDArray[np.int64]

    @property
    def nats_per_token(self) -> float:
        return float(self.nats.sum() / self.tokens.sum())

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats_per_token)


def windows(count: int, first: int, window: int, stride: int) -> Iterator[Window]:
    """Windows over a text of `count` tokens that count each token from `first` on once.

    The first window is as long as it can be, each further one moves on by `stride` tokens (the
    last by what is left), so that a token there has at least `window - stride` before it. The
    first token of a window is never counted by it: nothing stands before it. Source: Hugging
    Face, Perplexity of fixed-length models; the last window is as long as the others, as in
    lm-evaluation-harness.
    """
    scored = max(first, 1)
    end = min(window, count)
    while end < count and end <= scored:  # nothing of it counts
        end = min(end + stride, count)
    while scored < count:
        yield Window(max(end - window, 0), end, scored)
        scored, end = end, min(end + stride, count)


def token_log_probabilities(
    model: LanguageModel,
    ids: Ids,
    first: int = 1,
    *,
    window: int | None = None,
    stride: int | None = None,
) -> Floats:
    """[tokens - first]: of every token from `first` (at least 1) on, in windows.

    `window` None: the model's context, at most `WINDOW`; `stride` None: half of it.
    Raises `invalid_field` for a window that the model cannot see or a stride that leaves nothing
    before a window's first counted token.
    """
    window, stride = _checked(model, window, stride)
    found = [
        model.log_probabilities(ids[each.begin : each.end])[each.scored - each.begin - 1 :]
        for each in windows(len(ids), first, window, stride)
    ]
    return np.concatenate(found) if found else np.empty(0)


def perplexity(
    model: LanguageModel,
    texts: Sequence[Ids],
    firsts: Sequence[int] | None = None,
    *,
    window: int | None = None,
    stride: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Likelihood:
    """How surprising `texts` ([tokens] each) are to the model.

    Each token counts once, from `firsts` on (by text; None: 1). The first token of a text has
    nothing before it and does not count; where the model's tokenizer puts a token before every
    text, that is the one. Texts of one token count nothing. `progress` is told how many texts
    are done. Raises `invalid_field` where no token counts at all.
    """
    nats, tokens = np.zeros(len(texts)), np.zeros(len(texts), np.int64)
    for index, ids in enumerate(texts):
        first = 1 if firsts is None else firsts[index]
        found = token_log_probabilities(model, ids, first, window=window, stride=stride)
        nats[index], tokens[index] = -found.sum(), len(found)
        if progress is not None:
            progress(index + 1)
    if not tokens.sum():
        raise invalid("data", "no text has a token to predict", "A text needs at least two tokens.")
    return Likelihood(nats, tokens)


def continuation(model: LanguageModel, prompt: Ids, answer: Ids) -> float:
    """The natural logarithm of the probability of `answer` behind `prompt`, both [tokens] ≥ 1.

    Raises `invalid_field` where both together are longer than the context.
    """
    total = len(prompt) + len(answer)
    if total > model.context:
        raise invalid(
            "data",
            f"prompt and answer have {total} tokens, the model's context window {model.context}",
            "Shorten the prompt.",
        )
    found = model.log_probabilities(np.concatenate([prompt, answer]))
    return float(found[len(prompt) - 1 :].sum())


def picked(logits: NDArray[Any], ids: Ids) -> Floats:
    """The natural logarithms of the probabilities of `ids` [n], of `logits` [n, vocabulary]."""
    highest = logits.max(axis=1, keepdims=True)
    total = np.exp(logits - highest).sum(axis=1, dtype=np.float64)
    chosen = logits[np.arange(len(ids)), ids].astype(np.float64)
    return np.asarray(chosen - highest[:, 0] - np.log(total), np.float64)


def _checked(model: LanguageModel, window: int | None, stride: int | None) -> tuple[int, int]:
    if window is None:
        window = min(model.context, WINDOW)
    if not 2 <= window <= model.context:
        raise invalid(
            "window",
            f"a window of {window} tokens does not fit the model",
            f"Use 2 to {model.context}.",
        )
    if stride is None:
        stride = max(window // 2, 1)
    if not 1 <= stride < window:
        raise invalid(
            "stride", f"a stride of {stride} does not fit a window of {window}",
            f"Use 1 to {window - 1}.",
        )  # fmt: skip
    return window, stride
