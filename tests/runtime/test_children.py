"""runtime.children"""

import os
from pathlib import Path

from meuse.runtime.children import spawn


def test_what_users_wrote_is_passed_on_as_it_is(tmp_path: Path) -> None:
    said = ["{slot}", "{system}", '{"a": 1}', "{", "{0}"]
    child = spawn("echo-1", ["/bin/echo", *said], 1, tmp_path, (), {"slot": 7})
    try:
        child.process.wait(10)
    finally:
        child.close()
    assert (tmp_path / "echo.log").read_text() == '7 {system} {"a": 1} { {0}\n'


def test_a_command_that_is_not_there_leaves_nothing_open(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    try:
        spawn("gone-1", [str(tmp_path / "no"), "{ready}"], 1, tmp_path, (), {})
    except FileNotFoundError:
        pass
    else:
        raise AssertionError("a program that is not there was started")
    assert os.listdir("/proc/self/fd") == before
