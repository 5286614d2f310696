"""A document as PDF, by reportlab. The same content gives the same bytes."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meuse.billing.documents.content import content
from meuse.billing.documents.layout import HEIGHT, RIGHT, SIZES, WIDTH, Page, Style, layout, letters
from meuse.core.errors import Code, MeuseError

_PLACES = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
)
_COLORS: dict[Style, tuple[float, float, float]] = {
    "dim": (0.35, 0.38, 0.42), "small": (0.35, 0.38, 0.42), "stamp": (0.6, 0.2, 0.07),
}  # fmt: skip
_turn = threading.Lock()  # fonts are registered in the library's own globals


def pdf(kind: str, view: Mapping[str, Any], font: str = "") -> bytes:
    """An A4 document. `font`: a TrueType file; empty takes DejaVu Sans, where the system has it,
    else the library's own, which has Western letters alone.

    Raises `unavailable` without reportlab, or when the font cannot be read, `conflict` when it
    lacks letters.
    """
    try:
        from reportlab.pdfbase import pdfmetrics
        from reportlab.pdfgen.canvas import Canvas
    except ImportError:
        raise MeuseError(
            Code.UNAVAILABLE,
            "PDF needs a library that is not installed: reportlab",
            field="format",
            hint="Install meuse[pdf], or ask for format=html.",
        ) from None
    with _turn:
        plain, bold = _fonts(font)

        def named(style: Style) -> str:
            return bold if style in ("bold", "title", "stamp") else plain

        def measure(text: str, style: Style) -> float:
            width: float = pdfmetrics.stringWidth(text, named(style), SIZES[style])
            return width

        said = content(kind, view)
        pages = layout(said, measure)
        _check_letters(pages, plain, bold)
        out = io.BytesIO()
        canvas = Canvas(out, pagesize=(WIDTH, HEIGHT), invariant=1, lang="en")
        canvas.setTitle(f"{said.title} {said.number}".strip())
        canvas.setAuthor(said.seller[0] if said.seller else "")
        for page in pages:
            _draw(canvas, page, named)
            canvas.showPage()
        canvas.save()
        return out.getvalue()


def _draw(canvas: Any, page: Page, named: Any) -> None:
    for rule in page.rules:
        canvas.setStrokeColorRGB(0.75, 0.78, 0.82)
        canvas.setLineWidth(1.2 if rule.bold else 0.5)
        canvas.line(rule.start, rule.y, RIGHT, rule.y)
    for word in page.words:
        canvas.setFont(named(word.style), SIZES[word.style])
        canvas.setFillColorRGB(*_COLORS.get(word.style, (0.08, 0.1, 0.13)))
        (canvas.drawRightString if word.right else canvas.drawString)(word.x, word.y, word.text)


def _fonts(font: str) -> tuple[str, str]:
    """(regular, bold), registered by their paths."""
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.ttfonts import TTFError, TTFont

    found = font or next((place for place in _PLACES if Path(place).is_file()), "Vera.ttf")
    heavy = "VeraBd.ttf" if found == "Vera.ttf" else found.replace(".ttf", "-Bold.ttf")
    if found != "Vera.ttf" and not Path(heavy).is_file():
        heavy = found
    for path in (found, heavy):
        if path not in pdfmetrics.getRegisteredFontNames():
            try:
                pdfmetrics.registerFont(TTFont(path, path))
            except (TTFError, OSError) as error:
                raise MeuseError(
                    Code.UNAVAILABLE,
                    f"the font {path} cannot be read: {error}",
                    field="format",
                    hint="The operator sets invoice_font to a TrueType file.",
                ) from None
    return found, heavy


def _check_letters(pages: list[Page], *fonts: str) -> None:
    from reportlab.pdfbase import pdfmetrics

    wanted = letters(pages) - {" "}
    for name in fonts:
        known = pdfmetrics.getFont(name).face.charToGlyph
        lacking = sorted(letter for letter in wanted if ord(letter) not in known)
        if lacking:
            raise MeuseError(
                Code.CONFLICT,
                f"the font {name} lacks {''.join(lacking[:20])!r}",
                field="format",
                hint="The operator sets invoice_font to a TrueType file that has them; "
                "format=html needs none.",
            )
