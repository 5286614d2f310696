"""ONNX operators by those of TensorFlow, for the converter to LiteRT. Runs in the toolchain alone.

Knows what each operator computes on its inputs; knows no graph. LiteRT's convolutions take
channels last, ONNX's take them second: `Value` holds either, so that what lies between two
convolutions transposes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

Attributes = Mapping[str, Any]

_LAST, _FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class InexpressibleError(Exception):
    """An operator with options that have no counterpart here."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor; `last`: its channels are last where ONNX has them second."""

    tensor: Any
    last: bool = False


class Operators:
    """What each operator of `table` computes, by TensorFlow (`tf`)."""

    def __init__(self, tf: Any) -> None:
        self._tf = tf
        m = tf.math
        unary = {
            "Abs": tf.abs, "Ceil": m.ceil, "Cos": m.cos, "Elu": tf.nn.elu, "Exp": m.exp,
            "Floor": m.floor, "HardSwish": lambda x: x * tf.nn.relu6(x + 3) / 6,
            "Identity": tf.identity, "IsNaN": m.is_nan, "Log": m.log, "Neg": m.negative,
            "Not": m.logical_not, "Reciprocal": m.reciprocal, "Relu": tf.nn.relu, "Round": m.round,
            "Sigmoid": m.sigmoid, "Sign": m.sign, "Sin": m.sin, "Sqrt": m.sqrt, "Tanh": m.tanh,
        }  # fmt: skip
        binary = {
            "Add": m.add, "And": m.logical_and, "Div": self._divide, "Equal": m.equal,
            "Greater": m.greater, "GreaterOrEqual": m.greater_equal, "Less": m.less,
            "LessOrEqual": m.less_equal, "Max": m.maximum, "Min": m.minimum, "Mod": m.floormod,
            "Mul": m.multiply, "Or": m.logical_or, "Pow": m.pow, "Sub": m.subtract,
        }  # fmt: skip
        reductions = {
            "ReduceMax": m.reduce_max, "ReduceMean": m.reduce_mean, "ReduceMin": m.reduce_min,
            "ReduceSum": m.reduce_sum,
        }  # fmt: skip
        plain: dict[str, Callable[..., Any]] = {
            "ArgMax": self._argmax, "Cast": self._cast, "Clip": self._clip,
            "Concat": self._concat, "Expand": self._expand, "Flatten": self._flatten,
            "Gather": self._gather, "Gelu": self._gelu, "Gemm": self._gemm,
            "LabelEncoder": self._encode, "LayerNormalization": self._layer_norm,
            "LogSoftmax": self._log_softmax, "MatMul": self._matmul,
            "OneHot": self._one_hot, "Pad": self._pad, "Range": self._range,
            "Reshape": self._reshape, "Shape": self._shape, "Slice": self._slice,
            "Softmax": self._softmax, "Squeeze": self._squeeze,
            "Unsqueeze": self._unsqueeze, "Where": self._where,
        }  # fmt: skip
        self.table: dict[str, Callable[[Attributes, list[Value | None]], Value]] = {
            **{kind: self._of_one(call) for kind, call in unary.items()},
            **{kind: self._of_two(call) for kind, call in binary.items()},
            **{kind: self._reduction(call) for kind, call in reductions.items()},
            "Conv": self._conv,
            "MaxPool": self._pool(tf.nn.max_pool2d, np.float32(-np.inf)),
            "AveragePool": self._pool(tf.nn.avg_pool2d, None),
            "GlobalAveragePool": self._global_average,
            "Transpose": self._transpose,
            **{kind: self._plain(call) for kind, call in plain.items()},
        }

    def first(self, value: Value) -> Any:
        """The tensor as ONNX has it."""
        if value.last:
            return self._tf.transpose(value.tensor, _FIRST)
        return value.tensor

    def last(self, value: Value) -> Any:
        """The tensor with its channels last."""
        return value.tensor if value.last else self._tf.transpose(value.tensor, _LAST)

    def _plain(self, call: Callable[..., Any]) -> Callable[..., Value]:
        def apply(attributes: Attributes, inputs: list[Value | None]) -> Value:
            given = [None if value is None else self.first(value) for value in inputs]
            return Value(call(attributes, *given))

        return apply

    def _of_one(self, call: Callable[[Any], Any]) -> Callable[..., Value]:
        def apply(_: Attributes, inputs: list[Value | None]) -> Value:
            (value,) = inputs
            assert value is not None
            return Value(call(value.tensor), value.last)

        return apply

    def _of_two(self, call: Callable[[Any, Any], Any]) -> Callable[..., Value]:
        def apply(_: Attributes, inputs: list[Value | None]) -> Value:
            if len(inputs) != 2:
                raise InexpressibleError(f"of {len(inputs)} inputs")
            one, two = inputs
            assert one is not None
            assert two is not None
            pair = {len(one.tensor.shape), len(two.tensor.shape)}
            if pair == {4} and (one.last or two.last):
                return Value(call(self.last(one), self.last(two)), True)
            if pair == {4, 0} and (one.last or two.last):
                return Value(call(one.tensor, two.tensor), True)
            return Value(call(self.first(one), self.first(two)))

        return apply

    def _reduction(self, call: Callable[..., Any]) -> Callable[..., Value]:
        def apply(attributes: Attributes, *inputs: Any) -> Any:
            axes = _numbers(inputs[1]) if len(inputs) > 1 else attributes.get("axes")
            if axes is None and attributes.get("noop_with_empty_axes"):
                return inputs[0]
            return call(inputs[0], axis=axes, keepdims=bool(attributes.get("keepdims", 1)))

        return self._plain(apply)

    def _divide(self, one: Any, two: Any) -> Any:
        tf = self._tf
        whole = tf.convert_to_tensor(one).dtype.is_integer
        return tf.math.floordiv(one, two) if whole else tf.math.divide(one, two)

    def _conv(self, attributes: Attributes, inputs: list[Value | None]) -> Value:
        tf = self._tf
        given, weight, bias = (*inputs, None)[:3]
        assert given is not None
        assert weight is not None
        kernel = np.asarray(weight.tensor)
        if kernel.ndim != 4:
            raise InexpressibleError(f"in {kernel.ndim - 2} dimensions")
        group, strides, dilations = _steps(attributes)
        x = self._padded(self.last(given), attributes, np.float32(0))
        channels = kernel.shape[1] * group
        if group == channels and group > 1:  # depthwise: [out, 1, h, w] → [h, w, in, times]
            times = kernel.shape[0] // channels
            shaped = kernel.reshape(channels, times, *kernel.shape[2:]).transpose(2, 3, 0, 1)
            made = tf.nn.depthwise_conv2d(x, shaped, [1, *strides, 1], "VALID", dilations=dilations)
        else:
            shaped = kernel.transpose(2, 3, 1, 0)
            made = tf.nn.conv2d(x, shaped, strides, "VALID", dilations=dilations)
        if bias is not None:
            made = tf.nn.bias_add(made, bias.tensor)
        return Value(made, True)

    def _pool(self, call: Callable[..., Any], fill: Any) -> Callable[..., Value]:
        def apply(attributes: Attributes, inputs: list[Value | None]) -> Value:
            (given,) = inputs
            assert given is not None
            _, strides, dilations = _steps(attributes)
            if attributes.get("ceil_mode") or set(dilations) != {1}:
                raise InexpressibleError("with ceil_mode or dilations")
            if fill is None and any(attributes.get("pads") or ()):
                raise InexpressibleError("with pads")
            x = self._padded(self.last(given), attributes, fill)
            return Value(call(x, attributes["kernel_shape"], strides, "VALID"), True)

        return apply

    def _padded(self, x: Any, attributes: Attributes, fill: Any) -> Any:
        if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
            raise InexpressibleError("with auto_pad")
        top, left, bottom, right = attributes.get("pads") or (0, 0, 0, 0)
        if not (top or left or bottom or right):
            return x
        pads = [[0, 0], [top, bottom], [left, right], [0, 0]]
        return self._tf.pad(x, pads, constant_values=fill)

    def _global_average(self, _: Attributes, inputs: list[Value | None]) -> Value:
        (given,) = inputs
        assert given is not None
        return Value(self._tf.reduce_mean(self.last(given), (1, 2), keepdims=True), True)

    def _transpose(self, attributes: Attributes, inputs: list[Value | None]) -> Value:
        (given,) = inputs
        assert given is not None
        order = tuple(attributes.get("perm") or ())
        if order == _FIRST and not given.last:
            return Value(given.tensor, True)
        if order == _LAST and given.last:
            return Value(given.tensor)
        return Value(self._tf.transpose(self.first(given), order or None))

    def _argmax(self, attributes: Attributes, x: Any) -> Any:
        axis = attributes.get("axis", 0)
        if attributes.get("select_last_index"):
            raise InexpressibleError("with select_last_index")
        made = self._tf.argmax(x, axis=axis, output_type=self._tf.int64)
        return self._tf.expand_dims(made, axis) if attributes.get("keepdims", 1) else made

    def _cast(self, attributes: Attributes, x: Any) -> Any:
        return self._tf.cast(x, helper.tensor_dtype_to_np_dtype(attributes["to"]))

    def _clip(self, _: Attributes, x: Any, low: Any = None, high: Any = None) -> Any:
        x = x if low is None else self._tf.maximum(x, low)
        return x if high is None else self._tf.minimum(x, high)

    def _concat(self, attributes: Attributes, *inputs: Any) -> Any:
        return self._tf.concat(inputs, attributes["axis"])

    def _expand(self, _: Attributes, x: Any, shape: Any) -> Any:
        tf = self._tf
        wanted = tf.broadcast_dynamic_shape(tf.shape(x), tf.cast(shape, tf.int32))
        return tf.broadcast_to(x, wanted)

    def _flatten(self, attributes: Attributes, x: Any) -> Any:
        if attributes.get("axis", 1) != 1 or None in x.shape[1:]:
            raise InexpressibleError("of shapes that are open")
        return self._tf.reshape(x, (-1, int(np.prod(x.shape[1:]))))

    def _gather(self, attributes: Attributes, x: Any, index: Any) -> Any:
        if isinstance(index, np.ndarray) and (index < 0).any():
            raise InexpressibleError("with indices from the end")
        return self._tf.gather(x, index, axis=attributes.get("axis", 0))

    def _gelu(self, attributes: Attributes, x: Any) -> Any:
        return self._tf.nn.gelu(x, approximate=attributes.get("approximate") == b"tanh")

    def _gemm(self, attributes: Attributes, a: Any, b: Any, c: Any = None) -> Any:
        if attributes.get("alpha", 1.0) != 1 or attributes.get("beta", 1.0) != 1:
            raise InexpressibleError("with alpha or beta")
        made = self._tf.linalg.matmul(
            a, b, transpose_a=bool(attributes.get("transA")),
            transpose_b=bool(attributes.get("transB")),
        )  # fmt: skip
        return made if c is None else made + c

    def _encode(self, attributes: Attributes, x: Any) -> Any:
        """Numbers by a table of numbers; texts have none here."""
        tf = self._tf
        if "keys_floats" not in attributes:
            raise InexpressibleError("of texts")
        whole = "values_int64s" in attributes
        kind = np.dtype(np.int64 if whole else np.float32)
        values = np.array(attributes["values_int64s" if whole else "values_floats"], kind)
        default = np.array(attributes["default_int64" if whole else "default_float"], kind)
        hits = tf.equal(tf.expand_dims(x, -1), np.array(attributes["keys_floats"], np.float32))
        return tf.reduce_sum(tf.cast(hits, kind) * (values - default), -1) + default

    def _layer_norm(self, attributes: Attributes, x: Any, scale: Any, bias: Any = None) -> Any:
        tf = self._tf
        axis = attributes.get("axis", -1)
        if axis not in (-1, len(x.shape) - 1):
            raise InexpressibleError("over several dimensions")
        centred = x - tf.reduce_mean(x, -1, keepdims=True)
        spread = tf.reduce_mean(centred * centred, -1, keepdims=True)
        made = centred * tf.math.rsqrt(spread + attributes.get("epsilon", 1e-5)) * scale
        return made if bias is None else made + bias

    def _log_softmax(self, attributes: Attributes, x: Any) -> Any:
        return self._tf.nn.log_softmax(x, axis=attributes.get("axis", -1))

    def _matmul(self, _: Attributes, a: Any, b: Any) -> Any:
        return self._tf.linalg.matmul(a, b)

    def _one_hot(self, attributes: Attributes, index: Any, depth: Any, values: Any) -> Any:
        off, on = np.asarray(values)
        return self._tf.one_hot(
            self._tf.cast(index, "int32"), int(np.asarray(depth).reshape(-1)[0]), on, off,
            axis=attributes.get("axis", -1),
        )  # fmt: skip

    def _pad(
        self, attributes: Attributes, x: Any, pads: Any, fill: Any = 0, axes: Any = None
    ) -> Any:
        if attributes.get("mode", b"constant") != b"constant" or axes is not None:
            raise InexpressibleError("of another mode than constant")
        both = np.asarray(pads).reshape(2, -1).T
        return self._tf.pad(x, both, constant_values=self._tf.cast(fill, x.dtype))

    def _range(self, _: Attributes, start: Any, limit: Any, step: Any) -> Any:
        return self._tf.range(start, limit, step)

    def _reshape(self, attributes: Attributes, x: Any, shape: Any) -> Any:
        if isinstance(shape, np.ndarray) and (shape == 0).any() and not attributes.get("allowzero"):
            sizes = self._tf.shape(x)
            shape = [sizes[i] if n == 0 else int(n) for i, n in enumerate(shape.tolist())]
        return self._tf.reshape(x, shape)

    def _shape(self, attributes: Attributes, x: Any) -> Any:
        sizes = self._tf.shape(x, out_type=self._tf.int64)
        return sizes[attributes.get("start", 0) : attributes.get("end")]

    def _slice(
        self, _: Attributes, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None
    ) -> Any:
        if not all(isinstance(bound, np.ndarray) for bound in (starts, ends)):
            raise InexpressibleError("with bounds that are computed")
        where = range(len(starts)) if axes is None else _numbers(axes)
        by = [1] * len(starts) if steps is None else _numbers(steps)
        parts = [slice(None)] * len(x.shape)
        for axis, start, end, step in zip(where, _numbers(starts), _numbers(ends), by, strict=True):
            parts[axis] = slice(start, None if abs(end) > 1 << 31 else end, step)
        return x[tuple(parts)]

    def _softmax(self, attributes: Attributes, x: Any) -> Any:
        return self._tf.nn.softmax(x, axis=attributes.get("axis", -1))

    def _squeeze(self, _: Attributes, x: Any, axes: Any = None) -> Any:
        return self._tf.squeeze(x, None if axes is None else _numbers(axes))

    def _unsqueeze(self, _: Attributes, x: Any, axes: Any) -> Any:
        rank = len(x.shape) + len(_numbers(axes))
        for axis in sorted(axis % rank for axis in _numbers(axes)):
            x = self._tf.expand_dims(x, axis)
        return x

    def _where(self, _: Attributes, chosen: Any, one: Any, two: Any) -> Any:
        return self._tf.where(chosen, one, two)


def _numbers(value: Any) -> list[int]:
    """Constant integers."""
    if not isinstance(value, np.ndarray):
        raise InexpressibleError("with axes that are computed")
    return [int(number) for number in value.reshape(-1)]


def _steps(attributes: Attributes) -> tuple[int, list[int], list[int]]:
    return (
        int(attributes.get("group", 1)),
        list(attributes.get("strides") or (1, 1)),
        list(attributes.get("dilations") or (1, 1)),
    )
