"""Secrets of others at rest: encrypted by a key of the home, bound to what they are for.

AES-256-GCM with a fresh nonce each time. What was sealed for one purpose opens for no other, so
a row or a snapshot that was tampered with sends no key to a host that it was not given for.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
_NONCE_BYTES = 12
_FORMAT = b"\x01"


class SealError(Exception):
    """It was sealed by another key, for another purpose, or was tampered with."""


class Sealer:
    """`key` has 32 bytes. Tells neither key nor secret when printed."""

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key of {KEY_BYTES} bytes is wanted")
        self._key = key

    def seal(self, secret: str, purpose: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return _FORMAT + nonce + _cipher(self._key).encrypt(nonce, secret.encode(), _bound(purpose))

    def open(self, sealed: bytes, purpose: str) -> str:
        """Raises `SealError`."""
        from cryptography.exceptions import InvalidTag

        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        if sealed[:1] != _FORMAT or len(body) < 16:
            raise SealError("this is not a sealed secret")
        try:
            return _cipher(self._key).decrypt(nonce, body, _bound(purpose)).decode()
        except InvalidTag:
            raise SealError("sealed by another key, or for another purpose") from None


def _bound(purpose: str) -> bytes:
    return b"meuse/" + purpose.encode()


def _cipher(key: bytes) -> AESGCM:
    # Here: workers without an external server need not load it.
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)
