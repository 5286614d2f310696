"""What a gateway worker asks of a replica that produces text.

Field by field checked by the gateway (types and ranges); what needs the tokenizer, the template
or the grammar is checked by the replica. Knows msgspec alone.
"""

from __future__ import annotations

import msgspec

MAX_CHOICES = 16
MAX_STOPS = 16
MAX_TOP_LOGPROBS = 20


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How tokens are chosen. Greedy when `temperature` is 0."""

    max_tokens: int | None = None
    """None: as many as the context window has room for."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    """0: all."""
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    logprobs: int | None = None
    """None: none; otherwise so many alternatives beside each token."""
    ignore_eos: bool = False


class Format(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the text must be. `schema` is JSON."""

    kind: str = "text"
    """text, json_object or json_schema."""
    schema: bytes = b""


class Ask(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One request. Either `messages` (JSON, a list as OpenAI's chat has it, contents text only),
    which the model's template turns into a prompt, or `prompt` as it is, or its `prompt_ids`.

    `tools` and `tool_choice` are JSON as OpenAI has them; without `parallel_tool_calls` the answer
    ends after its first call. `adapter` is the digest of an adapter's manifest, "" is the base.
    """

    messages: bytes = b""
    prompt: str = ""
    prompt_ids: tuple[int, ...] = ()
    tools: bytes = b""
    tool_choice: bytes = b""
    parallel_tool_calls: bool = True
    sampling: Sampling = Sampling()
    format: Format = Format()
    adapter: str = ""
    echo: bool = False


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ask).decode


def encode(ask: Ask) -> bytes:
    """As it stands in a frame."""
    return _encode(ask)


def decode(body: bytes) -> Ask:
    """Raises msgspec.MsgspecError."""
    return _decode(body)
