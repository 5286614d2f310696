"""Files of text in any encoding, as UTF-8. Knows codecs."""

from __future__ import annotations

import codecs
from pathlib import Path

from meuse.data.faults import bad_data, check_size

_PIECE = 4 << 20


def utf8(path: Path, encoding: str | None, scratch: Path, max_bytes: int) -> Path:
    """`path`, or a copy of it in UTF-8 under `scratch` when it is in another `encoding`.

    Raises `invalid_data` with the line that is not in this encoding, `too_large` when the
    copy would go over `max_bytes`.
    """
    if encoding is None or codecs.lookup(encoding).name == "utf-8":
        return path
    copy = scratch / "utf-8"
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    size = 0
    with path.open("rb") as file, copy.open("w", encoding="utf-8", newline="") as out:
        while True:
            piece = file.read(_PIECE)
            try:
                text = decoder.decode(piece, final=not piece)
                size += out.write(text)
            except UnicodeError as error:
                line += _lines_before(error)
                raise bad_data(
                    f"the text is not {encoding}",
                    field=f"line {line}",
                    hint="Name the encoding that the file was saved in.",
                ) from None
            check_size(size, max_bytes)
            line += text.count("\n")
            if not piece:
                return copy


def _lines_before(error: UnicodeError) -> int:
    """Line ends of the piece that stand before the fault."""
    if not isinstance(error, UnicodeDecodeError):
        return 0
    try:
        return error.object[: error.start].decode(error.encoding, "ignore").count("\n")
    except (LookupError, UnicodeError):
        return 0
