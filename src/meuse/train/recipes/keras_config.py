"""From the JSON of a Keras model to a checked graph of layers; no Keras, no torch.

Takes what `model.to_json()` gives for a `Sequential` or a functional model with one input, one
output and layers used once. Errors name the place in that JSON (`config.layers[2].class_name`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from meuse.core.errors import invalid
from meuse.core.fields import known
from meuse.train.recipes.keras_layers import (
    LAYERS,
    MERGING,
    NEEDED,
    arguments,
    serialised,
    whole,
)

MAX_BYTES = 1 << 20
MAX_LAYERS = 256

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_MODULES = (
    None,
    "keras",
    "keras.models",
    "keras.src.models.functional",
    "keras.src.models.sequential",
)
_FIELDS = (
    "module", "class_name", "config", "registered_name", "build_config", "compile_config",
    "keras_version", "backend",
)  # fmt: skip
_SOFT = ("softmax", "log_softmax", "sigmoid")


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: its class and arguments are of the allow-list; `inputs` are layers before it.

    `field` is its place in the JSON.
    """

    name: str
    kind: str
    arguments: Mapping[str, Any]
    inputs: tuple[str, ...]
    field: str


@dataclass(frozen=True, slots=True)
class Graph:
    """Layers in an order in which each comes after its inputs; the last one is the output.

    `input` is the name of the features, `shape` one row's (None: any; null whole: as the data
    has it). `final` is the activation that was taken off the output: `linear`, or one of
    softmax, log_softmax, sigmoid.
    """

    input: str
    shape: tuple[int | None, ...] | None
    layers: tuple[Layer, ...]
    final: str


def parse(model: object) -> dict[str, Any]:
    """The JSON object of a model, from itself or from its text. Raises `invalid_field`."""
    if isinstance(model, str):
        if len(model) > MAX_BYTES:
            raise _large(len(model))
        try:
            model = json.loads(model)
        except (ValueError, RecursionError) as error:
            raise invalid("model", f"not JSON: {error}", _HINT) from None
    if not isinstance(model, Mapping):
        raise invalid("model", "not a JSON object", _HINT)
    try:
        size = len(json.dumps(model, allow_nan=False))
    except (ValueError, RecursionError) as error:
        raise invalid("model", f"not JSON: {error}", _HINT) from None
    if size > MAX_BYTES:
        raise _large(size)
    return dict(model)


_HINT = "Give what `model.to_json()` of Keras 3 gives."


def _large(size: int) -> Exception:
    return invalid("model", f"{size:,} bytes are too many", f"The limit is {MAX_BYTES:,}.")


def read(model: Mapping[str, Any]) -> Graph:
    """The checked graph of a model. Raises `invalid_field` at the part at fault."""
    known(
        model,
        _FIELDS,
        "model.",
    )
    kind = model.get("class_name")
    if kind not in ("Sequential", "Functional"):
        raise invalid(
            "model.class_name", f"{kind!r} is not allowed", "Use Sequential or Functional."
        )
    if model.get("module") not in _MODULES:
        raise invalid("model.module", f"{model['module']!r} is not allowed", "Use keras.")
    if model.get("registered_name") not in (None, kind):
        raise invalid("model.registered_name", "models of one's own are not allowed")
    config = model.get("config")
    if not isinstance(config, Mapping):
        raise invalid("model.config", "not an object", _HINT)
    layers = config.get("layers")
    if not isinstance(layers, list) or not 1 <= len(layers) <= MAX_LAYERS:
        raise invalid("model.config.layers", f"not a list of 1 to {MAX_LAYERS} layers", _HINT)
    graph = _sequential(config, layers) if kind == "Sequential" else _functional(config, layers)
    _check_ids(graph)
    return _without_final(graph)


def _check_ids(graph: Graph) -> None:
    """Embeddings look up the features and nothing computed; then nothing else takes these."""
    takers = [layer for layer in graph.layers if graph.input in layer.inputs]
    embed = any(layer.kind == "Embedding" for layer in takers)
    for layer in graph.layers:
        if (layer.kind == "Embedding") != (embed and layer in takers):
            raise invalid(
                f"{layer.field}.class_name",
                f"{layer.kind} does not take what it is given here",
                "Token ids of a text go to Embedding layers alone, and nothing else does.",
            )


def _sequential(config: Mapping[str, Any], layers: list[Any]) -> Graph:
    known(config, ("name", "trainable", "dtype", "layers", "build_input_shape"), "model.config.")
    shape, before = None, ""
    found: list[Layer] = []
    for index, given in enumerate(layers):
        field = f"model.config.layers[{index}]"
        name, kind, settings, _ = _layer(field, given, index)
        if kind == "InputLayer":
            if index:
                raise invalid(f"{field}.class_name", "an InputLayer comes first")
            shape = _shape(field, settings)
        elif kind in MERGING:
            raise invalid(
                f"{field}.class_name", f"{kind} joins several layers", "Use a functional model."
            )
        else:
            _unique(field, name, [layer.name for layer in found])
            found.append(Layer(name, kind, _arguments(field, kind, settings), (before,), field))
            before = name
    return Graph("", shape, tuple(found), "linear")


