"""What BERT's normaliser and pre-tokeniser make of single characters (arXiv:1810.04805).

Both look at one character at a time, so a table says all they do. Knows the Unicode of this
Python; no graph, no vocabulary.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType

_RANGES = (range(0xD800), range(0xE000, 0x1FC00), range(0x20000, 0x32400), range(0xE0000, 0xE0200))
"""All that is assigned, but for the planes of private use: there is nothing to say of them."""
_CJK = (
    (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
)  # fmt: skip
_SPACES = frozenset("\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | frozenset(
    map(chr, range(0x2000, 0x200B))
)


@dataclass(frozen=True, slots=True)
class Character:
    """`text` stands for it; `alone` says that it is a word of its own. "" is left out, " "
    parts words."""

    text: str
    alone: bool


@cache
def table(lowercase: bool, accents: bool, clean: bool, chinese: bool) -> Mapping[str, Character]:
    """Characters that do not simply stand for themselves within a word.

    `lowercase` folds case, `accents` False strips them (NFD), `clean` leaves out controls,
    `chinese` makes CJK ideographs words of their own.
    """
    found: dict[str, Character] = {}
    for places in _RANGES:
        for place in places:
            sign = chr(place)
            made = _character(sign, lowercase, accents, clean, chinese)
            if made.alone or made.text == " " or made.text != sign:
                found[sign] = made
    return MappingProxyType(found)


def _character(sign: str, lowercase: bool, accents: bool, clean: bool, chinese: bool) -> Character:
    kind = unicodedata.category(sign)
    if clean and sign not in "\t\n\r" and (sign == "\ufffd" or kind in ("Cc", "Cf", "Co")):
        return Character("", False)
    if sign in _SPACES:
        return Character(" ", False)
    alone = chinese and ord(sign) >= 0x3400 and any(low <= ord(sign) <= high for low, high in _CJK)
    text = sign
    if not accents and (kind == "Mn" or unicodedata.decomposition(sign) or kind == "Lo"):
        parts = unicodedata.normalize("NFD", text)
        text = "".join(part for part in parts if unicodedata.category(part) != "Mn")
    if lowercase:
        text = text.lower()
    # An ideograph for compatibility comes apart after it was set off.
    return Character(text, alone or (len(text) == 1 and _is_punctuation(text)))


def _is_punctuation(sign: str) -> bool:
    ascii_sign = sign.isascii() and sign.isprintable() and not sign.isalnum() and sign != " "
    return ascii_sign or unicodedata.category(sign).startswith("P")
