"""The methods of compression, in the order in which they are told. Knows no torch."""

from __future__ import annotations

from meuse.compress.configs import (
    clip,
    convert,
    distill,
    low_rank,
    pack,
    prune,
    prune_structured,
    quantize,
    share,
    weights,
)
from meuse.compress.method import Method
from meuse.core.errors import invalid

METHODS: dict[str, Method] = {
    m.name: m
    for m in (
        *prune.METHODS,
        *prune_structured.METHODS,
        *clip.METHODS,
        *share.METHODS,
        *low_rank.METHODS,
        *distill.METHODS,
        *quantize.METHODS,
        *convert.METHODS,
        *pack.METHODS,
        *weights.METHODS,
    )
}


def find(name: object, field: str) -> Method:
    """A method by name. Raises `invalid_field` at `field`."""
    method = METHODS.get(str(name).strip().lower())
    if method is None:
        raise invalid(field, f"there is no method {name!r}", f"Use one of: {', '.join(METHODS)}.")
    return method
