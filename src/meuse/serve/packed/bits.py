"""Sequences of small numbers as bits: fixed width, Rice and canonical Huffman codes.

Knows numpy; knows no tensor and no file. Bits are written from the highest of a byte to the
lowest, numbers likewise. Whatever is read may be hostile: lengths are checked before memory is
taken, and everything that is wrong raises `ValueError`.
"""

from __future__ import annotations

import heapq
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]

MAX_LENGTH = 15
"""Bits of the longest Huffman code."""
MAX_ALPHABET = 1 << 12
_SHIFTS = np.arange(24 - MAX_LENGTH, 16 - MAX_LENGTH, -1, dtype=np.uint32)
_CHUNK = 1 << 16  # bytes that are decoded at once: eight table look-ups per byte


def fixed(numbers: Numbers, width: int) -> bytes:
    """Each number in `width` bits (0 to 32)."""
    shifts = np.arange(width - 1, -1, -1)
    return np.packbits((numbers[:, None] >> shifts & 1).astype(np.uint8).ravel()).tobytes()


def read_fixed(data: bytes, count: int, width: int) -> Numbers:
    """`count` numbers of `width` bits each; `data` has just their bytes."""
    if not 0 <= width <= 32 or len(data) != bytes_of(count * width):
        raise ValueError("numbers of fixed width are cut off")
    if width == 0:
        return np.zeros(count, np.int64)
    found = np.empty(count, np.int64)
    step = 1 << 16  # numbers at once, a multiple of 8: each part starts at a whole byte
    for start in range(0, count, step):
        n = min(step, count - start)
        first = start * width // 8
        raw = np.frombuffer(data, np.uint8, bytes_of(n * width), first)
        bits = np.unpackbits(raw, count=n * width).reshape(n, width)
        found[start : start + n] = bits @ (1 << np.arange(width - 1, -1, -1))
    return found


def rice(numbers: Numbers, low: int) -> tuple[bytes, bytes]:
    """(quotients, remainders) of a division by 2^low: ones ended by a zero; `low` bits each.

    Source: Rice and Plaunt, Adaptive variable-length coding, IEEE Trans. Commun. 19(6), 1971.
    """
    quotients = numbers >> low
    ends = np.cumsum(quotients + 1) - 1
    bits = np.ones(int(ends[-1]) + 1 if len(ends) else 0, np.uint8)
    bits[ends] = 0
    return np.packbits(bits).tobytes(), fixed(numbers & ((1 << low) - 1), low)


def read_rice(quotients: bytes, remainders: bytes, count: int, low: int) -> Numbers:
    bits = np.unpackbits(np.frombuffer(quotients, np.uint8))
    ends = np.flatnonzero(bits == 0)[:count]
    if len(ends) != count:
        raise ValueError("a Rice code is cut off")
    found = np.diff(ends, prepend=-1) - 1
    return (found << low) + read_fixed(remainders, count, low)


