"""WordPiece in the graph against the package `tokenizers`, id by id."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnxruntime import InferenceSession

from helpers_encoders import pieces, real_texts, tokenizer
from meuse.train.prepare.apply import Preparer
from meuse.train.prepare.characters import table
from meuse.train.prepare.graph import graph
from meuse.train.prepare.steps import Pieces, Preparation

pytest.importorskip("tokenizers")

LENGTH = 24
ODD = (
    "",
    " \t\n",
    "naïve CAFÉ À É ñ Straße ﬁne İstanbul ΑΣ",
    "中文字符 日本語 한국어 텍스트 ａｂｃ",
    "x" * 99,
    "x" * 100,
    "x" * 101,
    "é" * 100,
    "é" * 101,
    "a\u0300b zero\u200bwidth soft\u00adhyphen \ufffd\x00\x07 next\u2028line",
    "don't-stop_me(now)!! 😀 ¿qué?",
    "[CL S] ##ing # #",
    "word " * 100,
)


@cache
def preparer(lowercase: bool) -> Preparer:
    cut = pieces(tokenizer(lowercase), LENGTH, lowercase)
    return Preparer(Preparation((("text", "string"),), pieces=cut))


def ours(texts: list[str], lowercase: bool) -> Any:
    given = np.empty(len(texts), object)
    given[:] = texts
    return preparer(lowercase).run({"text": given})


def theirs(texts: list[str], lowercase: bool) -> Any:
    made = tokenizer(lowercase)
    found = np.zeros((len(texts), LENGTH), np.int64)
    for row, encoding in enumerate(made.encode_batch(texts)):
        ids = encoding.ids if len(encoding.ids) <= LENGTH else [*encoding.ids[: LENGTH - 1], 3]
        found[row, : len(ids)] = ids
    return found


@pytest.mark.parametrize("lowercase", [True, False])
def test_real_and_odd_texts_are_cut_as_by_the_original(lowercase: bool) -> None:
    texts = [*ODD, *(text[: 32 * LENGTH] for text in real_texts()[:400])]
    assert (theirs(texts, lowercase) > 3).mean() > 0.5
    np.testing.assert_array_equal(ours(texts, lowercase), theirs(texts, lowercase))
    for text in ODD:  # alone as among longer ones
        np.testing.assert_array_equal(ours([text], lowercase), theirs([text], lowercase))


SIGNS = st.one_of(
    st.sampled_from("etaoin shrdlu ETA ##'-."),
    st.characters(min_codepoint=1, max_codepoint=0x5FF),
    st.characters(min_codepoint=0xAC00, max_codepoint=0xACFF),
    st.sampled_from("中文字\u0301\u200b\u3000ｆﬁẞ"),
)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(SIGNS, max_size=60), min_size=1, max_size=5))
def test_any_text_is_cut_as_by_the_original(texts: list[str]) -> None:
    np.testing.assert_array_equal(ours(texts, True), theirs(texts, True))


def test_only_so_much_of_a_text_is_looked_at() -> None:
    """A text without end costs no more than one of 32 characters for each id."""
    long = " " * (32 * LENGTH) + "word"
    assert np.count_nonzero(ours([long], True)) == 2


def counted(texts: list[str]) -> list[int]:
    cut = Preparation((("text", "string"),), pieces=pieces(tokenizer(), LENGTH))
    session = InferenceSession(graph(cut, "n").SerializeToString())
    given = np.array(texts, object)
    found: list[int] = session.run(["n"], {"text": given})[0].tolist()
    return found


def test_tokens_are_counted_that_are_cut_off() -> None:
    """As the original counts them without a limit, also beside longer ones."""
    texts = [*ODD, *(text[: 32 * LENGTH] for text in real_texts()[:100])]
    wanted = [len(encoding.ids) for encoding in tokenizer().encode_batch(texts)]
    assert max(wanted) > 2 * LENGTH
    assert counted(texts) == wanted
    assert [counted([text])[0] for text in ODD] == wanted[: len(ODD)]


def test_a_text_that_is_looked_at_in_part_is_too_long() -> None:
    """Whatever the part has; at its very end nothing is left over."""
    most = 32 * LENGTH
    texts = [" " * (most - 1) + "a", " " * most + "a", " " * (most + 1), "a" + " " * most, "a"]
    found = counted(texts)
    assert (found[0], found[-1]) == (3, 3)
    assert found[1:4] == [LENGTH + 1] * 3
    (more,) = counted(["a " * most])
    assert more == most // 2 + 2


def test_what_characters_come_to() -> None:
    known = table(True, False, True, True)
    assert known["É"].text == "e"
    assert known["\u0301"].text == "" == known["\u200b"].text
    assert known["\u3000"].text == " " == known["\n"].text
    assert known["中"].alone
    assert known["!"].alone
    assert "e" not in known
    assert "中" not in table(True, False, True, False)


@pytest.mark.parametrize("change", [{"length": 2}, {"unknown": 0}, {"first": 9}])
def test_pieces_that_cannot_be(change: dict[str, int]) -> None:
    given: dict[str, Any] = {"length": 8, "first": 1, "last": 2, "unknown": 3, **change}
    with pytest.raises(ValueError, match="pieces have three ids"):
        Pieces(
            "t", ("a", "b", "c", "d"), lowercase=True, accents=False, clean=True, chinese=True,
            **given,
        )  # fmt: skip
