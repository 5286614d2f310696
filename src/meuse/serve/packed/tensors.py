"""One tensor's bytes, in whichever of five encodings is the shortest.

A tensor is a row of words of 1, 2, 4 or 8 bytes: bit patterns, so that NaN and -0.0 come back
as they were. Knows no ONNX.

Source of sparse positions and codes: Han, Mao and Dally, Deep Compression, arXiv:1510.00149,
sections 2 to 4.
"""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.serve.packed import sequences
from meuse.serve.packed.bits import MAX_ALPHABET, Numbers
from meuse.serve.packed.wire import Reader, block, number

Words = NDArray[Any]

DENSE, PLANES, CODES, SPARSE, SAME = range(5)
_STORED, _DEFLATE, _LZMA = range(3)
_FILTERS = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}]
_COLUMNS, _CODED = 1, 2  # flags of SPARSE
_MANY = 1 << 16  # words from which on only what is likely to win is tried


@dataclass(slots=True)
class Shared:
    """What tensors of one file share: those done so far, and codebooks by their order."""

    tensors: list[Words] = field(default_factory=list)
    codebooks: list[Words] = field(default_factory=list)


def words_of(raw: bytes, width: int) -> Words:
    return np.frombuffer(raw, np.dtype(f"<u{width}"))


def write(words: Words, columns: int, shared: Shared) -> tuple[int, bytes]:
    """(encoding, body) of the shortest form. `columns`: words in a row of the tensor, for an
    order by columns. What is written counts as done in `shared`."""
    for index, other in enumerate(shared.tensors):
        if other.dtype == words.dtype and len(words) and np.array_equal(other, words):
            shared.tensors.append(words)
            return SAME, number(index)
    values, codes, counts = np.unique(words, return_inverse=True, return_counts=True)
    codes, few = codes.astype(np.int64), len(values) <= MAX_ALPHABET
    ways: list[tuple[int, bytes, Words | None]] = [(DENSE, words.tobytes(), None)]
    if len(words) < _MANY or not few:
        ways.append((PLANES, _planes(words), None))
    if len(values) < len(words):
        ways += _sparse(words, values, codes, counts, columns, shared)
        if few and (len(words) < _MANY or 4 * counts.max() < 3 * len(words)):
            book = _codebook(values, shared)
            ways.append((CODES, book + sequences.write(codes), values))
    encoding, body, codebook = min(ways, key=lambda way: len(way[1]))
    shared.tensors.append(words)
    if codebook is not None:
        _remember(codebook, shared)
    return encoding, body


def read(
    encoding: int, body: Reader, width: int, count: int, columns: int, shared: Shared
) -> Words:
    """The `count` words of a tensor. Raises `ValueError` for what no writer wrote."""
    if encoding == DENSE:
        found = words_of(body.take(count * width), width)
    elif encoding == PLANES:
        raw = expand(body, count * width)
        found = np.frombuffer(raw, np.uint8).reshape(width, count).T.copy().view(f"<u{width}")
        found = found.reshape(-1)
    elif encoding == CODES:
        values = _read_codebook(body, width, shared)
        found = _chosen(values, sequences.read(body, count))
    elif encoding == SPARSE:
        found = _read_sparse(body, width, count, columns, shared)
    elif encoding == SAME:
        found = _earlier(shared.tensors, body.number())
        if len(found) != count or found.dtype.itemsize != width:
            raise ValueError("a tensor is like one of another size")
    else:
        raise ValueError("there is no such encoding")
    body.end()
    shared.tensors.append(found)
    return found


def _sparse(
    words: Words, values: Words, codes: Numbers, counts: Numbers, columns: int, shared: Shared
) -> list[tuple[int, bytes, Words | None]]:
    """Positions of what is not the most frequent value, by rows and by columns, then values."""
    common = int(counts.argmax())
    if 2 * counts[common] < len(words):
        return []
    others = np.delete(values, common)
    found: list[tuple[int, bytes, Words | None]] = []
    rows = len(words) // columns if columns else 0
    for flag in (0, _COLUMNS):
        if flag and min(rows, columns) < 2:
            continue
        order = codes.reshape(rows, columns).T.reshape(-1) if flag else codes
        places = np.flatnonzero(order != common)
        gaps = np.diff(places, prepend=-1) - 1
        kept = order[places]
        kept -= kept > common
        coded = 0 < len(others) <= MAX_ALPHABET
        literal = others[kept].tobytes()
        named = _codebook(others, shared) + sequences.write(kept) if coded else literal
        coded = coded and len(named) < len(literal)
        start = bytes((flag | (_CODED if coded else 0),)) + values[common].tobytes()
        start += number(len(places)) + sequences.write(gaps)
        found.append((SPARSE, start + (named if coded else literal), others if coded else None))
    return found


