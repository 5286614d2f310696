"""From tokens to text, as they come: whole characters only, and nothing of a stop string.

Pure. A token may end within a character, and a stop string may begin in one token and end in
another: what may still become either is held back.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"


class Detokenizer(Protocol):
    """Of one answer. A character that was never finished is never given."""

    def push(self, ids: Sequence[int]) -> str:
        """The text that is certain now."""
        ...


class BytePieces:
    """Where a text is its tokens' bytes in a row. Bytes that are no character are left out."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
        self._decode = codecs.getincrementaldecoder("utf-8")("ignore").decode

    def push(self, ids: Sequence[int]) -> str:
        pieces = self._pieces
        return self._decode(b"".join([pieces[i] for i in ids]))


class Window:
    """Where tokens must be decoded together: the last few, with and without the new ones."""

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._known = 0  # of `_ids`, those whose text was given

    def push(self, ids: Sequence[int]) -> str:
        self._ids += ids
        before = self._decode(self._ids[: self._known])
        after = self._decode(self._ids)
        if after.endswith(REPLACEMENT) or len(after) <= len(before):
            return ""
        # The tokens before stay as context: whether a word begins with a space depends on them.
        self._ids = self._ids[self._known :]
        self._known = len(self._ids)
        return after[len(before) :]


class Controls:
    """A text with those of its control tokens that mean something to whoever reads it. `MARK`
    stands before each, and nowhere else: spelled by other tokens, the same letters are text."""

    MARK = "\ufdd0"  # no character of a text: Unicode keeps it for such use

    def __init__(self, text: Detokenizer, words: Mapping[int, str]) -> None:
        self._text = text
        self._words = words

    def push(self, ids: Sequence[int]) -> str:
        shown, begin = "", 0
        for at, number in enumerate(ids):
            if number in self._words:
                shown += self._plain(ids[begin:at]) + self.MARK + self._words[number]
                begin = at + 1
        return shown + self._plain(ids[begin:])

    def _plain(self, ids: Sequence[int]) -> str:
        return self._text.push(ids).replace(self.MARK, "") if ids else ""


class Stops:
    """Ends a text before the first of these strings, and never shows a part of one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.met = False

    def push(self, text: str) -> str:
        """What may be shown now."""
        if not self._stops or not text:
            return text
        text = self._held + text
        found = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.met = True
            self._held = ""
            return text[: min(found)]
        keep = max(tail(text, stop) for stop in self._stops)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back and became no stop string."""
        held, self._held = self._held, ""
        return held


def tail(text: str, word: str) -> int:
    """How many of the last characters of `text` may be the beginning of `word`."""
    for size in range(min(len(text), len(word) - 1), 0, -1):
        if word.startswith(text[len(text) - size :]):
            return size
    return 0
