"""Sequences of whole numbers, each in whichever code takes the fewest bytes."""

from __future__ import annotations

import numpy as np

from meuse.serve.packed import bits
from meuse.serve.packed.bits import Numbers
from meuse.serve.packed.wire import Reader, block, number

FIXED, HUFFMAN, RICE, RUNS = range(4)
_ALPHABETS = (16, 32, 64, 128, 256)  # of RUNS: the last symbol says "so many, and more"


def write(numbers: Numbers) -> bytes:
    """The shortest of all codes of non-negative `numbers` (below 2^32); their count is not in it.

    A fixed width; Huffman; Rice; Huffman of numbers up to a bound, to which larger ones add up.
    """
    most = int(numbers.max(initial=0))
    width = most.bit_length()
    ways = [bytes((FIXED, width)) + bits.fixed(numbers, width)]
    if len(numbers) > 1 and most:
        if most < bits.MAX_ALPHABET:
            ways.append(bytes((HUFFMAN,)) + _huffman(numbers))
        ways += [_rice(numbers, low) for low in _lows(numbers)]
        sizes = [size for size in _ALPHABETS if size <= 2 * most]
        ways += [_runs(numbers, n) for n in sizes if _is_worth(numbers // (n - 1))]
    return min(ways, key=len)


def read(reader: Reader, count: int) -> Numbers:
    """`count` numbers. Raises `ValueError` for what no writer wrote."""
    method = reader.byte()
    if method == FIXED:
        width = reader.byte()
        return bits.read_fixed(reader.take(bits.bytes_of(count * width)), count, width)
    if method == HUFFMAN:
        return _read_huffman(reader, count)[0]
    if method == RICE:
        low = reader.byte()
        quotients = reader.block()
        remainders = reader.take(bits.bytes_of(count * low))
        return bits.read_rice(quotients, remainders, count, low)
    if method == RUNS:
        return _read_runs(reader, count)
    raise ValueError("there is no such code")


def _huffman(symbols: Numbers, alphabet: int | None = None) -> bytes:
    counts = np.bincount(symbols, minlength=alphabet or 0)
    if np.count_nonzero(counts) < 2:  # a code needs two
        counts[0 if counts[0] == 0 else 1] += 1
    lengths = bits.code_lengths(counts)
    table = bits.fixed(lengths.astype(np.int64), 4)
    return number(len(lengths)) + table + block(bits.huffman(symbols, lengths))


def _read_huffman(reader: Reader, count: int) -> tuple[Numbers, int]:
    """The symbols, and how many different ones there are."""
    size = reader.number()
    if not 2 <= size <= bits.MAX_ALPHABET:
        raise ValueError("an alphabet is too large")
    lengths = bits.read_fixed(reader.take(bits.bytes_of(4 * size)), size, 4)
    return bits.read_huffman(reader.block(), lengths.astype(np.uint8), count), size


def _lows(numbers: Numbers) -> list[int]:
    """Widths of the remainder worth trying: around the mean's."""
    near = max(int(float(numbers.mean()) + 1).bit_length() - 1, 0)
    return [low for low in (near - 1, near, near + 1) if low >= 0 and _is_worth(numbers >> low)]


def _is_worth(times: Numbers) -> bool:
    """Whether so many bits or symbols could be shorter than a fixed width."""
    return int(times.sum()) <= 8 * len(times)


def _rice(numbers: Numbers, low: int) -> bytes:
    quotients, remainders = bits.rice(numbers, low)
    return bytes((RICE, low)) + block(quotients) + remainders


def _runs(numbers: Numbers, size: int) -> bytes:
    symbols = _split(numbers, size - 1)
    return bytes((RUNS,)) + number(len(symbols)) + _huffman(symbols, size)


def _split(numbers: Numbers, most: int) -> Numbers:
    """Each number as so many times `most`, then the rest (below `most`)."""
    times = numbers // most
    ends = np.cumsum(times + 1) - 1
    symbols = np.full(int(ends[-1]) + 1, most, np.int64)
    symbols[ends] = numbers % most
    return symbols


def _read_runs(reader: Reader, count: int) -> Numbers:
    length = reader.number()
    if length < count or length > 8 * reader.left:
        raise ValueError("a run is cut off")
    symbols, size = _read_huffman(reader, length)
    ends = np.flatnonzero(symbols < size - 1)
    if len(ends) != count or (count and ends[-1] != length - 1):
        raise ValueError("a run has no end")
    return np.diff(np.cumsum(symbols)[ends], prepend=0)
