"""A checked graph of Keras layers as a torch network; Keras computes, torch holds the weights.

Keras is the only thing here that knows what a layer does. Its models, its deserialisation and
its training are not used: layers are made by class and plain arguments, and called one after
the other in the mode that `nn.Module.train` and `eval` set. Needs the extra `keras`.
"""

from __future__ import annotations

import importlib
import math
import os
import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from meuse.core.errors import Code, MeuseError, invalid
from meuse.train.recipes.catalog import MAX_PARAMETERS, Keras
from meuse.train.recipes.keras_config import Graph, Layer, vocabulary

MAX_VALUES = 1 << 24
"""Numbers that one layer may give for one row."""
MAX_STEPS = 128
"""Steps of a recurrent layer: each is exported, and ONNX has no shorter way from torch."""


def build(shape: tuple[int, ...], outputs: int, config: Keras) -> nn.Module:
    """The network of a config for rows of `shape` and `outputs` scores.

    Raises `invalid_field` where shapes do not fit or bounds are passed, and `unavailable`
    without Keras.
    """
    graph = config.graph
    keras = _keras()
    _check_input(graph, shape)
    network = Network(keras, graph, shape)
    units = network.units
    if units != outputs and not (units == 1 and outputs == 2):
        raise invalid(
            f"config.{graph.layers[-1].field}",
            f"the model gives {units} outputs, the data asks for {outputs}",
            f"Let the last layer have {outputs} units.",
        )
    return _TwoClasses(network) if units != outputs else network


class Network(nn.Module):
    """Features [n, *shape] → scores [n, units].

    Weights are parameters and buffers of this module, under Keras' own paths (`dense/kernel`);
    they are lent to Keras' variables before every call, so that whatever replaces them (a
    checkpoint, an export, a move) is what Keras computes with.
    """

    def __init__(self, keras: Any, graph: Graph, shape: tuple[int, ...]) -> None:
        super().__init__()
        self._graph = graph
        self._float = vocabulary(graph) is None
        with _seeded(), _own_session(keras):
            # No weights yet: a graph that is too large is refused before it takes memory.
            with keras.StatelessScope(initialize_variables=False):
                self._layers = [_made(keras, layer) for layer in graph.layers]
                self.units = self._trace(keras, shape)
            variables = [v for layer in self._layers for v in layer.weights]
            count = sum(math.prod(v.shape) for v in variables)
            if count > MAX_PARAMETERS:
                raise invalid(
                    "config.model",
                    f"the model has {count:,} parameters",
                    f"The limit is {MAX_PARAMETERS:,}.",
                )
            self._variables = [(v.path, v) for v in variables]
            for path, variable in self._variables:
                self._take(path, variable)

    def _trace(self, keras: Any, shape: tuple[int, ...]) -> int:
        """Build every layer for its input's shape; the width of the last one's output."""
        dtype = "float32" if self._float else "int64"
        found = {self._graph.input: keras.KerasTensor((None, *shape), dtype)}
        out = None
        for layer, made in zip(self._graph.layers, self._layers, strict=True):
            given = [found[name] for name in layer.inputs]
            if layer.kind in ("LSTM", "GRU") and given[0].shape[1] > MAX_STEPS:
                raise invalid(
                    f"config.{layer.field}",
                    f"{layer.kind} takes rows of {given[0].shape[1]} steps",
                    f"The limit is {MAX_STEPS}: shorten the texts (`prepare.text.length`) or "
                    "pool before it.",
                )
            try:
                out = made(given if len(given) > 1 else given[0])
            except Exception as error:
                raise _misfit(layer, given, error) from None
            sizes = tuple(out.shape)[1:]
            if None in sizes or math.prod(sizes) > MAX_VALUES:
                raise invalid(
                    f"config.{layer.field}",
                    f"{layer.kind} gives rows of the shape {list(sizes)}",
                    f"The limit is {MAX_VALUES:,} numbers.",
                )
            found[layer.name] = out
        assert out is not None
        if len(out.shape) != 2:
            raise invalid(
                f"config.{self._graph.layers[-1].field}",
                f"the model gives rows of the shape {list(out.shape)[1:]}, not a list of scores",
                "End with Flatten or a global pooling layer, and Dense.",
            )
        return int(out.shape[1])

    def _take(self, path: str, variable: Any) -> None:
        """Keep a variable's initial value as a parameter or buffer of this module."""
        value = torch.empty(tuple(variable.shape), dtype=torch.float32)
        if not value.is_meta:
            initial = variable._initializer(variable.shape, dtype=variable.dtype)
            value.copy_(initial.detach())
        if variable.trainable:
            self.register_parameter(path, nn.Parameter(value))
        else:
            self.register_buffer(path, value)

    def forward(self, features: Tensor) -> Tensor:
        for path, variable in self._variables:
            variable._value = getattr(self, path)
        found = {self._graph.input: features.float() if self._float else features}
        out = features
        for layer, made in zip(self._graph.layers, self._layers, strict=True):
            given = [found[name] for name in layer.inputs]
            argument = given if len(given) > 1 else given[0]
            if made._call_has_training_arg:
                out = made.call(argument, training=self.training)
            else:
                out = made.call(argument)
            found[layer.name] = out
        return out


