"""What is different for requests of batches: they are recorded under ids that follow from the line.

A line that was answered and then lost, because a process was killed, is asked again: the same id
says that it is the same, and it is billed once. Knows no batch.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from meuse.access import keys

if TYPE_CHECKING:
    from meuse.gateway.routes import Caller, Headers

TIER = keys.PASS_TIER
HEADER = "x-meuse-record"
"""32 hexadecimal digits that name the line; heeded where it comes with a pass."""


def record_id(caller: Caller, headers: Headers, id: bytes, number: int = 0) -> bytes:
    """The id of a request's record: `id`, or of a line the same each time, for each of the
    texts that it asks for (`number`)."""
    if caller.tier != TIER:
        return id
    for name, value in headers:
        if name in (HEADER, HEADER.encode()):
            text = value if isinstance(value, str) else value.decode("latin-1")
            try:
                given = bytes.fromhex(text)
            except ValueError:
                return id
            if len(given) != 16:
                return id
            if not number:
                return given
            # The time stays in front: records of a time lie together.
            return given[:6] + blake2b(given + number.to_bytes(4), digest_size=10).digest()
    return id
