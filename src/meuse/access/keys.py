"""API keys: `meuse_<env>_<id>_<secret><crc>`.

`id` is 12 base62 digits and is public; `secret` is 32 (190 bits of entropy); `crc` is the
CRC-32 of everything before it in 6 base62 digits, so that a typo or a flood of random
strings is refused by arithmetic alone. At rest there is only HMAC-SHA-256(pepper, key): a
fast hash is right for a key that cannot be guessed.

A pass, `batch_<id>_<until>_<mac>`, lets a batch infer in the name of the key that made it, until
a time (Unix milliseconds). It follows from the pepper, and is worth nothing without the key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SHAPE = re.compile(r"meuse_[a-z]{1,16}_([0-9A-Za-z]{12})_[0-9A-Za-z]{32}([0-9A-Za-z]{6})")

PASS, PASS_TIER = "batch_", "batch"
"""How a pass begins, and the tier that its requests are recorded at."""
_PASS = re.compile(r"batch_([0-9A-Za-z]{12})_([0-9]{1,15})_([0-9a-f]{64})")


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))


def _random(width: int) -> str:
    return "".join(secrets.choice(_DIGITS) for _ in range(width))


def mint(environment: str = "live") -> tuple[str, str]:
    """A new key: (id, key). The key is shown once and never stored."""
    key_id = _random(12)
    body = f"meuse_{environment}_{key_id}_{_random(32)}"
    return key_id, body + _base62(zlib.crc32(body.encode()), 6)


def key_id(key: str) -> str | None:
    """The id inside a well-formed key; None when shape or checksum is wrong."""
    match = _SHAPE.fullmatch(key)
    if match is None or _base62(zlib.crc32(key[:-6].encode()), 6) != match[2]:
        return None
    return match[1]


def digest(pepper: bytes, key: str) -> bytes:
    """What is kept of a key: 32 bytes."""
    return hmac.digest(pepper, key.encode(), hashlib.sha256)


def matches(pepper: bytes, key: str, stored: bytes) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(digest(pepper, key), stored)


def mint_pass(pepper: bytes, key_id: str, until_ms: int) -> str:
    """A pass for this key."""
    body = f"{PASS}{key_id}_{until_ms}"
    return f"{body}_{digest(pepper, body).hex()}"


def read_pass(pepper: bytes, text: str) -> tuple[str, int] | None:
    """(id of the key, until when) of a pass that was made here; None for anything else."""
    match = _PASS.fullmatch(text)
    if match is None or not matches(pepper, text[:-65], bytes.fromhex(match[3])):
        return None
    return match[1], int(match[2])
