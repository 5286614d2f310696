"""Mutation testing of rating and the ledger: which small changes of its code no test notices.

    python tools/mutate.py REPORT.md [--seconds 1200] [--folder FOLDER]

mutmut makes the mutants, in a copy of the tree, and finds which tests reach them. They are run
here, in a process forked for each from one that has collected the tests: a mutant that is
killed costs milliseconds. The order is drawn by a fixed seed, so that those that were tried
when `--seconds` are over are a fair sample. Needs mutmut, pytest, hypothesis and what the
package needs; the tests are the pure ones, with fewer examples and no shrinking.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
MUTATED = (
    "rating.py", "statement.py", "lines.py", "plans/curve.py", "plans/match.py",
    "plans/calendar.py", "plans/budget.py", "ledger/books.py", "ledger/credit.py",
    "ledger/wallets.py", "ledger/postings.py",
)  # fmt: skip
TESTS = (
    "test_worked_examples.py", "test_statement.py", "test_rating.py", "test_owed.py",
    "ledger/test_wallets.py", "ledger/test_postings.py", "ledger/test_words.py",
    "ledger/test_wallets_stateful.py",
)  # fmt: skip
PURE = ("-k", "not sqlite and not postgres and not in_the_database")
"""Tests of the ledger that need no database."""
MOST_S = 120
"""A mutant that takes longer runs for ever: it is killed."""
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
    -q
    -k
    not sqlite and not postgres and not in_the_database
pytest_add_cli_args_test_selection=
{tests}
"""
PYTEST = "[pytest]\naddopts = --import-mode=importlib\npythonpath = tests src\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--folder", type=Path, help="Where mutants were made before.")
    given = parser.parse_args()
    report = given.report.resolve()
    with contextlib.ExitStack() as stack:
        folder = given.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mutate-")))
            make(folder)
        names = sorted(json.loads(output(folder, "results", "--all", "true", as_names=True)))
        tried = run(folder, random.Random(0).sample(names, len(names)), given.seconds)  # noqa: S311
        report.write_text(told(folder, tried, len(names)))
    return 0


def make(folder: Path) -> None:
    """A copy of the tree, its mutants, and which tests reach which function."""
    for part in ("core", "billing", "meter"):
        shutil.copytree(ROOT / "src/meuse" / part, folder / "src/meuse" / part)
    shutil.copy(ROOT / "src/meuse/__init__.py", folder / "src/meuse")
    tests = folder / "tests"
    shutil.copytree(ROOT / "tests/billing", tests / "billing")
    (tests / "billing/conftest.py").unlink()
    (tests / "conftest.py").write_text(CONFTEST)
    only = "\n".join(f"    src/meuse/billing/{name}" for name in MUTATED)
    chosen = "\n".join(f"    tests/billing/{name}" for name in TESTS)
    (folder / "setup.cfg").write_text(CONFIG.format(only=only, tests=chosen))
    (folder / "pytest.ini").write_text(PYTEST)
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "1"]
    for name in ("none", "meuse.billing.plans.match.x_left_of__mutmut_1"):
        subprocess.run([*command, name], cwd=folder, env=environment(), check=False)


def environment() -> dict[str, str]:
    return os.environ | {"HYPOTHESIS_EXAMPLES": "4", "PYTHONPATH": ""}


def output(folder: Path, *words: str, as_names: bool = False) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mutmut", *words],
        cwd=folder, env=environment(), check=True, capture_output=True, text=True,
    )  # fmt: skip
    if not as_names:
        return done.stdout
    listed = (line.strip().split(": ", 1)[0] for line in done.stdout.splitlines() if ": " in line)
    return json.dumps(list(listed))


def run(folder: Path, names: list[str], seconds: float) -> dict[str, str]:
    """What became of each mutant that was tried, by name."""
    os.chdir(folder / "mutants")
    os.environ.update(environment())
    os.environ["MUTANT_UNDER_TEST"] = ""
    sys.path[:0] = [str(Path("src").resolve())]
    import pytest

    reach = json.loads(Path("mutmut-stats.json").read_text())["tests_by_mangled_function_name"]
    forks = Forks(names, reach, time.monotonic() + seconds)
    pytest.main(
        ["-q", "--tb=no", "-p", "no:randomly", *PURE, *(f"tests/billing/{t}" for t in TESTS)],
        [forks],
    )
    return forks.tried


class Forks:
    """A plugin that, in place of running the tests, runs those of each mutant in a fork."""

    def __init__(self, names: list[str], reach: dict[str, list[str]], until: float) -> None:
        self.names, self.reach, self.until = names, reach, until
        self.tried: dict[str, str] = {}

    def pytest_runtestloop(self, session: Any) -> bool:
        for name in self.names:
            if time.monotonic() > self.until:
                break
            wanted = set(self.reach.get(name.rpartition("__mutmut_")[0], ()))
            items = [item for item in session.items if item.nodeid in wanted]
            self.tried[name] = self._fork(name, items, session) if items else "no tests"
        return True

    def _fork(self, name: str, items: list[Any], session: Any) -> str:
        child = os.fork()
        if child == 0:
            os.environ["MUTANT_UNDER_TEST"] = name
            signal.alarm(MOST_S)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            for item in items:
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
                if session.testsfailed:
                    os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            return "timeout" if os.WTERMSIG(status) == signal.SIGALRM else "killed"
        return "killed" if os.WEXITSTATUS(status) else "survived"


def told(folder: Path, tried: dict[str, str], made: int) -> str:
    counts = Counter(tried.values())
    killed = counts["killed"] + counts["timeout"]
    modules: dict[str, Counter[str]] = {}
    for name, state in tried.items():
        module = name.split(".x", 1)[0].removeprefix("meuse.billing.")
        modules.setdefault(module, Counter())[state] += 1
    rows = [
        f"| {module} | {found.total()} | {found['killed'] + found['timeout']} |"
        for module, found in sorted(modules.items())
    ]
    living = sorted(name for name, state in tried.items() if state not in ("killed", "timeout"))
    shown = [
        f"### {name}: {tried[name]}\n\n```diff\n{output(folder, 'show', name).strip()}\n```\n"
        for name in living
    ]
    whole = "" if len(tried) == made else f", a sample of {made} drawn by a fixed seed"
    by_state = ", ".join(f"{n} {state}" for state, n in counts.most_common())
    today = datetime.datetime.now(datetime.UTC)
    return "\n".join(
        [
            f"# Mutation testing of rating and the ledger, {today:%Y-%m-%d}",
            "",
            f"{killed} of {len(tried)} mutants{whole} are killed: "
            f"{killed / max(len(tried), 1):.1%} ({by_state}).",
            "`tools/mutate.py`: mutants by mutmut, the pure tests of tests/billing.",
            "",
            "| module | tried | killed |",
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
