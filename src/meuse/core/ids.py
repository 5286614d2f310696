"""Names and identifiers.

Names are chosen by people and appear in paths; ids are made here and mean nothing.
"""

from __future__ import annotations

import os
import re
import time

from meuse.core.errors import invalid

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
_AT_ONCE = 256
_random: list[bytes] = []  # drawn and unused; no process of ours forks without exec
_CLEAR = ~(0xF << 76 | 0x3 << 62)
_MARKS = 0x7 << 76 | 0x2 << 62
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_name(name: object, field: str = "name") -> str:
    """Return `name` when it may be a name; raise `invalid_field` otherwise."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise invalid(
            field,
            f"{name!r} is not a valid name",
            f"Use 1 to 63 characters that match {NAME_PATTERN}.",
        )
    return name


def uuid7_bytes() -> bytes:
    """16 bytes of a UUID version 7 (RFC 9562): 48 bits of Unix milliseconds, then random."""
    try:
        random = _random.pop()
    except IndexError:
        drawn = os.urandom(10 * _AT_ONCE)  # a system call for each would be half of the cost
        _random.extend(drawn[i : i + 10] for i in range(0, len(drawn), 10))
        random = _random.pop()
    number = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(random, "big")
    return (number & _CLEAR | _MARKS).to_bytes(16, "big")


def new_id(prefix: str) -> str:
    """An opaque, time-ordered id such as `job-0198…` (prefix, dash, 32 hex digits)."""
    return f"{prefix}-{uuid7_bytes().hex()}"
