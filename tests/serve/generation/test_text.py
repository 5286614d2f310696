"""Text from tokens: whole characters, and nothing of a stop string."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meuse.serve.generation.text import BytePieces, Stops, Window, tail

BYTES = [bytes([n]) for n in range(256)]


@given(st.text(max_size=30), st.data())
def test_characters_are_never_split(text: str, data: st.DataObject) -> None:
    """However the bytes are cut into steps, what is given is the text, and each part of it is
    whole characters."""
    raw = list(text.encode())
    detokenizer = BytePieces(BYTES)
    out = ""
    while raw:
        size = data.draw(st.integers(1, 4))
        part = detokenizer.push(raw[:size])
        raw = raw[size:]
        out += part
        assert text.startswith(out)
    assert out == text


def test_an_unfinished_character_is_left_out() -> None:
    """An answer that was cut within a character ends before it; bytes that are none are dropped."""
    assert BytePieces(BYTES).push(list("ok 🙂".encode()[:-1])) == "ok "
    assert BytePieces(BYTES).push([97, 0xFF, 98]) == "ab"


@given(st.text(max_size=30), st.data())
def test_a_window_gives_the_whole_text(text: str, data: st.DataObject) -> None:
    """Where tokens are decoded together, what is given adds up to the text decoded at once."""
    text = text.replace("\ufffd", "")
    raw = list(text.encode())
    window = Window(lambda ids: bytes(ids).decode("utf-8", "replace"))
    out = ""
    while raw:
        size = data.draw(st.integers(1, 4))
        out += window.push(raw[:size])
        raw = raw[size:]
        assert "\ufffd" not in out
    assert out == text


def test_a_window_keeps_the_space_of_words() -> None:
    """As sentencepiece has it: a word's space is shown only where something stands before it."""
    words = ["▁Hello", "▁world", "!"]
    window = Window(lambda ids: "".join(words[i] for i in ids).replace("▁", " ").lstrip(" "))
    assert [window.push([i]) for i in range(3)] == ["Hello", " world", "!"]


@given(
    st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=12),
    st.lists(st.text("ab\n", min_size=1, max_size=4), min_size=1, max_size=3),
)
def test_stop_strings_never_leak(parts: list[str], stops: list[str]) -> None:
    """The same as cutting the whole text before the first stop string, however it comes."""
    whole = "".join(parts)
    shown, reader = "", Stops(stops)
    met_at = None
    for number, part in enumerate(parts):
        shown += reader.push(part)
        if reader.met:
            met_at = number
            break
    if met_at is None:
        shown += reader.end()
        assert shown == whole
        assert not any(stop in whole for stop in stops)
        return
    so_far = "".join(parts[: met_at + 1])
    assert shown == so_far[: min(so_far.find(stop) for stop in stops if stop in so_far)]
    assert not any(stop in "".join(parts[:met_at]) for stop in stops)


@pytest.mark.parametrize(("text", "size"), [("abc<", 1), ("abc<st", 3), ("abc", 0), ("<stop>", 0)])
def test_what_may_become_a_stop_is_held(text: str, size: int) -> None:
    """The longest end that is a beginning."""
    assert tail(text, "<stop>") == size
