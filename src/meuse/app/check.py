"""Whether the code on the disk would start: what a supervisor asks before it becomes that code.

Loads every process's parts, and the settings, in a child of its own. Changes nothing.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from meuse.app import commands, up
from meuse.core.errors import MeuseError
from meuse.data import hosts
from meuse.runtime import lifeline, takeover
from meuse.settings import load

PARTS = ("up", "ledger", "control", "worker", "replica", "inspect", "nursery", "job")


def main(argv: Sequence[str]) -> int:
    parser = up.options_of_up()
    parser.add_argument("--lifeline", type=int, required=True)
    parser.add_argument("--state-format", type=int, required=True)
    options = vars(parser.parse_args(argv))
    lifeline.watch(options.pop("lifeline"), lifeline.end_now)
    if options.pop("state_format") != takeover.FORMAT:
        return _refuse("this code cannot take over from the one that runs: stop and start")
    try:
        settings = load(**options)
        up.check_binding(settings)
        hosts.parse(settings.data_allowed_hosts)
        commands.roles(settings)
        for part in PARTS:
            importlib.import_module(f"meuse.app.{part}")
    except MeuseError as error:
        return _refuse(str(error))
    except Exception as error:
        # Whatever an import may raise: a module that is missing, a line that is no Python.
        return _refuse(f"{type(error).__name__}: {error}")
    return 0


def _refuse(why: str) -> int:
    sys.stderr.write(f"{why}\n")
    return 1
