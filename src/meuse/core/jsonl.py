"""Lines of JSON objects, read strictly: each fault is of a line, and lines keep their numbers.

UTF-8, with or without a mark of byte order; lines may be blank. What the objects mean is told
elsewhere. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import msgspec

MAX_LINE = 16 << 20
"""Bytes, the end of the line not counted."""
BOM = b"\xef\xbb\xbf"


class LineError(Exception):
    """With what is wrong with a line, in words."""


def lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file, one piece each. Of a longer one than is allowed only the beginning,
    which is still too long: memory holds no whole line of that kind."""
    while raw := file.readline(MAX_LINE + 2):
        yield raw
        while not raw.endswith(b"\n") and (raw := file.readline(MAX_LINE)):
            pass  # the rest of the line


def numbered(pieces: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(the number of a line from 1, the line) of those that are not blank."""
    for number, piece in enumerate(pieces, start=1):
        raw = piece.removeprefix(BOM) if number == 1 else piece
        if raw.strip():
            yield number, raw


def parse(raw: bytes) -> dict[str, Any]:
    """The object of a line. Raises `LineError`."""
    if len(raw.rstrip(b"\r\n")) > MAX_LINE:
        raise LineError(f"it is longer than {MAX_LINE:,} bytes")
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise LineError(f"it is not JSON: {error}") from None
    except UnicodeDecodeError:
        raise LineError("it is not UTF-8") from None
    except RecursionError:
        raise LineError("its JSON is nested too deeply") from None
    if not isinstance(body, dict):
        raise LineError("it is not a JSON object")
    return body
