"""The port between the replica and what computes tokens.

A `Work` is one choice of one request: several of a request are several works, so that each can
be ended by itself. Knows no frame, no text and no library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from meuse.serve.generation.messages import Format, Sampling


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What to produce. `seed` is always given: engines have one that is the same for all."""

    ids: NDArray[np.int64]
    """[tokens] of the prompt; at least one."""
    max_tokens: int
    sampling: Sampling
    seed: int
    format: Format = field(default_factory=Format)


@dataclass(slots=True)
class Progress:
    """What a step gave to one work. The token that ends an answer is not among `ids`.

    `logprobs`, as many as `ids`, where they were asked for. `ended`: "", `stop` or `length`.
    """

    handle: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: str = ""


class Generator(Protocol):
    """An engine with its own batching. One thread calls it."""

    @property
    def context(self) -> int:
        """Tokens that a prompt and its answer may have together."""
        ...

    @property
    def max_sequences(self) -> int:
        """How many works it advances together."""
        ...

    @property
    def cached_tokens(self) -> int:
        """Of each prompt, those that need no work; -1 where the engine does not tell."""
        ...

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""
        ...

    def check(self, format: Format) -> None:
        """Raises `invalid_field` at `response_format` for what it cannot hold texts to."""
        ...

    def add(self, work: Work) -> int:
        """Take work on; the handle. Raises `MeuseError` for what it cannot do."""
        ...

    def cancel(self, handle: int) -> None:
        """No more of this: nothing comes of it from the next step on."""
        ...

    def step(self) -> list[Progress]:
        """Advance all works by what fits in a batch. What it raises concerns all of them."""
        ...

    def use(self, adapter: Any) -> None:
        """Run with this adapter from now on (None: with none). Only while nothing is in
        progress. What it raises leaves the engine as after a failed step."""
        ...

    def reset(self) -> bool:
        """Give up all works, after an error; whether the engine can go on."""
        ...


class Tokenizer(Protocol):
    """Text to tokens, and what bytes each token stands for."""

    @property
    def pieces(self) -> list[bytes] | None:
        """By token, its bytes, where a text is nothing but its tokens' bytes in a row (special
        ones have none); None where it must be decoded as a whole."""
        ...

    @property
    def special(self) -> Mapping[str, int]:
        """Texts that are read as control tokens, with these tokens."""
        ...

    def encode(
        self, *texts: str, whole: bool = False, most: int | None = None
    ) -> NDArray[np.int64]:
        """[tokens] of one text behind the other; never cut short, but of more than `most` no more
        need be read than shows it. `whole`: with what the model puts before every text."""
        ...

    def decode(self, ids: list[int]) -> str:
        """The text of these tokens, without special ones."""
        ...
