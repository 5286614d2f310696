"""Lines of a batch's input, and those of what it gives, as OpenAI has them. Pure but for reading.

An input is read once to be judged; what is kept of a line is where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgspec

MAX_LINES = 50_000
MAX_ERRORS = 100
"""Told of one input; more would be the same mistake again."""
MAX_ID = 512

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


@dataclass(frozen=True, slots=True)
class Line:
    """`number` counts from 1, as editors do; the line lies at `start`."""

    number: int
    custom_id: str
    start: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Judged:
    """Lines that can be asked, or what is wrong with some: {code, message, param, line}."""

    lines: list[Line]
    errors: list[dict[str, Any]]


class _WrongError(Exception):
    def __init__(self, code: str, message: str, param: str | None) -> None:
        super().__init__(message)
        self.told = {"code": code, "message": message, "param": param}


def judge(file: BinaryIO, endpoint: str) -> Judged:
    """Read all lines; empty ones are passed over."""
    lines: list[Line] = []
    errors: list[dict[str, Any]] = []
    first: dict[str, int] = {}
    start = 0
    for number, raw in enumerate(file, 1):
        at, start = start, start + len(raw)
        if not raw.strip():
            continue
        if len(lines) == MAX_LINES:
            message = f"This is more than the {MAX_LINES:,} requests that a batch may have."
            return Judged([], [_told("too_many_lines", message, None, number)])
        try:
            custom_id = _checked(raw, endpoint)
            if custom_id in first:
                raise _WrongError(
                    "duplicate_custom_id",
                    f"The custom_id {custom_id!r} stands in line {first[custom_id]} already.",
                    "custom_id",
                )
        except _WrongError as error:
            errors.append({**error.told, "line": number})
            if len(errors) == MAX_ERRORS:
                break
            continue
        first[custom_id] = number
        lines.append(Line(number, custom_id, at, len(raw)))
    if not lines and not errors:
        errors.append(_told("empty_file", "The input file holds no requests.", None, None))
    return Judged([] if errors else lines, errors)


def _told(code: str, message: str, param: str | None, line: int | None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": param, "line": line}


def _checked(raw: bytes, endpoint: str) -> str:
    """The line's custom_id. Raises `_WrongError`."""
    try:
        asked = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _WrongError("invalid_json_line", f"This line is not JSON: {error}.", None) from None
    if not isinstance(asked, dict):
        raise _WrongError("invalid_json_line", "This line is not a JSON object.", None)
    for name in ("custom_id", "method", "url", "body"):
        if asked.get(name) is None:
            message = f"The parameter {name!r} is missing."
            raise _WrongError("missing_required_parameter", message, name)
    custom_id, body = asked["custom_id"], asked["body"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= MAX_ID:
        message = f"A custom_id is a text of 1 to {MAX_ID} characters."
        raise _WrongError("invalid_custom_id", message, "custom_id")
    if asked["method"] != "POST":
        raise _WrongError("invalid_method", "The method can only be POST.", "method")
    if asked["url"] != endpoint:
        message = f"The url {str(asked['url'])[:100]!r} is not the batch's endpoint {endpoint!r}."
        raise _WrongError("invalid_url", message, "url")
    if not isinstance(body, dict):
        raise _WrongError("invalid_body", "The body is not a JSON object.", "body")
    if not isinstance(body.get("model"), str) or not body["model"]:
        raise _WrongError("missing_required_parameter", "The body names no model.", "body.model")
    if body.get("stream"):
        raise _WrongError("invalid_body", "A batch has no streams: leave it out.", "body.stream")
    return custom_id


def body_of(file: BinaryIO, line: Line) -> bytes:
    """What is to be sent for a line that was judged."""
    file.seek(line.start)
    return _encode(_decode(file.read(line.bytes))["body"])


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a line. `error`: nobody answered it."""

    line: Line
    id: str
    status: int = 0
    request_id: str = ""
    body: Any = None
    error: dict[str, Any] | None = None

    @property
    def is_good(self) -> bool:
        return self.error is None and self.status == 200

    def encode(self) -> bytes:
        """A line of the output file, or of the error file."""
        response = {"status_code": self.status, "request_id": self.request_id, "body": self.body}
        told = {
            "id": f"batch_req_{self.id}",
            "custom_id": self.line.custom_id,
            "response": response if self.error is None else None,
            "error": self.error,
        }
        return _encode(told) + b"\n"

    def tokens(self) -> tuple[int, int, int]:
        """Of the prompt, of those cached, of the completion."""
        usage = self.body.get("usage") if self.is_good and isinstance(self.body, dict) else None
        if not isinstance(usage, dict):
            return 0, 0, 0
        details = usage.get("prompt_tokens_details") or {}
        return (
            usage.get("prompt_tokens", 0), details.get("cached_tokens", 0),
            usage.get("completion_tokens", 0),
        )  # fmt: skip


def read_json(content: bytes) -> Any:
    """A response's body; text where it is not JSON."""
    try:
        return _decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return content.decode(errors="replace")[:1000]


def slices(parts: list[dict[str, Any]]) -> Iterator[tuple[int, bool, int, int]]:
    """(line number, whether it is good, start, bytes) of each line in a file of `Parts`."""
    start = 0
    for part in parts:
        for number, is_good, size in part["lines"]:
            yield number, is_good, start, size
            start += size
