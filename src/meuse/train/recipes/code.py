"""The config of code of the user's own. Knows no sandbox: control reads it."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta


class Custom(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Code of your own, and what it may use."""

    code: Annotated[str, Meta(pattern="^[0-9a-f]{64}$", description="digest of the uploaded zip")]
    entry: Annotated[
        str,
        Meta(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$", description="module:function"),
    ] = "model:build"
    options: Annotated[dict[str, Any], Meta(description="given to the function as `config`")] = {}
    memory_mib: Annotated[int, Meta(ge=64, le=1 << 20)] = 4096
    wall_s: Annotated[float, Meta(gt=0, description="longest run, in seconds")] = 3600.0
    processes: Annotated[int, Meta(ge=1, le=4096, description="with threads")] = 128
