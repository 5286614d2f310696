"""A short-lived process that reads one uploaded file and prints what is in it."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from meuse.app import commands
from meuse.core.errors import MeuseError
from meuse.data.tables import inspect
from meuse.runtime import lifeline

MEMORY = 4 << 30


def main(argv: Sequence[str]) -> int:
    options = commands.parse("inspect", argv, "path format", "lifeline")
    lifeline.watch(options.lifeline, lifeline.end_now)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        rows, columns = inspect(Path(options.path), options.format)
        answer = {"rows": rows, "columns": [asdict(column) for column in columns]}
    except MeuseError as error:
        answer = {"error": error.to_dict()}
    sys.stdout.write(json.dumps(answer))
    return 0