def _functional(config: Mapping[str, Any], layers: list[Any]) -> Graph:
    known(
        config, ("name", "trainable", "dtype", "layers", "input_layers", "output_layers"),
        "model.config.",
    )  # fmt: skip
    first = _end(config, "input_layers")
    last = _end(config, "output_layers")
    shape = None
    seen: list[str] = []
    found: list[Layer] = []
    for index, given in enumerate(layers):
        field = f"model.config.layers[{index}]"
        name, kind, settings, nodes = _layer(field, given, index)
        _unique(field, name, seen)
        if kind == "InputLayer":
            if name != first or nodes:
                raise invalid(field, "a second input", "Use a model with one input.")
            shape = _shape(field, settings)
        else:
            inputs = _inputs(field, nodes, seen, kind)
            found.append(Layer(name, kind, _arguments(field, kind, settings), inputs, field))
        seen.append(name)
    if first not in seen or last not in [layer.name for layer in found]:
        raise invalid("model.config", "input_layers or output_layers name no layer of the model")
    return Graph(first, shape, _needed(found, last), "linear")


def _needed(layers: list[Layer], last: str) -> tuple[Layer, ...]:
    """The layers that `last` depends on, and it."""
    wanted, kept = {last}, []
    for layer in reversed(layers):
        if layer.name in wanted:
            wanted.update(layer.inputs)
            kept.append(layer)
    return tuple(reversed(kept))


def _layer(field: str, given: Any, index: int) -> tuple[str, str, dict[str, Any], Any]:
    """(name, class, settings without name and dtype, inbound nodes) of a serialised layer."""
    entry = serialised(field, given, "keras.layers", LAYERS, ("inbound_nodes", "name"))
    settings = dict(entry["config"])
    name = settings.pop("name", None) or entry["name"] or f"layer_{index}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise invalid(
            f"{field}.config.name", f"{name!r} is not a name", "Use letters, digits, _ and -."
        )
    if entry["class_name"] != "InputLayer":
        _float32(f"{field}.config.dtype", settings.pop("dtype", None))
    return name, entry["class_name"], settings, entry["inbound_nodes"]


def _float32(field: str, dtype: Any) -> None:
    if isinstance(dtype, Mapping) and dtype.get("class_name") == "DTypePolicy":
        config = dtype.get("config")
        dtype = config.get("name") if isinstance(config, Mapping) else config
    if dtype not in (None, "float32"):
        raise invalid(field, f"{dtype!r} is not allowed", "Use float32; see `precision`.")


