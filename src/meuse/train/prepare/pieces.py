"""WordPiece as a graph: texts in, token ids out, as BERT's own tokenizer gives them.

Every place of a text is matched against the vocabulary at once: a walk through a tree of its
pieces finds the longest that starts there. Then the starts that a word's pieces really have are
found by following the lengths, doubling the step each time. What remains are sums and scatters.
Knows ONNX's operators, `ai.onnx.ml`'s LabelEncoder, and the one of `com.microsoft` that cuts a
text into its characters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from meuse.train.prepare import characters
from meuse.train.prepare.builder import Builder
from meuse.train.prepare.steps import Pieces

CONTINUED = "##"
CHARACTERS_A_TOKEN = 32
_LONGEST_WORD = 100  # characters; a longer one is unknown, as the original has it
_DOUBLINGS = 7  # 2 ** 7 pieces are as many as a word can have
_PARTS = 3  # characters that one may come apart into: syllables of Hangul
_SPACE = 1
_BASE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Tree:
    """`edges`: node · `signs` + character → node; `token` of each node, -1 where no piece ends.

    Node 0 starts words, node 1 what goes on; characters count from 1 and the last of them is
    none that any piece has.
    """

    characters: dict[str, int]
    edges: dict[int, int]
    token: list[int]
    longest: int

    @property
    def signs(self) -> int:
        return len(self.characters) + 2

    @property
    def other(self) -> int:
        return len(self.characters) + 1


def ids(builder: Builder, pieces: Pieces, count: str = "") -> str:
    """[n] texts → ids [n, length]; and under the name `count`, if there is one, how many each text
    comes to that is not cut, INT64 [n]: of one with more than `CHARACTERS_A_TOKEN` · `length`
    characters at least that many."""
    tree = _tree(pieces.vocabulary)
    make = _Maker(builder)
    spelt = _spelt(make, pieces)
    codes = _codes(make, pieces, tree, spelt)
    signs = make.op("Div", codes, make.whole(2))
    apart = make.op("Less", codes, make.whole(2))
    alone = make.op("Equal", make.op("Mod", codes, make.whole(2)), make.whole(1))
    alone = make.op("And", alone, make.no(apart))
    before = make.op("Or", make.shifted(apart, True), make.shifted(alone, False))
    starts = make.op("And", make.no(apart), make.op("Or", before, alone))
    length, token = _longest(make, tree, signs, starts)
    reached = _reached(make, starts, length)
    reached = make.op("And", reached, make.no(apart))
    bad = _bad_words(
        make, starts, apart, make.op("And", reached, make.op("Equal", length, make.whole(0)))
    )
    kept = make.op("And", reached, make.op("Or", make.no(bad), starts))
    token = make.op("Where", bad, make.whole(pieces.unknown), token)
    if count:
        _counted(make, pieces, kept, spelt, count)
    return _framed(make, pieces, kept, token)


class _Maker:
    """Shorthand for what is used again and again; places are the second axis."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self._constants: dict[Any, str] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.builder.node(kind, inputs, **attributes)

    def whole(self, value: int | tuple[int, ...]) -> str:
        if value not in self._constants:
            self._constants[value] = self.builder.constant("whole", np.array(value, np.int64))
        return self._constants[value]

    def no(self, flags: str) -> str:
        return self.op("Not", flags)

    def cast(self, flags: str) -> str:
        return self.op("Cast", flags, to=TensorProto.INT64)

    def shifted(self, flags: str, first: bool) -> str:
        """Each place has what the one before it had; the first has `first`."""
        pad = self.builder.constant("first", np.array(first, np.bool_))
        wide = self.op("Pad", flags, self.whole((0, 1, 0, 0)), pad)
        return self.op("Slice", wide, self.whole((0,)), self.whole((-1,)), self.whole((1,)))

    def sums(self, flags: str) -> str:
        return self.op("CumSum", self.cast(flags), self.whole(1))

    def zeros(self, like: str) -> str:
        return self.op("Mul", like, self.whole(0))

    def wider(self, value: str, left: int, right: int) -> str:
        """More places of zeros."""
        return self.op("Pad", value, self.whole((0, left, 0, right)))

    def upto(self, value: str, end: str) -> str:
        return self.op("Slice", value, self.whole((0,)), end, self.whole((1,)))


def _tree(vocabulary: tuple[str, ...]) -> _Tree:
    signs: dict[str, int] = {}
    nodes: dict[tuple[int, str], int] = {}
    token = [-1, -1]
    longest = 1
    for number, piece in enumerate(vocabulary):
        node = int(piece.startswith(CONTINUED) and piece != CONTINUED)
        text = piece[len(CONTINUED) :] if node else piece
        longest = max(longest, len(text))
        for sign in text:
            signs.setdefault(sign, len(signs) + 1)
            if (node, sign) not in nodes:
                nodes[node, sign] = len(token)
                token.append(-1)
            node = nodes[node, sign]
        if text:
            token[node] = number
    width = len(signs) + 2
    edges = {node * width + signs[sign]: end for (node, sign), end in nodes.items()}
    return _Tree(signs, edges, token, longest)


