"""From a client's body to what an external server is asked. Pure.

Top-level fields alone are looked at, and few of them: what the answer may come to must be known,
who is asked, and whether it streams. All else passes as it was sent: it is the server's to judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from meuse.core.errors import invalid
from meuse.gateway.body import decode
from meuse.gateway.openai import checks, parameters
from meuse.gateway.openai.asks import COMPLETION_TOKENS

EMBEDDINGS = "openai-embeddings"
"""The protocol of those who ask for vectors."""
MAX_CHOICES = 128
_MOST_TOKENS = 2**31 - 1
_body = msgspec.json.Decoder(dict[str, msgspec.Raw])
_any = msgspec.json.Decoder()
_encode = msgspec.json.Encoder().encode
_CHECKS = {
    "model": checks.named,
    "stream": checks.flag,
    "n": checks.whole(1, MAX_CHOICES),
    "best_of": checks.whole(1, MAX_CHOICES),
    "max_tokens": checks.whole(1, _MOST_TOKENS),
    "max_completion_tokens": checks.whole(1, _MOST_TOKENS),
}


@dataclass(slots=True)
class Sent:
    """`size`: bytes that bound the tokens of the prompts. `most`: tokens of one choice, None when
    nothing bounds them. `choices`: of all prompts together. `inputs`: how many prompts there are,
    or texts to embed."""

    model: str
    fields: dict[str, msgspec.Raw]
    size: int
    stream: bool = False
    include_usage: bool = False
    choices: int = 1
    most: int | None = None
    inputs: int = 1


def model_of(body: bytes) -> tuple[str, dict[str, msgspec.Raw]]:
    """Who is asked, and the fields. Raises `invalid_json`, `invalid_field`."""
    fields: dict[str, msgspec.Raw] = decode(_body, body)
    model = _value(fields, "model")
    if model is None:
        raise invalid("model", "it is missing")
    return model, fields


def read(model: str, fields: dict[str, msgspec.Raw], size: int, protocol: str) -> Sent:
    """Raises `invalid_field` with the name."""
    sent = Sent(model, fields, size)
    if protocol == EMBEDDINGS:
        table = parameters.EMBEDDINGS
        told = {name: _any.decode(fields[name]) for name in table if name in fields}
        sent.inputs = _count(parameters.read(table, told)["input"])
        sent.most = 0
        return sent
    if "stream" in fields:
        sent.stream = _value(fields, "stream") or False
    if "stream_options" in fields and (options := _any.decode(fields["stream_options"])):
        if not sent.stream:
            raise invalid("stream_options", "it needs stream: true", "Leave it out.")
        sent.include_usage = checks.stream_options(options, "stream_options")
    sent.choices = _value(fields, "n") or 1
    if "best_of" in fields:
        sent.choices = max(sent.choices, _value(fields, "best_of") or 1)
    sent.most = _value(fields, "max_tokens")
    if protocol == "openai-completions":
        sent.inputs = _prompts(fields.get("prompt"))
        sent.choices *= sent.inputs
        sent.most = sent.most or COMPLETION_TOKENS
    elif "max_completion_tokens" in fields:
        sent.most = _value(fields, "max_completion_tokens") or sent.most
    return sent


def write(sent: Sent, model: str, most: int | None) -> bytes:
    """The body for the server, which calls the model so; `most` bounds what nothing bounded."""
    fields: dict[str, Any] = {**sent.fields, "model": model}
    if most is not None:
        fields["max_tokens"] = most
    if sent.stream:
        # What the answer came to is always asked for: it is what is billed.
        given = sent.fields.get("stream_options")
        options = {} if given is None else _any.decode(given) or {}
        fields["stream_options"] = {**options, "include_usage": True}
    return _encode(fields)


def _value(fields: dict[str, msgspec.Raw], name: str) -> Any:
    raw = fields.get(name)
    if raw is None:
        return None
    value = _any.decode(raw)
    return None if value is None else _CHECKS[name](value, name)


def _prompts(raw: msgspec.Raw | None) -> int:
    if raw is None or not bytes(raw).startswith(b"["):
        return 1
    return _count(_any.decode(raw))


def _count(prompts: Any) -> int:
    """How many there are: a text, tokens, or a list of either."""
    is_list = isinstance(prompts, list) and prompts and not isinstance(prompts[0], int)
    return len(prompts) if is_list else 1
