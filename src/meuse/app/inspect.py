"""A short-lived process that reads one uploaded file and prints what is in it."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meuse.app import commands
from meuse.core.errors import MeuseError
from meuse.core.nouns import ENGINES
from meuse.runtime import lifeline

MEMORY = 4 << 30
TRIED_ROWS = 3


def main(argv: Sequence[str]) -> int:
    options = commands.parse("inspect", argv, "path format", "lifeline")
    lifeline.watch(options.lifeline, lifeline.end_now)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    models = {format for formats in ENGINES.values() for format in formats}
    look = model if options.format in models else table
    try:
        answer = look(Path(options.path), options.format)
    except MeuseError as error:
        answer = {"error": error.to_dict()}
        if error.field in ("model", None):  # the file as a whole
            answer["error"]["field"] = "body"
    sys.stdout.write(json.dumps(answer))
    return 0


def table(path: Path, format: str) -> dict[str, Any]:
    from meuse.data.tables import inspect

    rows, columns = inspect(path, format)
    return {"rows": rows, "columns": [asdict(column) for column in columns]}


def model(path: Path, format: str) -> dict[str, Any]:
    """The signature; the model has answered rows of zeros as it must before it is served."""
    from meuse.serve import engines
    from meuse.serve.cost import CostModel
    from meuse.serve.replica import warm_up

    engine = engines.load(format, path.read_bytes())
    warm_up(engine, TRIED_ROWS, CostModel())
    return {"signature": engine.signature.to_dict()}