def _spelt(make: _Maker, pieces: Pieces) -> str:
    """[n] texts → [n, places] of single characters, then texts that are empty."""
    return make.builder.node(
        "Tokenizer",
        [pieces.column],
        domain="com.microsoft",
        mark=0,
        mincharnum=1,
        pad_value="",
        separators=[""],
    )


def _codes(make: _Maker, pieces: Pieces, tree: _Tree, spelt: str) -> str:
    """Characters → [n, places]: 0 and 1 part words, then twice the character, odd when alone."""
    builder = make.builder
    signs = make.upto(spelt, make.whole((CHARACTERS_A_TOKEN * pieces.length,)))
    keys, values = _table(pieces, tree)
    packed = builder.node(
        "LabelEncoder",
        [signs],
        domain="ai.onnx.ml",
        keys_strings=keys,
        values_int64s=values,
        default_int64=2 * tree.other,
    )
    parts = [
        make.op("Mod", make.op("Div", packed, make.whole(_BASE**i)), make.whole(_BASE))
        for i in range(_PARTS)
    ]
    axis = [make.op("Unsqueeze", part, make.whole((2,))) for part in parts]
    # Of three places each, those that hold something move together.
    shape = builder.constant("flat", np.array([0, -1], np.int64))
    wide = make.op("Reshape", make.op("Concat", *axis, axis=2), shape)
    wide = make.wider(wide, 1, 0)  # at least one place, also of texts that are empty
    held = make.op("Greater", wide, make.whole(0))
    sums = make.sums(held)
    last = make.op("Shape", wide, start=1, end=2)
    where = make.op("Where", held, make.op("Sub", sums, make.whole(1)), last)
    moved = make.op("ScatterElements", make.wider(make.zeros(wide), 0, 1), where, wide, axis=1)
    most = make.op("ReduceMax", sums, keepdims=0)
    end = make.op("Add", make.op("Reshape", most, make.whole((1,))), make.whole(1))
    return make.upto(moved, end)


def _table(pieces: Pieces, tree: _Tree) -> tuple[list[str], list[int]]:
    table = {sign: characters.Character(sign, False) for sign in tree.characters}
    table |= characters.table(pieces.lowercase, pieces.accents, pieces.clean, pieces.chinese)
    other = 2 * tree.other
    keys, values = [""], [0]
    for sign, made in table.items():
        packed = 0
        if made.text == " ":
            packed = _SPACE
        elif len(made.text) > _PARTS:
            packed = other
        else:
            for place, part in enumerate(made.text):
                packed += (2 * tree.characters.get(part, tree.other) + made.alone) * _BASE**place
        if packed != other:
            keys.append(sign)
            values.append(packed)
    return keys, values


def _longest(make: _Maker, tree: _Tree, signs: str, starts: str) -> tuple[str, str]:
    """(length, token) [n, places] of the longest piece at every place; length 0 of none."""
    builder = make.builder
    inner = make.op("Where", starts, make.whole(0), signs)  # no piece goes on into a word
    ahead = make.wider(inner, 0, tree.longest)
    node = make.op("Where", starts, make.whole(0), make.whole(1))
    places = make.op("Shape", signs, start=1, end=2)
    zeros = make.zeros(signs)
    ends = builder.constant("ends", np.array([*tree.token, -1], np.int64))
    body = _step(tree, ends, places, ahead, signs)
    steps = builder.constant("steps", np.array(tree.longest, np.int64))
    go_on = builder.constant("go_on", np.array(True, np.bool_))
    names = [f"{zeros}_{name}" for name in ("node", "length", "token")]
    builder.node("Loop", [steps, go_on, node, zeros, zeros], names, body=body)
    return names[1], names[2]


