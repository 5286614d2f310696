"""A preparation as an ONNX graph: raw inputs in, one tensor `features` out.

Knows the operators of ONNX (opset 20), of `ai.onnx.ml` (opset 4), and two of `com.microsoft`
that only ONNX Runtime has: the hash of a text, and its cut into tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from meuse.core.nouns import TensorSpec
from meuse.train.prepare import pieces
from meuse.train.prepare.builder import FEATURES, IR_VERSION, OPSETS, Builder
from meuse.train.prepare.dates import DATE_PATTERN, date
from meuse.train.prepare.steps import Category, Image, Numbers, Preparation, Tokens
from meuse.train.signature import inputs_for

__all__ = ["DATE_PATTERN", "FEATURES", "IR_VERSION", "OPSETS", "Builder", "cut", "graph"]

_TYPES = {
    "FP32": TensorProto.FLOAT,
    "BYTES": TensorProto.STRING,
    "UINT8": TensorProto.UINT8,
    "INT64": TensorProto.INT64,
}
# Words with their digits and apostrophes, and every other sign by itself (RE2 syntax).
_WORD = r"[\p{L}\p{N}_']+|[^\s\p{L}\p{N}_']"
_MICROSOFT = "com.microsoft"


def graph(preparation: Preparation, count: str = "") -> onnx.ModelProto:
    """The model that training applies and that export puts before the network; of pieces it
    gives, as `count`, also how many tokens each text has that is not cut (`pieces.ids`)."""
    builder = Builder("prepare")
    inputs = inputs_of(preparation)
    if preparation.tokens is not None:
        builder.node("Identity", [_ids(builder, preparation.tokens)], [FEATURES])
    elif preparation.pieces is not None:
        builder.node("Identity", [pieces.ids(builder, preparation.pieces, count)], [FEATURES])
    elif preparation.image is not None:
        builder.node("Identity", [_image(builder, preparation.image, inputs)], [FEATURES])
    else:
        parts = _table(builder, preparation, inputs)
        if len(parts) == 1:
            builder.node("Identity", parts, [FEATURES])
        else:
            builder.node("Concat", parts, [FEATURES], axis=1)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(preparation.dtype))
    features = helper.make_tensor_value_info(FEATURES, element, ["rows", *preparation.shape])
    outputs = [features]
    if count:
        outputs.append(helper.make_tensor_value_info(count, TensorProto.INT64, ["rows"]))
    return builder.finish([_input(spec) for spec in inputs], outputs)


def inputs_of(preparation: Preparation) -> tuple[TensorSpec, ...]:
    """The raw inputs of a model with this preparation."""
    image = preparation.image
    size = (-1, -1, -1)
    if image is not None and not image.pixels:
        channels = 3 if image.grey else image.channels
        size = (-1, -1, channels) if image.resize else (image.height, image.width, channels)
    return inputs_for(preparation.columns, nullable=preparation.nullable, image=size)


def _input(spec: TensorSpec) -> onnx.ValueInfoProto:
    shape = ["rows", *(n if n >= 0 else None for n in spec.shape[1:])]
    return helper.make_tensor_value_info(spec.name, _TYPES[spec.datatype], shape)


def _table(builder: Builder, preparation: Preparation, inputs: tuple[TensorSpec, ...]) -> list[str]:
    """Names of the parts [n, …] of the features."""
    raw = _Raw(builder, preparation, inputs)
    parts = []
    if preparation.numbers is not None:
        parts.append(
            _numbers(builder, preparation.numbers, raw.matrix(preparation.numbers.columns))
        )
    parts += [_category(builder, c, raw.column(c.column)) for c in preparation.categories]
    parts += [date(builder, step) for step in preparation.dates]
    return parts


class _Raw:
    """Raw columns by name, whether they come in one matrix or each as an input of its own."""

    def __init__(
        self, builder: Builder, preparation: Preparation, inputs: tuple[TensorSpec, ...]
    ) -> None:
        self._builder = builder
        self._together = len(inputs[0].shape) == 2 and inputs[0].datatype == "FP32"
        self._input = inputs[0].name
        self._all = tuple(name for name, _ in preparation.columns)

    def matrix(self, columns: tuple[str, ...]) -> str:
        """These numeric columns [n, f]."""
        if self._together:
            if columns == self._all:
                return self._input
            where = np.array([self._all.index(name) for name in columns], np.int64)
            index = self._builder.constant("index", where)
            return self._builder.node("Gather", [self._input, index], axis=1)
        axis = self._builder.constant("axis", np.array([1], np.int64))
        wide = [self._builder.node("Unsqueeze", [name, axis]) for name in columns]
        return wide[0] if len(wide) == 1 else self._builder.node("Concat", wide, axis=1)

    def column(self, name: str) -> str:
        """One column [n]."""
        if not self._together:
            return name
        index = self._builder.constant("index", np.array(self._all.index(name), np.int64))
        return self._builder.node("Gather", [self._input, index], axis=1)


def _numbers(builder: Builder, numbers: Numbers, raw: str) -> str:
    def row(name: str, values: tuple[float, ...]) -> str:
        return builder.constant(name, np.array(values, np.float32))

    if numbers.fill is not None:
        missing = builder.node("IsNaN", [raw])
        raw = builder.node("Where", [missing, row("fill", numbers.fill), raw])
    if numbers.low is not None:
        raw = builder.node("Max", [raw, row("low", numbers.low)])
    if numbers.high is not None:
        raw = builder.node("Min", [raw, row("high", numbers.high)])
    if numbers.log is not None:
        size = builder.node("Add", [builder.node("Abs", [raw]), row("one", (1.0,))])
        logged = builder.node("Mul", [builder.node("Sign", [raw]), builder.node("Log", [size])])
        chosen = builder.constant("log", np.array(numbers.log, np.bool_))
        raw = builder.node("Where", [chosen, logged, raw])
    centred = builder.node("Sub", [raw, row("shift", numbers.shift)])
    return builder.node("Div", [centred, row("scale", numbers.scale)])


def _category(builder: Builder, category: Category, raw: str) -> str:
    """[n] values → [n, width]."""
    width = category.width
    if category.encode == "ordinal":
        count = len(category.values)
        places = [(i + 1) / count for i in range(count)]
        found = _encoded(builder, category, raw, values_floats=places, default_float=0.0)
        axis = builder.constant("axis", np.array([1], np.int64))
        return builder.node("Unsqueeze", [found, axis])
    if category.encode == "hash":
        hashed = builder.node("MurmurHash3", [raw], domain=_MICROSOFT, positive=1, seed=0)
        buckets = builder.constant("buckets", np.array(width, np.int64))
        index = builder.node("Mod", [builder.node("Cast", [hashed], to=TensorProto.INT64), buckets])
    else:  # an index beyond the last gives a row of zeros
        places = list(range(width))
        index = _encoded(builder, category, raw, values_int64s=places, default_int64=width)
    depth = builder.constant("depth", np.array(width, np.int64))
    off_on = builder.constant("off_on", np.array([0, 1], np.float32))
    return builder.node("OneHot", [index, depth, off_on], axis=1)


def _encoded(builder: Builder, category: Category, raw: str, **values: Any) -> str:
    keys = "keys_floats" if category.numeric else "keys_strings"
    given: dict[str, Any] = {keys: list(category.values), **values}
    return builder.node("LabelEncoder", [raw], domain="ai.onnx.ml", **given)


def cut(builder: Builder, text: str, lowercase: bool) -> str:
    """[n] texts → [n, most tokens], the shorter ones ended by empty texts."""
    if lowercase:
        text = builder.node(
            "StringNormalizer",
            [text],
            case_change_action="LOWER",
            is_case_sensitive=1,
            locale="C.UTF-8",
        )
    return builder.node(
        "Tokenizer",
        [text],
        domain=_MICROSOFT,
        mark=0,
        mincharnum=1,
        pad_value="",
        tokenexp=_WORD,
    )


def _ids(builder: Builder, tokens: Tokens) -> str:
    """[n] texts → ids [n, length]: 0 padding, 1 unknown."""
    words = cut(builder, tokens.column, tokens.lowercase)
    ids = builder.node(
        "LabelEncoder",
        [words],
        domain="ai.onnx.ml",
        keys_strings=["", *tokens.vocabulary],
        values_int64s=[0, *range(2, len(tokens.vocabulary) + 2)],
        default_int64=1,
    )
    # As many columns of padding as may be missing, then the first `length`.
    length = tokens.length
    pads = builder.constant("pads", np.array([0, 0, 0, length], np.int64))
    zero = builder.constant("zero", np.array(0, np.int64))
    padded = builder.node("Pad", [ids, pads, zero])
    bounds = [
        builder.constant(n, np.array([v], np.int64))
        for n, v in (("from", 0), ("to", length), ("axis", 1))
    ]
    kept = builder.node("Slice", [padded, *bounds])
    shape = builder.constant("shape", np.array([-1, length], np.int64))
    return builder.node("Reshape", [kept, shape])


def _image(builder: Builder, image: Image, inputs: tuple[TensorSpec, ...]) -> str:
    """uint8 [n, h, w, c] of the size that the network takes."""
    raw = inputs[0].name
    if image.pixels:
        shape = np.array([-1, image.height, image.width, image.channels], np.int64)
        return builder.node("Reshape", [raw, builder.constant("shape", shape)])
    if not (image.resize or image.grey):
        return raw
    pixels = builder.node("Cast", [raw], to=TensorProto.FLOAT)
    if image.grey:  # ITU-R BT.601
        weights = builder.constant("grey", np.array([0.299, 0.587, 0.114], np.float32))
        axis = builder.constant("axis", np.array([3], np.int64))
        pixels = builder.node(
            "ReduceSum", [builder.node("Mul", [pixels, weights]), axis], keepdims=1
        )
    if image.resize:
        first = builder.node("Transpose", [pixels], perm=[0, 3, 1, 2])
        size = builder.constant("size", np.array([image.height, image.width], np.int64))
        outer = builder.node("Shape", [first], start=0, end=2)
        sizes = builder.node("Concat", [outer, size], axis=0)
        sized = builder.node("Resize", [first, "", "", sizes], mode="linear", antialias=1)
        pixels = builder.node("Transpose", [sized], perm=[0, 2, 3, 1])
    bounds = [
        builder.constant(n, np.array(v, np.float32)) for n, v in (("least", 0), ("most", 255))
    ]
    whole = builder.node("Clip", [builder.node("Round", [pixels]), *bounds])
    return builder.node("Cast", [whole], to=TensorProto.UINT8)
