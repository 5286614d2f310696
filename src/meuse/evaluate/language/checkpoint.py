"""`LanguageModel` over transformers' models, with or without an adapter of peft. Knows torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from meuse.evaluate.language.likelihood import Floats, Ids

CHUNK = 256
"""Rows of logits that are normalised at once."""


class TorchModel:
    """`model` is a causal language model in mode `eval`; `context` None: as its config says.

    Memory: the logits of a window, [tokens, vocabulary] at the model's precision.
    """

    def __init__(self, model: Any, *, context: int | None = None) -> None:
        self._model = model
        self.context = int(context or model.config.max_position_embeddings)

    def log_probabilities(self, ids: Ids) -> Floats:
        if len(ids) < 2:
            return np.empty(0)
        tokens = torch.from_numpy(np.array(ids, np.int64)).to(self._model.device)
        with torch.inference_mode():
            logits = self._model(input_ids=tokens[None, :-1], use_cache=False).logits[0]
            parts = [
                torch.log_softmax(logits[begin : begin + CHUNK].float(), dim=-1)
                .gather(1, tokens[begin + 1 : begin + CHUNK + 1, None])
                .double()
                for begin in range(0, len(logits), CHUNK)
            ]
        return np.asarray(torch.cat(parts)[:, 0].cpu().numpy(), np.float64)


class CheckpointTokenizer:
    """A tokenizer of transformers, as those of replicas are asked."""

    pieces: list[bytes] | None = None

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        added = tokenizer.added_tokens_decoder.values()
        words = {*tokenizer.all_special_tokens, *(t.content for t in added if t.special)}
        self.special = {word: tokenizer.convert_tokens_to_ids(word) for word in sorted(words)}

    def encode(self, *texts: str, whole: bool = False, most: int | None = None) -> Ids:
        """[tokens] of one text behind the other, all of them; `whole`: with what the model puts
        before every text."""
        found: list[int] = []
        for text in texts:
            if text or whole:
                asked = {"add_special_tokens": whole and not found, "verbose": False}
                found += self._tokenizer(text, **asked)["input_ids"]
        return np.array(found, np.int64)

    def decode(self, ids: list[int]) -> str:
        """Without special tokens."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