def _read_sparse(body: Reader, width: int, count: int, columns: int, shared: Shared) -> Words:
    flags = body.byte()
    common = words_of(body.take(width), width)[0]
    kept = body.number()
    if flags & ~(_COLUMNS | _CODED) or kept > count:
        raise ValueError("a sparse tensor has more values than places")
    gaps = sequences.read(body, kept)
    if kept and (gaps.min() < 0 or gaps.max() >= count):
        raise ValueError("a gap is too wide")
    places = np.cumsum(gaps + 1) - 1
    if kept and places[-1] >= count:
        raise ValueError("a place is outside of its tensor")
    if flags & _CODED:
        values = _read_codebook(body, width, shared)
        others = _chosen(values, sequences.read(body, kept))
    else:
        others = words_of(body.take(kept * width), width)
    found = np.full(count, common, f"<u{width}")
    found[places] = others
    if not flags & _COLUMNS:
        return found
    if not columns or count % columns:
        raise ValueError("a tensor has no columns")
    return found.reshape(columns, count // columns).T.reshape(-1)


def _codebook(values: Words, shared: Shared) -> bytes:
    """The values, or the number of a codebook that had the same."""
    for index, other in enumerate(shared.codebooks):
        if other.dtype == values.dtype and np.array_equal(other, values):
            return number(0) + number(index)
    return number(len(values)) + values.tobytes()


def _read_codebook(body: Reader, width: int, shared: Shared) -> Words:
    size = body.number()
    if size == 0:
        found = _earlier(shared.codebooks, body.number())
        if found.dtype.itemsize != width:
            raise ValueError("a codebook is one of other words")
        return found
    found = words_of(body.take(size * width), width)
    _remember(found, shared)
    return found


def _remember(codebook: Words, shared: Shared) -> None:
    if not any(b.dtype == codebook.dtype and np.array_equal(b, codebook) for b in shared.codebooks):
        shared.codebooks.append(codebook)


def _chosen(values: Words, codes: Numbers) -> Words:
    if len(codes) and not 0 <= codes.min() <= codes.max() < len(values):
        raise ValueError("a code is outside of its codebook")
    return values[codes]


def _earlier(done: Sequence[Words], index: int) -> Words:
    if index >= len(done):
        raise ValueError("it is like one that does not come before it")
    return done[index]


def _planes(words: Words) -> bytes:
    """The first bytes of all words, then all second ones, …, compressed."""
    planes = words.view(np.uint8).reshape(len(words), -1).T.tobytes()
    return shortest(planes, quick=len(words) > _MANY)


def shortest(data: bytes, *, quick: bool = False) -> bytes:
    """A method, a length and what the best compressor of the standard library makes of it."""
    deflater = zlib.compressobj(6 if quick else 9, zlib.DEFLATED, -15)
    ways = [(_STORED, data), (_DEFLATE, deflater.compress(data) + deflater.flush())]
    if not quick:
        ways.append((_LZMA, lzma.compress(data, lzma.FORMAT_RAW, filters=_FILTERS)))
    method, best = min(ways, key=lambda way: len(way[1]))
    return bytes((method,)) + block(best)


def expand(reader: Reader, size: int) -> bytes:
    """What `shortest` made of `size` bytes; takes no more memory than those."""
    method, data = reader.byte(), reader.block()
    try:
        if method == _STORED:
            found = data
        elif method == _DEFLATE:
            inflater = zlib.decompressobj(-15)
            found = inflater.decompress(data, size + 1)
        elif method == _LZMA:
            decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_FILTERS)
            found = decoder.decompress(data, size + 1)
        else:
            raise ValueError("there is no such compression")
    except (zlib.error, lzma.LZMAError, EOFError) as error:
        raise ValueError(f"compressed bytes are damaged: {error}") from None
    if len(found) != size:
        raise ValueError("compressed bytes are not as many as said")
    return found