def code_lengths(counts: Numbers) -> NDArray[np.uint8]:
    """Bits of each symbol's code, 0 for a symbol that does not occur; at least two occur.

    Source: Huffman, A method for the construction of minimum-redundancy codes, Proc. IRE 40(9),
    1952. Counts are flattened until no code is longer than 15 bits.
    """
    counts = counts.copy()
    while True:
        lengths = _huffman(counts)
        if lengths.max() <= MAX_LENGTH:
            return lengths
        counts = np.where(counts > 0, counts // 2 + 1, 0)


def _huffman(counts: Numbers) -> NDArray[np.uint8]:
    used = np.flatnonzero(counts)
    parents = np.zeros(2 * len(used) - 1, np.int64)
    heap = [(int(counts[symbol]), node) for node, symbol in enumerate(used)]
    heapq.heapify(heap)
    for node in range(len(used), len(parents)):
        (a, first), (b, second) = heapq.heappop(heap), heapq.heappop(heap)
        parents[[first, second]] = node
        heapq.heappush(heap, (a + b, node))
    depths = np.zeros(len(parents), np.int64)
    for node in range(len(parents) - 2, -1, -1):
        depths[node] = depths[parents[node]] + 1
    lengths = np.zeros(len(counts), np.uint8)
    lengths[used] = np.minimum(depths[: len(used)], 255)
    return lengths


def huffman(symbols: Numbers, lengths: NDArray[np.uint8]) -> bytes:
    """The canonical codes of `symbols`, one after the other."""
    codes = _canonical(lengths)
    sizes = lengths[symbols].astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    bits = np.zeros(int(sizes.sum()), np.uint8)
    words = codes[symbols]
    for bit in range(int(lengths.max())):
        those = sizes > bit
        bits[starts[those] + bit] = words[those] >> (sizes[those] - 1 - bit) & 1
    return np.packbits(bits).tobytes()


def read_huffman(data: bytes, lengths: NDArray[np.uint8], count: int) -> Numbers:
    """`count` symbols.

    Every bit is looked at as if a code began there, all at once; then the codes that really
    follow each other are picked out.
    """
    if count > 8 * len(data):
        raise ValueError("a Huffman code is cut off")
    if count == 0:
        return np.zeros(0, np.int64)
    symbol_of, length_of = _table(lengths)
    raw = np.zeros(len(data) + 3, np.uint32)
    raw[: len(data)] = np.frombuffer(data, np.uint8)
    found = np.empty(count, np.int64)
    done, place = 0, 0  # `place`: bits into the present chunk
    for start in range(0, len(data), _CHUNK):
        part = raw[start : start + _CHUNK + 2]
        words = (part[:-2] << 16 | part[1:-1] << 8 | part[2:])[: len(data) - start]
        windows = (words[:, None] >> _SHIFTS & ((1 << MAX_LENGTH) - 1)).ravel()
        positions, place = _follow(length_of[windows].tobytes(), place, count - done)
        found[done : done + len(positions)] = symbol_of[windows[positions]]
        done += len(positions)
        if done == count and (not place or start + _CHUNK < len(data)):
            return found
    raise ValueError("a Huffman code is cut off")


def _follow(lengths: bytes, place: int, most: int) -> tuple[list[int], int]:
    """Where codes begin, from `place` on; and how far the last one reaches into what follows."""
    positions: list[int] = []
    append, end = positions.append, len(lengths)
    while place < end and most:
        append(place)
        place += lengths[place]
        most -= 1
    return positions, max(place - end, 0)


def _canonical(lengths: NDArray[np.uint8]) -> Numbers:
    """Codes in the order of their lengths, then of their symbols."""
    codes = np.zeros(len(lengths), np.int64)
    code, last = 0, 0
    for symbol in np.lexsort((np.arange(len(lengths)), lengths)):
        length = int(lengths[symbol])
        if length:
            code <<= length - last
            codes[symbol], last = code, length
            code += 1
    return codes


def _table(lengths: NDArray[np.uint8]) -> tuple[NDArray[np.uint16], NDArray[np.uint8]]:
    """By the next 15 bits: the symbol and the length of its code. Raises for codes that do not
    fill the whole tree, because then some bits would be no code."""
    used = lengths[lengths > 0].astype(np.int64)
    if lengths.max(initial=0) > MAX_LENGTH or (1 << (MAX_LENGTH - used)).sum() != 1 << MAX_LENGTH:
        raise ValueError("the lengths are those of no Huffman code")
    order = np.lexsort((np.arange(len(lengths)), lengths))
    order = order[lengths[order] > 0]
    spans = 1 << (MAX_LENGTH - lengths[order].astype(np.int64))
    symbols: Any = np.repeat(order, spans)
    return symbols.astype(np.uint16), lengths[symbols]


def bytes_of(bits: int) -> int:
    return (bits + 7) // 8