def _arguments(field: str, kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    found = arguments(f"{field}.config", settings, LAYERS[kind])
    for name in NEEDED.get(kind, ()):
        if name not in found:
            raise invalid(f"{field}.config.{name}", f"{kind} needs {name}")
    return found


def _unique(field: str, name: str, seen: list[str]) -> None:
    if name in seen:
        raise invalid(f"{field}.config.name", f"{name!r} is the name of two layers")


def _shape(field: str, settings: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The shape of one row that an InputLayer says."""
    known(settings, ("batch_shape", "dtype", "sparse", "ragged", "optional"), f"{field}.config.")
    for name in ("sparse", "ragged", "optional"):
        if settings.get(name):
            raise invalid(f"{field}.config.{name}", f"{name} inputs are not supported")
    given = settings.get("batch_shape")
    at = f"{field}.config.batch_shape"
    if not isinstance(given, list) or not 2 <= len(given) <= 5 or given[0] is not None:
        raise invalid(at, "not [null, …] with the shape of a row", "Leave the batch size null.")
    each = whole(1, 16_777_216)
    return tuple(
        None if part is None else each(f"{at}[{i}]", part) for i, part in enumerate(given[1:], 1)
    )


def _end(config: Mapping[str, Any], name: str) -> str:
    """The one layer that `input_layers` or `output_layers` names."""
    given = config.get(name)
    while isinstance(given, list) and len(given) == 1:
        given = given[0]
    if not _is_reference(given):
        raise invalid(
            f"model.config.{name}", "not one [name, 0, 0]", "Use one input and one output."
        )
    assert isinstance(given, list)
    return str(given[0])


def _is_reference(given: Any) -> bool:
    return (
        isinstance(given, list)
        and len(given) == 3
        and isinstance(given[0], str)
        and given[1:] == [0, 0]
    )


def _inputs(field: str, nodes: Any, seen: list[str], kind: str) -> tuple[str, ...]:
    """The layers that a layer takes, which come before it."""
    at = f"{field}.inbound_nodes"
    if not isinstance(nodes, list) or len(nodes) != 1 or not isinstance(nodes[0], Mapping):
        raise invalid(at, "not used exactly once", "Use each layer once, none shared.")
    known(nodes[0], ("args", "kwargs"), f"{at}[0].")
    kwargs = nodes[0].get("kwargs") or {}
    if not isinstance(kwargs, Mapping) or any(value is not None for value in kwargs.values()):
        raise invalid(f"{at}[0].kwargs", "arguments of a call are not supported")
    args = nodes[0].get("args")
    if not isinstance(args, list) or len(args) != 1:
        raise invalid(f"{at}[0].args", "not one argument")
    tensors = args[0] if isinstance(args[0], list) else [args[0]]
    several = kind in MERGING
    if isinstance(args[0], list) != several or not 1 + several <= len(tensors) <= 64:
        raise invalid(f"{at}[0].args", f"not what {kind} takes")
    return tuple(_tensor(f"{at}[0].args", tensor, seen) for tensor in tensors)


def _tensor(field: str, given: Any, seen: list[str]) -> str:
    entry = given if isinstance(given, Mapping) else {}
    config = entry.get("config")
    if not isinstance(config, Mapping) or entry.get("class_name") != "__keras_tensor__":
        raise invalid(field, "not the output of a layer", "Constants are not supported.")
    history = config.get("keras_history")
    if not isinstance(history, list) or not _is_reference(history) or history[0] not in seen:
        raise invalid(field, f"{history!r} is no layer before this one")
    return str(history[0])


def _without_final(graph: Graph) -> Graph:
    """The graph with its last activation off: the loop and the answers work on logits."""
    if not graph.layers:
        raise invalid("model.config.layers", "there is no layer beside the input")
    last = graph.layers[-1]
    final = str(last.arguments.get("activation", "linear"))
    if last.kind == "Softmax":
        final = "softmax"
    at = f"{last.field}.config.activation"
    if last.kind in ("ReLU", "LeakyReLU", "ELU", "PReLU") or final not in ("linear", *_SOFT):
        raise invalid(
            at,
            f"a model that ends with {final if final != 'linear' else last.kind} gives no logits",
            f"End with linear, {', '.join(_SOFT)}.",
        )
    if final == "linear":
        return graph
    if last.kind in ("Activation", "Softmax"):
        if len(graph.layers) == 1 or graph.layers[-2].name != last.inputs[0]:
            raise invalid(last.field, "there is no layer before the last activation")
        return _without_final_again(replace(graph, layers=graph.layers[:-1]), final)
    plain = replace(last, arguments={**last.arguments, "activation": "linear"})
    return replace(graph, layers=(*graph.layers[:-1], plain), final=final)


def _without_final_again(graph: Graph, final: str) -> Graph:
    last = graph.layers[-1]
    if last.arguments.get("activation", "linear") != "linear":
        raise invalid(f"{last.field}.config.activation", f"{final} follows another activation")
    return replace(graph, final=final)


def vocabulary(graph: Graph) -> int | None:
    """How many ids the embedding of the features has; None when they are no ids."""
    found = [
        int(layer.arguments["input_dim"])
        for layer in graph.layers
        if layer.kind == "Embedding" and graph.input in layer.inputs
    ]
    return min(found, default=None)


def notes(config: Any, kind: str, task: str, outputs: int) -> tuple[str, ...]:
    """What a job's log says of the model before it trains.

    Raises `invalid_field` when texts are not embedded, or other features are, and when the
    last activation does not fit the task: regression takes linear, multilabel linear or
    sigmoid, classification linear, softmax or log_softmax, or sigmoid on one unit for two
    classes.
    """
    graph: Graph = config.graph
    first, last = graph.layers[0], graph.layers[-1]
    if (vocabulary(graph) is not None) != (kind == "text"):
        raise invalid(
            f"config.{first.field}.class_name",
            "token ids of a text go to an Embedding, and nothing else does",
            f"The features here are of the kind {kind!r}.",
        )
    allowed: tuple[str, ...] = {
        "regression": ("linear",),
        "multilabel": ("linear", "sigmoid"),
        "classification": ("linear", "softmax", "log_softmax"),
    }[task]
    if task == "classification" and outputs == 2 and last.arguments.get("units") == 1:
        allowed = ("linear", "sigmoid")
    if graph.final not in allowed:
        raise invalid(
            f"config.{last.field}.config.activation",
            f"{graph.final} does not fit {task} with {outputs} outputs",
            f"Use one of: {', '.join(allowed)}.",
        )
    if graph.final == "linear":
        return ()
    return (
        f"the model's last activation, {graph.final}, is left out while training: the loss is "
        "taken on logits, and the exported model applies it",
    )
