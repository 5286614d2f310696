"""What an external server answers: passed on with the least work, and what it came to.

Pure: bytes in, bytes out. Of a stream only whole events are passed on, and only those that tell
of usage are decoded; a quote inside a JSON text is escaped, so that names of fields can be
looked for in the bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import msgspec

from meuse.core.errors import Code, MeuseError

MAX_EVENT = 4 * 1024 * 1024
"""Bytes of one event."""
MAX_WHOLE = 64 * 1024 * 1024
BYTES_PER_TOKEN = 4
"""What a token is taken for where a server does not tell."""

_Count = Annotated[int, msgspec.Meta(ge=0, le=2**40)]
_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"\\]|\\.)*"')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_DONE = re.compile(rb"^data:\s*\[DONE\]", re.MULTILINE)
_FAILED = re.compile(rb'^data:\s*\{\s*"error"\s*:\s*[{"]', re.MULTILINE)
_EMPTY = re.compile(rb'"choices"\s*:\s*\[\s*\]')


class Details(msgspec.Struct):
    cached_tokens: _Count | None = None


class Usage(msgspec.Struct):
    """As OpenAI has it."""

    prompt_tokens: _Count
    completion_tokens: _Count = 0
    prompt_tokens_details: Details | None = None

    @property
    def cached_tokens(self) -> int:
        """-1: the server does not tell."""
        details = self.prompt_tokens_details
        cached = None if details is None else details.cached_tokens
        return -1 if cached is None else min(cached, self.prompt_tokens)


class _Answer(msgspec.Struct):
    choices: list[msgspec.Raw]
    usage: msgspec.Raw = msgspec.Raw(b"null")


class _Vectors(msgspec.Struct):
    data: list[msgspec.Raw]
    usage: msgspec.Raw = msgspec.Raw(b"null")


_answer = msgspec.json.Decoder(_Answer)
_vectors = msgspec.json.Decoder(_Vectors)
_usage = msgspec.json.Decoder(Usage)


class Events:
    """A stream on its way. `name` is what the caller calls the model; `keep_usage`: the caller
    asked for the event that tells of usage alone."""

    def __init__(self, name: str, *, keep_usage: bool) -> None:
        self._name = b'"model":' + msgspec.json.encode(name)
        self._keep_usage = keep_usage
        self._theirs: bytes | None = None
        self._rest = b""
        self.usage: Usage | None = None
        self.deltas = 0
        """Events so far: about one for each token."""
        self.is_done = self.has_failed = False

    def feed(self, data: bytes) -> bytes:
        """What can be passed on now. Raises `upstream_error`."""
        if self._rest:
            data = self._rest + data
        cut = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
        if cut < 3:
            if len(data) > MAX_EVENT:
                raise garbage(f"sent an event of more than {MAX_EVENT} bytes")
            self._rest = data
            return b""
        block, self._rest = data[:cut], data[cut:]
        self.deltas += block.count(b"\ndata:") + block.startswith(b"data:")
        if self._theirs is None and (found := _MODEL.search(block)):
            self._theirs = found[0]
        if self._theirs is not None:
            block = block.replace(self._theirs, self._name)
        if b'"usage"' in block and _USAGE.search(block):
            block = b"".join(filter(None, map(self._told, _split(block))))
        if b"[DONE]" in block and _DONE.search(block):
            self.is_done = True
        if b'"error"' in block and _FAILED.search(block):
            self.has_failed = True
        return block

    @property
    def tokens(self) -> int:
        """Of the answer so far, by the events that came: the first and the last have none."""
        return max(self.deltas - 3, 0)

    def _told(self, event: bytes) -> bytes:
        """One event: what it tells of usage is kept, and it is left out where it tells of that
        alone and nobody asked."""
        found = None
        if _USAGE.search(event):
            found = usage_of(event.partition(b"data:")[2])
        if found is None:
            return event
        self.usage = found
        return b"" if not self._keep_usage and _EMPTY.search(event) else event


def whole(body: bytes, name: str) -> tuple[bytes, Usage | None, int]:
    """(the answer under the caller's name for the model, its usage, an estimate of the answer's
    tokens). Raises `upstream_error`."""
    try:
        answer = _answer.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise garbage("answered with something else than a completion") from None
    tokens = estimate(sum(len(bytes(choice)) for choice in answer.choices))
    return _renamed(body, name), _counted(answer.usage), tokens


def vectors(body: bytes, name: str) -> tuple[bytes, Usage | None, int]:
    """As `whole`, of embeddings: no tokens are produced. Raises `upstream_error`."""
    try:
        answer = _vectors.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise garbage("answered with something else than embeddings") from None
    return _renamed(body, name), _counted(answer.usage), 0


def _renamed(body: bytes, name: str) -> bytes:
    found = _MODEL.search(body)
    if found is None:
        return body
    return b"".join(
        (body[: found.start()], b'"model":', msgspec.json.encode(name), body[found.end() :])
    )


def usage_of(body: bytes) -> Usage | None:
    """Of one JSON object; None where it tells none."""
    try:
        return _counted(_answer.decode(body).usage)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def estimate(size: int) -> int:
    """Tokens that so many bytes are taken for."""
    return -(-size // BYTES_PER_TOKEN)


def garbage(what: str) -> MeuseError:
    return MeuseError(
        Code.UPSTREAM_ERROR, f"the model's server {what}", hint="Its operator has to look at it."
    )


def _counted(raw: msgspec.Raw) -> Usage | None:
    try:
        return _usage.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _split(block: bytes) -> Sequence[Any]:
    """Its events, each with the empty line that ends it."""
    return re.findall(rb".*?(?:\r?\n){2}", block, re.DOTALL)
