"""Which Keras layers a config may name, and with which arguments: an allow-list, no Keras.

Every argument is checked to be a plain value within bounds and is handed to the layer's
constructor by name. Nothing is deserialised: a name of a class or function is looked up here.
Standard library only: control validates with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import known

Check = Callable[[str, Any], Any]

MAX_SIDE = 1024
MAX_UNITS = 65_536

ACTIVATIONS = (
    "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "gelu", "silu", "swish", "tanh",
    "sigmoid", "hard_sigmoid", "softmax", "log_softmax", "softplus", "softsign", "exponential",
    "mish",
)  # fmt: skip


def whole(low: int, high: int) -> Check:
    """A whole number."""

    def check(field: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise invalid(
                field, f"{value!r} is not allowed", f"Use a whole number {low} to {high}."
            )
        return value

    return check


def number(low: float, high: float) -> Check:
    """A number; NaN is none."""

    def check(field: str, value: Any) -> float:
        if type(value) not in (int, float) or not low <= value <= high:
            raise invalid(field, f"{value!r} is not allowed", f"Use a number {low:g} to {high:g}.")
        return float(value)

    return check


def one_of(*allowed: Any) -> Check:
    """One of a few values, of the same type."""

    def check(field: str, value: Any) -> Any:
        if not any(type(value) is type(a) and value == a for a in allowed):
            told = ", ".join("null" if a is None else str(a).lower() for a in allowed)
            raise invalid(field, f"{value!r} is not allowed", f"Use one of: {told}.")
        return value

    return check


def sizes(rank: int, low: int, high: int) -> Check:
    """One whole number for all axes, or a list with one for each of `rank` axes."""
    each = whole(low, high)

    def check(field: str, value: Any) -> Any:
        if not isinstance(value, list):
            return each(field, value)
        if len(value) != rank:
            raise invalid(field, f"{len(value)} numbers for {rank} axes", f"Use {rank} numbers.")
        return tuple(each(f"{field}[{i}]", part) for i, part in enumerate(value))

    return check


def optional(check: Check) -> Check:
    """Null, or what `check` takes."""
    return lambda field, value: None if value is None else check(field, value)


def whole_list(low: int, high: int, most: int = 8) -> Check:
    """A list of whole numbers."""
    each = whole(low, high)

    def check(field: str, value: Any) -> tuple[int, ...]:
        if not isinstance(value, list) or not 1 <= len(value) <= most:
            raise invalid(field, "not a list of numbers", f"Use a list of 1 to {most} numbers.")
        return tuple(each(f"{field}[{i}]", part) for i, part in enumerate(value))

    return check


def axes(field: str, value: Any) -> Any:
    """An axis, or a list of axes."""
    return (
        whole_list(-4, 4)(field, value) if isinstance(value, list) else whole(-4, 4)(field, value)
    )


def padding_2d(field: str, value: Any) -> Any:
    """A number, [rows, columns], or [[top, bottom], [left, right]]."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        if len(value) != 2:
            raise invalid(field, f"{len(value)} pairs for 2 axes", "Use two pairs.")
        pair = sizes(2, 0, 64)
        return tuple(pair(f"{field}[{i}]", part) for i, part in enumerate(value))
    return sizes(2, 0, 64)(field, value)


def activation(field: str, value: Any) -> str:
    """The name of an activation; null is `linear`. Functions of one's own are refused."""
    if value is None:
        return "linear"
    if not isinstance(value, str) or value not in ACTIVATIONS:
        told = value.get("class_name") if isinstance(value, Mapping) else value
        raise invalid(
            field,
            f"the activation {told!r} is not allowed",
            f"Use one of: {', '.join(ACTIVATIONS)}.",
        )
    return value


def _unseeded(field: str, value: Any) -> None:
    if value is not None:
        raise invalid(
            field,
            "layers and initialisers have no seeds of their own here",
            "Leave it null; `seed` beside the recipe gives bit-identical weights.",
        )


_SCALED: dict[str, Check] = {
    "seed": _unseeded,
    "input_axes": one_of(None),
    "output_axes": one_of(None),
}
_RANGE = number(-100, 100)
_FANS = ("GlorotNormal", "GlorotUniform", "HeNormal", "HeUniform", "LecunNormal", "LecunUniform")
INITIALIZERS: Mapping[str, Mapping[str, Check]] = {
    "Zeros": {},
    "Ones": {},
    "Constant": {"value": _RANGE},
    "RandomNormal": {"mean": _RANGE, "stddev": number(0, 100), "seed": _unseeded},
    "TruncatedNormal": {"mean": _RANGE, "stddev": number(0, 100), "seed": _unseeded},
    "RandomUniform": {"minval": _RANGE, "maxval": _RANGE, "seed": _unseeded},
    "Orthogonal": {"gain": _RANGE, "seed": _unseeded},
    "VarianceScaling": {
        "scale": number(1e-6, 100),
        "mode": one_of("fan_in", "fan_out", "fan_avg"),
        "distribution": one_of("truncated_normal", "untruncated_normal", "uniform"),
        **_SCALED,
    },
    **dict.fromkeys(_FANS, _SCALED),
}
_WORDS = {
    "".join("_" * (c.isupper() and i > 0) + c.lower() for i, c in enumerate(name)): name
    for name in INITIALIZERS
} | {"uniform": "RandomUniform", "normal": "RandomNormal"}


