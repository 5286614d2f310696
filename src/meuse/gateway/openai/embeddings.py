"""`POST /v1/embeddings` over a deployment that turns texts into vectors.

Pure: bytes to calls, results to bytes. Such a version has one input of texts and gives, first
of its outputs, a vector of floats for each; where it gives `tokens` as well, how many it was given
of each text, that is the usage that is told. Where it says by `text_tokens` that a text has more,
so that it was cut, the request is refused: other protocols take such an answer as it is.
"""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import numpy as np

from meuse.core.errors import Code, MeuseError, invalid
from meuse.gateway.body import decode
from meuse.gateway.cache import Tensors
from meuse.gateway.dataplane import TOKENS, Call, Result
from meuse.gateway.openai import parameters
from meuse.gateway.routes import Caller, Headers, Target
from meuse.gateway.signature import Inputs
from meuse.serve import strings
from meuse.serve.snapshot import TargetEntry

MAX_TEXTS = 2048
TEXT_TOKENS = "text_tokens"
"""The output that counts those that were cut off as well."""
_ADDED = 2
"""Tokens of a text beside its own: it has at most one per byte, and those that bound it."""

_body = msgspec.json.Decoder(dict[str, Any])
_encode = msgspec.json.Encoder().encode


def embeds(target: TargetEntry) -> bool:
    """Whether it turns texts into vectors."""
    if target.generation is not None or len(target.inputs) != 1 or not target.outputs:
        return False
    given, gives = target.inputs[0], target.outputs[0]
    texts = given.datatype == "BYTES" and len(given.shape) <= 2 and given.shape[1:] in ((), (1,))
    return texts and gives.datatype == "FP32" and len(gives.shape) == 2


class EmbeddingsRequest:
    """One request that was read. Raises `invalid_json` or `invalid_field`."""

    def __init__(self, body: bytes, caller: Caller, headers: Headers = ()) -> None:
        sent: dict[str, Any] = decode(_body, body)
        given = parameters.read(parameters.EMBEDDINGS, sent)
        self.model: str = given["model"]
        self._texts = _texts(given["input"])
        self._dimensions = given.get("dimensions")
        self._base64 = given.get("encoding_format") == "base64"
        most = sum(len(text) + _ADDED for text in self._texts)
        self.call = Call(
            caller, self.model, None, "openai-embeddings", self._read,
            headers=headers, most_tokens=most, judge=self._judge,
        )  # fmt: skip

    def _read(self, target: Target) -> Inputs:
        if not embeds(target.entry):
            raise invalid(
                "model", f"{self.model!r} does not turn texts into vectors", "Name one that does."
            )
        width = target.entry.outputs[0].shape[1]
        if self._dimensions is not None and self._dimensions != width:
            raise invalid(
                "dimensions", "vectors cannot be shortened", f"Leave it out, or send {width}."
            )
        spec = target.entry.inputs[0]
        shape = (len(self._texts), *spec.shape[1:])
        return [(spec.name, strings.array_of(self._texts, shape))]

    def _judge(self, outputs: Tensors) -> MeuseError | None:
        """`context_length_exceeded` for texts that were cut."""
        found = dict(outputs)
        if TOKENS not in found or TEXT_TOKENS not in found:
            return None
        given, whole = found[TOKENS].ravel(), found[TEXT_TOKENS].ravel()
        cut = np.flatnonzero(whole > given)
        if not len(cut):
            return None
        place = int(cut[0])
        where = "input" if len(self._texts) == 1 else f"input[{place}]"
        return MeuseError(
            Code.CONTEXT_LENGTH_EXCEEDED,
            f"{where} has at least {whole[place]} tokens, the model takes {given[place]}",
            field="input",
            hint="Send a shorter text, or its parts as texts of their own.",
        )

    def write(self, result: Result) -> bytes:
        vectors = result.outputs[0][1]
        if vectors.ndim != 2 or len(vectors) != len(self._texts):
            raise MeuseError(Code.ENGINE_ERROR, "the model did not give a vector for each text")
        tokens = dict(result.outputs).get(TOKENS)
        counted = 0 if tokens is None else int(tokens.sum())
        return _encode(
            {
                "object": "list",
                "data": [
                    {"object": "embedding", "index": i, "embedding": self._written(vector)}
                    for i, vector in enumerate(vectors)
                ],
                "model": self.model,
                "usage": {"prompt_tokens": counted, "total_tokens": counted},
            }
        )

    def _written(self, vector: Any) -> Any:
        if self._base64:
            return base64.b64encode(vector.astype(np.dtype("<f4")).tobytes()).decode()
        return vector.tolist()


def _texts(value: Any) -> list[bytes]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list) or not given:
        raise invalid("input", "a text, or a list of texts, is wanted")
    if len(given) > MAX_TEXTS:
        raise invalid("input", f"{len(given)} texts are more than {MAX_TEXTS}")
    if not all(isinstance(text, str) for text in given):
        raise invalid(
            "input",
            "tokens are not taken: clients count them in a vocabulary of their own",
            "Send texts. LangChain's OpenAIEmbeddings does with check_embedding_ctx_length=False.",
        )
    if not all(given):
        raise invalid("input", "a text is empty")
    return [text.encode() for text in given]
