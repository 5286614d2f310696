"""Keras models as their JSON says them, written by hand."""

from __future__ import annotations

from typing import Any


def layer(kind: str, **config: Any) -> dict[str, Any]:
    """One serialised layer."""
    return {
        "module": "keras.layers", "class_name": kind, "config": config, "registered_name": None,
    }  # fmt: skip


def sequential(*layers: dict[str, Any], shape: tuple[int, ...] | None = None) -> dict[str, Any]:
    """A Sequential of layers, for rows of `shape` or of any."""
    first = [] if shape is None else [layer("InputLayer", batch_shape=[None, *shape])]
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "model", "layers": [*first, *layers]},
        "registered_name": None,
    }


def functional() -> dict[str, Any]:
    """64 numbers through two Dense layers, added, to ten classes."""

    def takes(node: dict[str, Any], *names: str, several: bool = False) -> dict[str, Any]:
        tensors = [
            {"class_name": "__keras_tensor__", "config": {"keras_history": [name, 0, 0]}}
            for name in names
        ]
        args = [tensors] if several else tensors
        nodes: list[Any] = [{"args": args, "kwargs": {}}] if names else []
        return {**node, "name": node["config"]["name"], "inbound_nodes": nodes}

    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": {
            "name": "model",
            "layers": [
                takes(layer("InputLayer", name="in", batch_shape=[None, 64])),
                takes(layer("Dense", name="a", units=16, activation="relu"), "in"),
                takes(layer("Dense", name="b", units=16), "in"),
                takes(layer("Add", name="sum"), "a", "b", several=True),
                takes(layer("Dense", name="out", units=10, activation="softmax"), "sum"),
            ],
            "input_layers": ["in", 0, 0],
            "output_layers": ["out", 0, 0],
        },
        "registered_name": "Functional",
    }