def initializer(field: str, value: Any) -> tuple[str, dict[str, Any]]:
    """(class, arguments) of an initialiser, from its word or its serialised form."""
    if isinstance(value, str):
        name = _WORDS.get(value, value)
        given: Any = {}
    else:
        entry = serialised(field, value, "keras.initializers", INITIALIZERS)
        name, given = entry["class_name"], entry["config"]
    if name not in INITIALIZERS:
        raise invalid(
            field, f"the initialiser {name!r} is not allowed", f"Use one of: {', '.join(_WORDS)}."
        )
    return name, arguments(f"{field}.config", given, INITIALIZERS[name])


def serialised(
    field: str, value: Any, module: str, allowed: Mapping[str, Any], more: tuple[str, ...] = ()
) -> dict[str, Any]:
    """The `class_name` and `config` of a serialised Keras object of `module`, and `more`."""
    if not isinstance(value, Mapping):
        raise invalid(field, "not an object with class_name and config")
    known(
        value,
        ("module", "class_name", "config", "registered_name", "build_config", *more),
        f"{field}.",
    )
    name = value.get("class_name")
    if not isinstance(name, str) or name not in allowed:
        raise invalid(
            f"{field}.class_name", f"{name!r} is not allowed", f"Use one of: {', '.join(allowed)}."
        )
    if value.get("module") not in (None, module):
        raise invalid(
            f"{field}.module", f"{value['module']!r} is not allowed", f"Only {module} is."
        )
    if value.get("registered_name") not in (None, name):
        raise invalid(
            f"{field}.registered_name", "objects of one's own are not allowed", "Leave it null."
        )
    config = value.get("config")
    if not isinstance(config, Mapping):
        raise invalid(f"{field}.config", "not an object")
    return {**{key: value.get(key) for key in more}, "class_name": name, "config": config}