class _TwoClasses(nn.Module):
    """One score z for the second of two classes as scores [n, 2]: softmax of (0, z) has
    sigmoid(z) second."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        scores = self.network(features)
        return torch.cat([torch.zeros_like(scores), scores], dim=1)


def _keras() -> Any:
    """The library on its torch backend, whatever the machine's own settings of Keras say."""
    os.environ["KERAS_BACKEND"] = "torch"
    with tempfile.TemporaryDirectory(prefix="meuse-keras-") as home:
        os.environ["KERAS_HOME"] = home  # it reads and writes settings there when imported
        try:
            keras = importlib.import_module("keras")
        except ImportError:
            raise MeuseError(
                Code.UNAVAILABLE,
                "Keras is not installed here",
                field="recipe",
                hint="Install the extra: pip install 'meuse[keras]'.",
            ) from None
    if keras.backend.backend() != "torch":
        raise MeuseError(Code.INTERNAL, "Keras was imported with another backend than torch")
    keras.config.set_image_data_format("channels_last")
    return keras


@contextmanager
def _seeded() -> Iterator[None]:
    """Keras draws its seeds from `random`: make them follow from torch's seed."""
    state = random.getstate()
    random.seed(int(torch.randint(0, 2**62, (), device="cpu")))
    try:
        yield
    finally:
        random.setstate(state)


@contextmanager
def _own_session(keras: Any) -> Iterator[None]:
    """Leave no state in Keras: it keeps a list of variables that have no value yet."""
    try:
        yield
    finally:
        keras.utils.clear_session(free_memory=False)


def _made(keras: Any, layer: Layer) -> Any:
    """A layer of Keras from its class and plain arguments."""
    settings = {
        name: _initializer(keras, value) if name.endswith("_initializer") else value
        for name, value in layer.arguments.items()
    }
    try:
        return getattr(keras.layers, layer.kind)(**settings, name=layer.name, dtype="float32")
    except (ValueError, TypeError) as error:
        raise invalid(f"config.{layer.field}.config", _first_line(error)) from None


def _initializer(keras: Any, value: tuple[str, dict[str, Any]]) -> Any:
    kind, settings = value
    return getattr(keras.initializers, kind)(**settings)


def _check_input(graph: Graph, shape: tuple[int, ...]) -> None:
    said = graph.shape
    if said is not None and (
        len(said) != len(shape) or any(a not in (None, b) for a, b in zip(said, shape, strict=True))
    ):
        raise invalid(
            "config.model",
            f"the model takes rows of the shape {list(said)}, the data has {list(shape)}",
            "Change the InputLayer; a Reshape after it gives rows another shape.",
        )


def _misfit(layer: Layer, given: list[Any], error: Exception) -> MeuseError:
    shapes = ", ".join(str(list(tensor.shape[1:])) for tensor in given)
    return invalid(
        f"config.{layer.field}",
        f"{layer.kind} does not take rows of the shape {shapes}: {_first_line(error)}",
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
