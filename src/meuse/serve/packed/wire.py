"""Reading and writing the parts of a packed file, every length checked."""

from __future__ import annotations

_LONGEST = 9  # bytes of a number: 63 bits


def number(value: int) -> bytes:
    """LEB128: seven bits per byte, the lowest first; the highest bit says that more follow."""
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    found.append(value)
    return bytes(found)


def block(data: bytes) -> bytes:
    """A length and the bytes."""
    return number(len(data)) + data


class Reader:
    """Takes parts off the front of bytes. Raises `ValueError` where they do not suffice."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)
        self._at = 0

    def take(self, size: int) -> bytes:
        if not 0 <= size <= self.left:
            raise ValueError("the file is cut off")
        found = bytes(self._data[self._at : self._at + size])
        self._at += size
        return found

    def byte(self) -> int:
        return self.take(1)[0]

    def number(self) -> int:
        value = 0
        for place in range(_LONGEST):
            byte = self.byte()
            value |= (byte & 127) << (7 * place)
            if byte < 128:
                return value
        raise ValueError("a number is too long")

    def block(self) -> bytes:
        return self.take(self.number())

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def end(self) -> None:
        if self.left:
            raise ValueError("there is more than there should be")
