"""A short-lived process that reads one uploaded file and prints what is in it.

It prints lines of JSON: `{"progress": 0.4}` as it goes, then one answer. A table is written to
`out` in the canonical form as well.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meuse.app import commands
from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import ENGINES
from meuse.runtime import lifeline

MEMORY = 4 << 30
TRIED_ROWS = 3
PROFILE = "profile"
"""Not a format: asks for the profile of a table."""


def main(argv: Sequence[str]) -> int:
    options = commands.parse("inspect", argv, "path format out options", "lifeline")
    lifeline.watch(options.lifeline, lifeline.end_now)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    models = {format for formats in ENGINES.values() for format in formats}
    path = Path(options.path)
    try:
        if options.format in models:
            answer = model(path, options.format)
        elif options.format == PROFILE:
            answer = profile(path, Path(options.out), json.loads(options.options))
        else:
            answer = table(path, options.format, Path(options.out), json.loads(options.options))
    except MeuseError as error:
        answer = {"error": error.to_dict()}
        if error.field in ("model", None):  # the file as a whole
            answer["error"]["field"] = "body"
    _say(answer)
    return 0


def table(path: Path, format: str, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """Rows, columns, warnings and skipped files; `out` has the rows."""
    try:
        from meuse.data.ingest import ingest
        from meuse.data.options import ReadOptions
    except ImportError as error:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"this installation reads no data: {error.name} is missing",
            hint="The operator can install it: pip install 'meuse[data]'.",
        ) from None
    found = ingest(
        path, format, out, ReadOptions.from_dict(options), lambda part: _say({"progress": part})
    )
    return asdict(found)


def profile(path: Path, out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """`out` has the profile (JSON) of the table at `path`; `options`: target, split, and the
    format when it is not canonical."""
    from meuse.data.ingest import ingest
    from meuse.data.profile import profile as look
    from meuse.data.split_spec import SplitSpec

    if options["format"] != "table":
        table = out.with_name("table")
        ingest(path, options["format"], table)
        path = table
    split = SplitSpec.from_dict(options["split"]) if options["split"] else None
    found = look(path, options["target"], split, lambda part: _say({"progress": part}))
    out.write_text(json.dumps(found, allow_nan=False))
    return {"bytes": out.stat().st_size}


def model(path: Path, format: str) -> dict[str, Any]:
    """The signature; the model has answered rows of zeros as it must before it is served."""
    from meuse.app.replica import build
    from meuse.serve import engines
    from meuse.serve.cost import CostModel
    from meuse.serve.replica import warm_up

    engine = engines.load(format, path.read_bytes(), build=build)
    warm_up(engine, TRIED_ROWS, CostModel())
    return {"signature": engine.signature.to_dict()}


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
