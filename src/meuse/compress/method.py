"""What a method of compression says of itself. Knows no torch: control reads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import msgspec

from meuse.train.typed import convert, schema


@dataclass(frozen=True, slots=True)
class Method:
    """A way to compress.

    `stage` is what it works on: `network` (torch, features → scores, may train), `graph` (the
    exported model, raw rows → answers) or `language` (a language model's graph with a cache).
    `apply` names a function "module:function":
    (network, material, config) → network, or the file that no network computes any more;
    (artifact, material, config) → artifact; (graph, config) → graph.
    `lossless`: the result computes what its input computed; only of graph methods.
    """

    name: str
    summary: str
    paper: str
    stage: Literal["network", "graph", "language"]
    config: type[msgspec.Struct]
    apply: str
    lossless: bool = False

    def configure(self, given: object, at: str = "") -> msgspec.Struct:
        """The checked config. Raises `invalid_field` that names the part at fault."""
        return convert(given, self.config, at)

    def schema(self) -> dict[str, Any]:
        """The JSON schema of the config."""
        return schema(self.config)

    def function(self) -> Callable[..., Any]:
        """What `apply` names; imports whatever that needs."""
        module, _, name = self.apply.partition(":")
        found: Callable[..., Any] = getattr(import_module(module), name)
        return found
