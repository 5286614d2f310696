"""What all tests share: a real Postgres, and a test's own database on either kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from meuse.runtime import sigstack
from postgres import PostgresMissingError, temporary_postgres

# Before torch is loaded: several tests share the cores, and threads that wait must not spin.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A busy machine is no fault of a property.
settings.register_profile("meuse", deadline=None)
settings.load_profile("meuse")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Callable[[], str]]:
    """A function that makes an empty Postgres database and returns its URL."""
    try:
        with temporary_postgres() as new_database:
            yield new_database
    except PostgresMissingError as reason:
        pytest.skip(str(reason))


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: a SQLite file, then a Postgres database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    new_database: Callable[[], str] = request.getfixturevalue("postgres_server")
    return new_database()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole platforms on a busy machine of two cores may take their time."""
    here = Path(__file__).parent
    for item in items:
        whole = item.path.relative_to(here).parts[0] in ("e2e", "faults")
        if whole and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(900))


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """One process speaks to the terminal, the others to it."""
    terminal = config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        config.pluginmanager.register(TellAtOnce(terminal))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Before its time runs: an engine of the test before may have freed the stack of signals."""
    sigstack.take_back()


class TellAtOnce:
    """Writes why a test failed as soon as it is known: a run that is ended early, by a machine's
    limit of time, has told what it found."""

    def __init__(self, terminal: pytest.TerminalReporter) -> None:
        self._terminal = terminal

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._terminal.write_line("")
            self._terminal.write_line(f"{report.nodeid}: {report.when} failed")
            self._terminal.write_line(report.longreprtext[-4_000:])
            for name, text in report.sections:
                self._terminal.write_line(f"{name}: {text[-2_000:]}")
