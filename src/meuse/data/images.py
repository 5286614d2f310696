"""Encoded images: checked by decoding them whole, and decoded to one size.

Knows Pillow and the formats that it may use here. A header that promises more pixels than allowed
is refused before anything is decoded.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from meuse.core.errors import MeuseError
from meuse.data.faults import bad_data

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp")
MAX_PIXELS = 50_000_000
_GREY = frozenset({"1", "L", "LA", "I", "I;16", "F"})
_HINT = "Use a whole PNG, JPEG, GIF, BMP or WebP file; on_error=skip leaves broken ones out."
# What Pillow raises on damaged files.
_BROKEN = (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError,
           OverflowError, MemoryError, AttributeError, ZeroDivisionError, AssertionError,
           RuntimeError, Warning, Image.DecompressionBombError)  # fmt: skip


@dataclass(slots=True)
class Checker:
    """Images of one column, one after the other; gathers the shape that they share."""

    _shape: tuple[int, int, int] | None = None
    seen: int = field(default=0)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels), -1 where images differ; channels are the most: 1 or 3."""
        return self._shape or (-1, -1, 3)

    def check(self, data: bytes, place: str, where: str) -> None:
        """Decode it. Raises `invalid_data` naming `place`."""
        height, width, channels = measure(data, place, where)
        self.seen += 1
        if self._shape is None:
            self._shape = (height, width, channels)
        else:
            h, w, c = self._shape
            self._shape = (h if h == height else -1, w if w == width else -1, max(c, channels))


def measure(data: bytes, place: str, where: str) -> tuple[int, int, int]:
    """(height, width, channels) of a sound image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise bad_data(
                        f"the image at {place} has {width:,} × {height:,} pixels; "
                        f"the limit is {MAX_PIXELS:,}",
                        field=where,
                        hint="Scale it down.",
                    )
                channels = 1 if image.mode in _GREY else 3
                image.load()
    except MeuseError:
        raise
    except _BROKEN as error:
        told = str(error)[:120] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            told = "it is of none of the formats that are read"
        raise bad_data(f"the image at {place} is broken: {told}", field=where, hint=_HINT) from None
    return height, width, channels


def decode(data: bytes, size: tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """The image as uint8 [height, width, channels], resized (bilinear) to `size`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            deep = image.mode.startswith("I")  # 16 bits: the upper eight are kept
            plain = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)) if deep else image
            picture = plain.convert("L" if channels == 1 else "RGB")
    if picture.size != (size[1], size[0]):
        picture = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture, np.uint8)
    return pixels.reshape(size[0], size[1], channels)
