"""Lines of JSON objects: each by its number, each fault by its line."""

from __future__ import annotations

import io

import pytest

from meuse.core import jsonl
from meuse.core.jsonl import BOM, LineError


def read(body: bytes) -> list[tuple[int, str]]:
    """(number, what is there or what is wrong)."""
    found = []
    for number, raw in jsonl.numbered(jsonl.lines(io.BytesIO(body))):
        try:
            found.append((number, str(jsonl.parse(raw))))
        except LineError as error:
            found.append((number, str(error)))
    return found


def test_blank_lines_count_and_every_end_is_one() -> None:
    body = BOM + b'{"a": 1}\r\n\n  \t\n{"a": "\xc3\xa9"}\n{"a": 3}'
    assert read(body) == [(1, "{'a': 1}"), (4, "{'a': 'é'}"), (5, "{'a': 3}")]
    assert read(BOM) == read(b"\n \n") == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_line_too_long_is_one_fault(monkeypatch: pytest.MonkeyPatch, end: bytes) -> None:
    """However many pieces it was read in; those that follow keep their numbers."""
    monkeypatch.setattr(jsonl, "MAX_LINE", 8)
    good, most = b"{}\n", b'{"a":12}'
    assert read(good + most + end) == [(1, "{}"), (2, "{'a': 12}")]
    for length in (9, 10, 11, 16, 17, 18, 19, 27, 100):
        assert read(good + b"x" * length + end) == [(1, "{}"), (2, "it is longer than 8 bytes")]
        if end:
            body = good + b"x" * length + end + good
            assert read(body) == [(1, "{}"), (2, "it is longer than 8 bytes"), (3, "{}")], length


def test_no_more_of_a_long_line_is_held_than_tells_that_it_is() -> None:
    class Counted(io.BytesIO):
        most = 0

        def readline(self, size: int | None = -1, /) -> bytes:
            assert size is not None
            assert size > 0
            self.most = max(self.most, size)
            return super().readline(size)

    file = Counted(b"x" * (3 * jsonl.MAX_LINE) + b"\n{}\n")
    pieces = list(jsonl.lines(file))
    assert [len(piece) for piece in pieces] == [jsonl.MAX_LINE + 2, 3]
    assert file.most <= jsonl.MAX_LINE + 2


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"{", "it is not JSON"),
        (b'{"a": "caf\xe9"}', "it is not UTF-8"),
        (b'{"a": "\\ud800"}', "it is not JSON"),
        (b'{"a": NaN}', "it is not JSON"),
        (b"{} {}", "it is not JSON"),
        (b"[1]", "it is not a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_faults(raw: bytes, told: str) -> None:
    with pytest.raises(LineError, match=told):
        jsonl.parse(raw)
