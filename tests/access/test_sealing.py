"""access.sealing: what is sealed opens with the key and the purpose that it was sealed for"""

from __future__ import annotations

import pytest

from meuse.access.sealing import Sealer, SealError

KEY = b"k" * 32


def test_there_and_back() -> None:
    sealed = Sealer(KEY).seal("sk-geheim-é", "https://a/v1")
    assert b"geheim" not in sealed
    assert sealed != Sealer(KEY).seal("sk-geheim-é", "https://a/v1")
    assert Sealer(KEY).open(sealed, "https://a/v1") == "sk-geheim-é"


def test_nothing_else_opens_it() -> None:
    sealed = Sealer(KEY).seal("secret", "https://a/v1")
    broken = bytearray(sealed)
    broken[-1] ^= 1
    for key, what, purpose in (
        (b"x" * 32, sealed, "https://a/v1"),
        (KEY, sealed, "https://b/v1"),
        (KEY, bytes(broken), "https://a/v1"),
        (KEY, b"", "https://a/v1"),
        (KEY, b"\x02" + sealed[1:], "https://a/v1"),
    ):
        with pytest.raises(SealError):
            Sealer(key).open(what, purpose)
    with pytest.raises(ValueError, match="32 bytes"):
        Sealer(b"short")
    assert "k" * 8 not in repr(Sealer(KEY))
