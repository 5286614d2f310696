"""Where the words of a document stand on A4 pages. Knows widths by a function, and no PDF. Pure.

Points, from the lower left corner. A line that does not fit on a page goes on the next one, under
the heads of the columns again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from meuse.billing.documents.content import COLUMNS, Content, Row

WIDTH, HEIGHT = 595.28, 841.89
LEFT, RIGHT, TOP, BOTTOM = 48.0, 547.28, 794.0, 60.0
_COLUMN_ENDS = (355.0, 465.0, RIGHT)  # quantity, price, amount: right-aligned
_WHAT = 205.0
"""The width of a line's description."""

Style = Literal["plain", "bold", "dim", "small", "title", "stamp"]
SIZES: dict[Style, float] = {
    "plain": 9.0, "bold": 9.0, "dim": 9.0, "small": 7.5, "title": 19.0, "stamp": 11.0,
}  # fmt: skip
Measure = Callable[[str, Style], float]


@dataclass(frozen=True, slots=True)
class Word:
    """Text at a point: its left end, or with `right` its right one."""

    x: float
    y: float
    text: str
    style: Style = "plain"
    right: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A line across, `y` high."""

    y: float
    start: float = LEFT
    bold: bool = False


@dataclass(slots=True)
class Page:
    words: list[Word] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)


class _Writer:
    """Writes downwards, page after page."""

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self.pages = [Page()]
        self.y = TOP

    def word(self, x: float, text: str, style: Style = "plain", *, right: bool = False) -> None:
        if text:
            self.pages[-1].words.append(Word(x, self.y, text, style, right))

    def rule(self, start: float = LEFT, *, bold: bool = False) -> None:
        self.pages[-1].rules.append(Rule(self.y, start, bold))

    def down(self, by: float) -> None:
        self.y -= by

    def fits(self, height: float) -> bool:
        return self.y - height >= BOTTOM

    def turn(self) -> None:
        self.pages.append(Page())
        self.y = TOP

    def wrap(self, text: str, style: Style, width: float) -> list[str]:
        return wrapped(text, lambda part: self._measure(part, style), width)


def layout(said: Content, measure: Measure) -> list[Page]:
    """The pages of a document."""
    out = _Writer(measure)
    _head(out, said)
    _parties(out, said.seller, said.customer)
    _heads(out)
    for row in said.rows:
        _row(out, row)
    _sums(out, said.sums)
    for note in said.notes:
        _note(out, note)
    for number, page in enumerate(out.pages, 1):
        about = f"{said.title} {said.number}".strip()
        page.words.append(Word(LEFT, 36.0, about, "small"))
        page.words.append(
            Word(RIGHT, 36.0, f"Page {number} of {len(out.pages)}", "small", right=True)
        )
    return out.pages


def wrapped(text: str, measure: Callable[[str], float], width: float) -> list[str]:
    """Lines that are not wider: broken between words, and inside of what is wider by itself."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        longer = f"{line} {word}".strip()
        if measure(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *parts, line = _broken(word, measure, width)
        lines += parts
    return [*lines, line] if line or not lines else lines


def _broken(word: str, measure: Callable[[str], float], width: float) -> list[str]:
    parts: list[str] = []
    while len(word) > 1 and measure(word) > width:
        low, high = 1, len(word) - 1
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if measure(word[:middle]) <= width else (low, middle - 1)
        parts.append(word[:low])
        word = word[low:]
    return [*parts, word]


def _head(out: _Writer, said: Content) -> None:
    out.down(14)
    top = out.y
    for line in out.wrap(f"{said.title} {said.number}".strip(), "title", 270.0):
        out.word(LEFT, line, "title")
        out.down(23)
    if said.stamp:
        out.word(LEFT, said.stamp, "stamp")
        out.down(16)
    after, out.y = out.y, top
    for name, value in said.facts:
        out.word(335.0, name, "dim")
        for line in out.wrap(value, "plain", RIGHT - 430.0):
            out.word(430.0, line)
            out.down(13)
    out.y = min(after, out.y) - 16


def _parties(out: _Writer, seller: Sequence[str], customer: Sequence[str]) -> None:
    top, lowest = out.y, out.y
    for x, heading, lines in ((LEFT, "From", seller), (310.0, "To", customer)):
        if not lines:
            continue
        out.y = top
        out.word(x, heading, "small")
        out.down(13)
        style: Style = "bold"
        for text in lines:
            for line in out.wrap(text, style, 225.0):
                out.word(x, line, style)
                out.down(12.5)
            style = "plain"
        lowest = min(lowest, out.y)
    out.y = lowest - 22


def _heads(out: _Writer) -> None:
    what, *figures = COLUMNS
    out.word(LEFT, what, "dim")
    for end, name in zip(_COLUMN_ENDS, figures, strict=True):
        out.word(end, name, "dim", right=True)
    out.down(5)
    out.rule()
    out.down(12)


def _row(out: _Writer, row: Row) -> None:
    what = out.wrap(row.what, "plain", _WHAT)
    details = [line for text in row.details for line in out.wrap(text, "small", _WHAT)]
    prices = out.wrap(row.price, "plain", 95.0)
    height = max(11.5 * len(what) + 9.5 * len(details), 11.5 * len(prices)) + 6
    if not out.fits(min(height, 200.0)):
        out.turn()
        _heads(out)
    for end, text in ((_COLUMN_ENDS[0], row.quantity), (_COLUMN_ENDS[2], row.amount)):
        out.word(end, text, right=True)
    top = out.y
    for text in prices:
        out.word(_COLUMN_ENDS[1], text, right=True)
        out.down(11.5)
    lowest, out.y = out.y, top
    for line in what:
        out.word(LEFT, line)
        out.down(11.5)
    for line in details:
        if not out.fits(20):  # a line of many steps is longer than a page
            out.turn()
            _heads(out)
            lowest = TOP
        out.word(LEFT, line, "small")
        out.down(9.5)
    out.y = min(lowest, out.y) + 4
    out.rule()
    out.down(13)


def _sums(out: _Writer, sums: Sequence[tuple[str, str]]) -> None:
    start = 300.0
    if not out.fits(16.0 * len(sums) + 10):
        out.turn()
    out.down(4)
    for name, value in sums:
        last = (name, value) == sums[-1]
        style: Style = "bold" if last else "plain"
        lines = out.wrap(name, style, 140.0)
        out.word(RIGHT, value, style, right=True)
        for line in lines:
            out.word(start, line, style)
            out.down(12)
        out.y += 7
        out.rule(start, bold=last)
        out.down(13)


def _note(out: _Writer, note: str) -> None:
    lines = out.wrap(note, "plain", RIGHT - LEFT)
    if not out.fits(12.0 * len(lines) + 8):
        out.turn()
    out.down(8)
    for line in lines:
        out.word(LEFT, line)
        out.down(12)


def letters(pages: Iterable[Page]) -> set[str]:
    """All that are written."""
    return {letter for page in pages for word in page.words for letter in word.text}
