"""Mutation testing of rating: which small changes of its code no test notices.

    python tools/mutate.py REPORT.md [--python VENV/bin/python] [--sample 300]

Works on a copy of the tree in a temporary folder. The environment of `--python` needs mutmut,
pytest, hypothesis and what the package needs; the tests are the pure ones, with fewer examples
and no shrinking. The report says how many mutants there were and shows each that lives.
"""

from __future__ import annotations

import argparse
import datetime
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
MUTATED = (
    "rating.py", "statement.py", "lines.py", "plans/curve.py", "plans/match.py",
    "plans/calendar.py", "plans/budget.py",
)  # fmt: skip
TESTS = ("test_worked_examples.py", "test_statement.py", "test_rating.py", "test_owed.py")
CONFTEST = """
from hypothesis import HealthCheck, Phase, settings
settings.register_profile(
    "mutate", phases=[Phase.explicit, Phase.generate], database=None, deadline=None,
    derandomize=True, max_examples=8, suppress_health_check=list(HealthCheck),
)
settings.load_profile("mutate")
"""
CONFIG = """[mutmut]
source_paths=
    src
only_mutate=
{only}
also_copy=
    tests
    pytest.ini
pytest_add_cli_args=
    -x
    -q
    -p
    no:randomly
pytest_add_cli_args_test_selection=
{tests}
timeout_multiplier=30
timeout_constant=20
"""
PYTEST = "[pytest]\naddopts = --import-mode=importlib\npythonpath = tests\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--sample", type=int, help="So many, drawn by a fixed seed; else all.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutate-") as name:
        folder = Path(name)
        lay_out(folder)
        environment = os.environ | {"HYPOTHESIS_EXAMPLES": "4", "PYTHONPATH": ""}
        mutmut = [given.python, "-m", "mutmut"]
        run = [*mutmut, "run", "--max-children", str(given.processes)]
        # Makes the mutants and asks for none of them: then they can be listed.
        subprocess.run([*run, "none"], cwd=folder, env=environment, check=False)
        names = sorted(states(mutmut, folder, environment))
        chosen = names
        if given.sample is not None:
            chosen = random.Random(0).sample(names, min(given.sample, len(names)))  # noqa: S311
        subprocess.run([*run, *chosen], cwd=folder, env=environment, check=False)
        found = states(mutmut, folder, environment)
        mine = {name: found[name] for name in sorted(chosen)}
        given.report.write_text(report(mine, len(names), mutmut, folder, environment))
    return 0


def lay_out(folder: Path) -> None:
    for part in ("core", "billing", "meter"):
        shutil.copytree(ROOT / "src/meuse" / part, folder / "src/meuse" / part)
    shutil.copy(ROOT / "src/meuse/__init__.py", folder / "src/meuse")
    tests = folder / "tests"
    shutil.copytree(ROOT / "tests" / "billing", tests / "billing")
    (tests / "billing" / "conftest.py").unlink()
    (tests / "conftest.py").write_text(CONFTEST)
    only = "\n".join(f"    src/meuse/billing/{name}" for name in MUTATED)
    chosen = "\n".join(f"    tests/billing/{name}" for name in TESTS)
    (folder / "setup.cfg").write_text(CONFIG.format(only=only, tests=chosen))
    (folder / "pytest.ini").write_text(PYTEST)


def output(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


def states(mutmut: list[str], folder: Path, environment: dict[str, str]) -> dict[str, str]:
    """What became of each mutant, by name."""
    listed = output([*mutmut, "results", "--all", "true"], folder, environment).splitlines()
    return dict(line.strip().split(": ", 1) for line in listed if ": " in line)


def report(
    states: dict[str, str],
    made: int,
    mutmut: list[str],
    folder: Path,
    environment: dict[str, str],
) -> str:
    counts = Counter(states.values())
    killed = counts["killed"] + counts["timeout"]
    total = sum(counts.values())
    modules: dict[str, Counter[str]] = {}
    for name, state in states.items():
        module = name.split(".x", 1)[0].removeprefix("meuse.billing.")
        modules.setdefault(module, Counter())[state] += 1
    rows = [
        f"| {module} | {sum(found.values())} | {found['killed'] + found['timeout']} |"
        for module, found in sorted(modules.items())
    ]
    living = [name for name, state in states.items() if state not in ("killed", "timeout")]
    shown = [
        f"### {name}: {states[name]}\n\n```diff\n"
        f"{output([*mutmut, 'show', name], folder, environment).strip()}\n```\n"
        for name in living
    ]
    return "\n".join(
        [
            f"# Mutation testing of rating, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
            "",
            f"{killed} of {total} mutants are killed: {killed / max(total, 1):.1%} "
            + ("" if total == made else f"of a sample drawn from {made} by a fixed seed ")
            + f"({', '.join(f'{n} {state}' for state, n in counts.most_common())}).",
            "`python tools/mutate.py` with mutmut, over the pure tests of tests/billing.",
            "",
            "| module | mutants | killed |",
            "|---|---|---|",
            *rows,
            "",
            "## Those that live",
            "",
            *shown,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