def arguments(field: str, given: Mapping[str, Any], checks: Mapping[str, Check]) -> dict[str, Any]:
    """The arguments, each checked by its name; what `_NEUTRAL` names is left out."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        at = f"{field}.{name}"
        if name in checks:
            found[name] = checks[name](at, value)
        elif name in _NEUTRAL:
            neutral, hint = _NEUTRAL[name]
            if value is not None and value != neutral:
                raise invalid(at, f"{name} is not supported here", hint)
        else:
            raise invalid(at, f"there is no argument {name!r} here", f"Use: {', '.join(checks)}.")
    return found


_LINEAR = {"activation": activation, "use_bias": one_of(True, False)}
_KERNEL = {**_LINEAR, "kernel_initializer": initializer, "bias_initializer": initializer}
_LAST = {"data_format": optional(one_of("channels_last"))}
_PLACED = {**_LAST, "padding": one_of("valid", "same")}
_AFFINE = {
    "axis": axes,
    "epsilon": number(1e-9, 1),
    "center": one_of(True, False),
    "scale": one_of(True, False),
    "beta_initializer": initializer,
    "gamma_initializer": initializer,
}
_RATE = {"rate": number(0, 0.95)}
_RECURRENT = {
    **_KERNEL,
    "units": whole(1, 4096),
    "recurrent_activation": activation,
    "recurrent_initializer": initializer,
    "dropout": number(0, 0.95),
    "return_sequences": one_of(True, False),
    "go_backwards": one_of(True, False),
}


def _conv(rank: int) -> dict[str, Check]:
    return {
        **_KERNEL,
        **_PLACED,
        "filters": whole(1, 8192),
        "kernel_size": sizes(rank, 1, 64),
        "strides": sizes(rank, 1, 64),
        "dilation_rate": sizes(rank, 1, 64),
        "groups": whole(1, 8192),
    }


def _pool(rank: int) -> dict[str, Check]:
    return {
        **_PLACED,
        "pool_size": sizes(rank, 1, MAX_SIDE),
        "strides": optional(sizes(rank, 1, MAX_SIDE)),
    }


_GLOBAL = {**_LAST, "keepdims": one_of(False, True)}

LAYERS: Mapping[str, Mapping[str, Check]] = {
    "InputLayer": {},  # read apart: it says shapes, and is never made
    "Dense": {**_KERNEL, "units": whole(1, MAX_UNITS)},
    "Activation": {"activation": activation},
    "ReLU": {
        "max_value": optional(number(0, 1e6)),
        "negative_slope": number(0, 10),
        "threshold": number(0, 1e6),
    },
    "LeakyReLU": {"negative_slope": number(0, 10)},
    "ELU": {"alpha": number(0, 10)},
    "PReLU": {"alpha_initializer": initializer, "shared_axes": optional(whole_list(1, 4))},
    "Softmax": {"axis": one_of(-1)},
    "Dropout": _RATE,
    "SpatialDropout1D": _RATE,
    "SpatialDropout2D": {**_RATE, **_LAST},
    "BatchNormalization": {
        **_AFFINE,
        "axis": whole(-4, 4),
        "momentum": number(0, 1),
        "moving_mean_initializer": initializer,
        "moving_variance_initializer": initializer,
    },
    "LayerNormalization": _AFFINE,
    "GroupNormalization": {**_AFFINE, "groups": whole(-1, 8192), "axis": whole(-4, 4)},
    "Rescaling": {"scale": number(-1e6, 1e6), "offset": number(-1e6, 1e6)},
    "Flatten": _LAST,
    "Reshape": {"target_shape": whole_list(-1, 16_777_216, 4)},
    "Permute": {"dims": whole_list(1, 4)},
    "RepeatVector": {"n": whole(1, MAX_SIDE)},
    "Conv1D": _conv(1),
    "Conv2D": _conv(2),
    "DepthwiseConv2D": {
        **{
            k: v
            for k, v in _conv(2).items()
            if k not in ("filters", "groups", "kernel_initializer")
        },
        "depth_multiplier": whole(1, 64),
        "depthwise_initializer": initializer,
    },
    "MaxPooling1D": _pool(1),
    "MaxPooling2D": _pool(2),
    "AveragePooling1D": _pool(1),
    "AveragePooling2D": _pool(2),
    "GlobalMaxPooling1D": _GLOBAL,
    "GlobalMaxPooling2D": _GLOBAL,
    "GlobalAveragePooling1D": _GLOBAL,
    "GlobalAveragePooling2D": _GLOBAL,
    "ZeroPadding1D": {**_LAST, "padding": sizes(2, 0, 64)},
    "ZeroPadding2D": {**_LAST, "padding": padding_2d},
    "UpSampling2D": {**_LAST, "size": sizes(2, 1, 16), "interpolation": one_of("nearest")},
    "Embedding": {
        "input_dim": whole(2, 200_000),
        "output_dim": whole(1, 8192),
        "embeddings_initializer": initializer,
    },
    "LSTM": {**_RECURRENT, "unit_forget_bias": one_of(True, False)},
    "GRU": _RECURRENT,
    "Add": {},
    "Subtract": {},
    "Multiply": {},
    "Average": {},
    "Maximum": {},
    "Minimum": {},
    "Concatenate": {"axis": whole(-4, 4)},
}
MERGING = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate")
NEEDED: Mapping[str, tuple[str, ...]] = {
    "Dense": ("units",),
    "Activation": ("activation",),
    "Dropout": ("rate",),
    "SpatialDropout1D": ("rate",),
    "SpatialDropout2D": ("rate",),
    "Rescaling": ("scale",),
    "Reshape": ("target_shape",),
    "Permute": ("dims",),
    "RepeatVector": ("n",),
    "Conv1D": ("filters", "kernel_size"),
    "Conv2D": ("filters", "kernel_size"),
    "DepthwiseConv2D": ("kernel_size",),
    "AveragePooling1D": ("pool_size",),
    "AveragePooling2D": ("pool_size",),
    "Embedding": ("input_dim", "output_dim"),
    "LSTM": ("units",),
    "GRU": ("units",),
}

_DECAY = "Leave it null; `weight_decay` beside the recipe is the penalty that the loop applies."
_NEUTRAL: Mapping[str, tuple[Any, str]] = {
    **{
        f"{of}_regularizer": (None, _DECAY)
        for of in (
            "kernel", "bias", "activity", "beta", "gamma", "alpha", "embeddings", "recurrent",
            "depthwise",
        )
    },
    **{
        f"{of}_constraint": (None, "Leave it null; `clip_norm` bounds the gradient.")
        for of in (
            "kernel", "bias", "beta", "gamma", "alpha", "embeddings", "recurrent", "depthwise",
        )
    },
    "seed": (None, "Leave it null; `seed` beside the recipe gives bit-identical weights."),
    "noise_shape": (None, "Leave it null."),
    "weights": (None, "Leave it out: weights start anew."),
    "mask_zero": (False, "Use false: masks are not part of the exported model."),
    "lora_rank": (None, "Leave it null."),
    "lora_alpha": (None, "Leave it null."),
    "quantization_config": (None, "Leave it null; a compress job quantises."),
    "renorm": (False, "Use false."),
    "renorm_clipping": (None, "Leave it null."),
    "renorm_momentum": (0.99, "Leave it out."),
    "synchronized": (False, "Use false."),
    # torch's exporter fixes the batch size of both.
    "recurrent_dropout": (0, "Use 0; `dropout` works."),
    "reset_after": (True, "Use true."),
    "return_state": (False, "Use false: layers give one tensor."),
    "stateful": (False, "Use false: rows know nothing of each other."),
    "unroll": (False, "Use false."),
    "zero_output_for_mask": (False, "Use false."),
    "use_cudnn": ("auto", "Leave it out."),
    "trainable": (True, "Use true: weights start anew, a frozen layer would stay random."),
}  # fmt: skip