def _step(tree: _Tree, ends: str, places: str, ahead: str, signs: str) -> onnx.GraphProto:
    """One character further, from every place; ends when no place leads on."""
    builder = Builder("step")
    make = _Maker(builder)
    begin = make.op("Reshape", "step", make.whole((1,)))
    end = make.op("Add", begin, places)
    here = make.op("Slice", ahead, begin, end, make.whole((1,)))
    here = make.op("Where", make.op("Equal", "step", make.whole(0)), signs, here)
    key = make.op("Add", make.op("Mul", "node_in", make.whole(tree.signs)), here)
    node = builder.node(
        "LabelEncoder",
        [key],
        ["node_out"],
        domain="ai.onnx.ml",
        keys_int64s=list(tree.edges),
        values_int64s=list(tree.edges.values()),
        default_int64=-1,
    )
    token = make.op("Gather", ends, node)  # of -1: the last, which is none
    found = make.op("GreaterOrEqual", token, make.whole(0))
    one_more = make.op("Add", "step", make.whole(1))
    builder.node("Where", [found, one_more, "length_in"], ["length_out"])
    builder.node("Where", [found, token, "token_in"], ["token_out"])
    alive = make.op("ReduceMax", node, keepdims=0)
    builder.node("GreaterOrEqual", [alive, make.whole(0)], ["go_on_out"])
    return builder.body(
        [("step", TensorProto.INT64, []), ("go_on_in", TensorProto.BOOL, [])]
        + [(f"{name}_in", TensorProto.INT64, [None, None]) for name in ("node", "length", "token")],
        [("go_on_out", TensorProto.BOOL, [])]
        + [
            (f"{name}_out", TensorProto.INT64, [None, None]) for name in ("node", "length", "token")
        ],
    )


def _reached(make: _Maker, starts: str, length: str) -> str:
    """Where pieces begin: at the start of a word, and where the one before it ends."""
    place = make.op(
        "Sub",
        make.op("CumSum", make.op("Add", make.zeros(length), make.whole(1)), make.whole(1)),
        make.whole(1),
    )
    last = make.op("Sub", make.op("Shape", length, start=1, end=2), make.whole(1))
    jump = make.op("Min", make.op("Add", place, length), last)
    marked = make.cast(starts)
    for _ in range(_DOUBLINGS):
        marked = make.op("ScatterElements", marked, jump, marked, axis=1, reduction="max")
        jump = make.op("GatherElements", jump, jump, axis=1)
    return make.op("Greater", marked, make.whole(0))


def _bad_words(make: _Maker, starts: str, apart: str, stuck: str) -> str:
    """Places of words that have no pieces or too many characters."""
    word = make.sums(starts)
    none = make.wider(make.zeros(word), 0, 1)
    size = make.op(
        "ScatterElements", none, word, make.cast(make.no(apart)), axis=1, reduction="add"
    )
    fails = make.op("ScatterElements", none, word, make.cast(stuck), axis=1, reduction="max")
    bad = make.op(
        "Or",
        make.op("Greater", size, make.whole(_LONGEST_WORD)),
        make.op("Greater", fails, make.whole(0)),
    )
    found = make.op("GatherElements", make.cast(bad), word, axis=1)
    return make.op("Greater", found, make.whole(0))


def _counted(make: _Maker, pieces: Pieces, kept: str, spelt: str, name: str) -> None:
    """How many tokens there are, the first and the last included."""
    builder, most = make.builder, CHARACTERS_A_TOKEN * pieces.length
    whole = make.op("ReduceSum", make.cast(kept), make.whole((1,)), keepdims=0)
    whole = make.op("Add", whole, make.whole(2))
    # What comes after the characters that are looked at is not read: that there is some is.
    next_ = make.op("Slice", spelt, make.whole((most,)), make.whole((most + 1,)), make.whole((1,)))
    goes_on = builder.node(
        "LabelEncoder",
        [next_],
        domain="ai.onnx.ml",
        keys_strings=[""],
        values_int64s=[0],
        default_int64=pieces.length + 1,
    )
    least = make.op("ReduceSum", goes_on, make.whole((1,)), keepdims=0)
    builder.node("Max", [whole, least], [name])


def _framed(make: _Maker, pieces: Pieces, kept: str, token: str) -> str:
    """The tokens kept, as many as there is room for, between the first and the last."""
    length, builder = pieces.length, make.builder
    rank = make.sums(kept)
    fits = make.op("And", kept, make.op("Less", rank, make.whole(length - 1)))
    where = make.op("Where", fits, rank, make.whole(length))
    rows = make.op("Shape", token, start=0, end=1)
    shape = make.op("Concat", rows, make.whole((length + 1,)), axis=0)
    frame = np.zeros((1, length + 1), np.int64)
    frame[0, 0] = pieces.first
    empty = make.op("Expand", builder.constant("frame", frame), shape)
    filled = make.op("ScatterElements", empty, where, token, axis=1)
    count = make.op("ReduceSum", make.cast(fits), make.whole((1,)), keepdims=1)
    end = make.op("Add", count, make.whole(1))
    last = make.op("Add", make.zeros(count), make.whole(pieces.last))
    closed = make.op("ScatterElements", filled, end, last, axis=1)
    kept_ids = make.upto(closed, make.whole((length,)))
    fixed = builder.constant("shape", np.array([-1, length], np.int64))
    return make.op("Reshape", kept_ids, fixed)
