"""One quick look at the bytes of a CSV file: may the fast reader be trusted with it?

The fast reader takes quotes leniently and hexadecimal as integers, and it counts no lines.
This look says where that would matter. Knows numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIECE = 8 << 20
_QUOTE, _LF, _CR = 34, 10, 13


@dataclass(frozen=True, slots=True)
class Scan:
    """`sound`: every quote opens or closes a whole field. `lines`: line ends, and the last line
    without one. `plain_lines`: no carriage return stands alone. `hexadecimal`: 0x was seen."""

    sound: bool
    quotes: bool
    lines: int
    plain_lines: bool
    hexadecimal: bool


def look(path: Path, delimiter: str) -> Scan:
    """Scan the whole file (UTF-8), a piece at a time."""
    sound, plain, hexadecimal = True, True, False
    quotes = lines = returns = pairs = 0
    last = b"\n"  # what stands before the piece
    with path.open("rb") as file:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        piece = file.read(_PIECE)
        while piece:
            following = file.read(_PIECE)
            around = last + piece + (following[:1] or b"\n")
            if b'"' in piece and sound:
                sound = _sound(around, quotes, ord(delimiter))
            quotes += piece.count(b'"')
            lines += piece.count(b"\n")
            returns += piece.count(b"\r")
            # A pair counts where its line feed is.
            pairs += around[:-1].count(b"\r\n")
            hexadecimal = hexadecimal or b"0x" in around or b"0X" in around
            last, piece = piece[-1:], following
    plain = returns == pairs
    return Scan(sound and quotes % 2 == 0, quotes > 0, lines + (last != b"\n"), plain, hexadecimal)


def _sound(around: bytes, before: int, delimiter: int) -> bool:
    """Whether each quote, opening and closing in turn, has a neighbour that it may have. A
    doubled quote closes and opens again."""
    marks: NDArray[Any] = np.frombuffer(around, np.uint8)
    at = np.flatnonzero(marks[1:-1] == _QUOTE) + 1
    allowed = np.zeros(256, bool)
    allowed[[delimiter, _LF, _CR, _QUOTE]] = True
    opening = at[before % 2 :: 2]
    closing = at[1 - before % 2 :: 2]
    return bool(allowed[marks[opening - 1]].all() and allowed[marks[closing + 1]].all())
