"""Options of packing."""

from __future__ import annotations

import msgspec

from meuse.compress.method import Method


class Pack(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to choose: every weight takes whichever lossless form is the shortest."""


METHODS = (
    Method(
        "pack",
        "the same model in a smaller file: codes, sparse places, entropy coding",
        "Han et al., arXiv:1510.00149",
        "graph",
        Pack,
        "meuse.compress.methods.pack:pack",
        lossless=True,
    ),
)
