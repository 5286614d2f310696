"""A model file in the hands of graph methods."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from meuse.core.ports import Engine


@dataclass(frozen=True, slots=True)
class Artifact:
    """`format` as the registry knows it (`core.nouns.ENGINES`); `data` is the whole file."""

    format: str
    data: bytes


Load = Callable[[Artifact], Engine]
"""The engine that serves a file, in this process."""
