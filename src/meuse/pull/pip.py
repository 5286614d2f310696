"""Which package index pip is configured to use on this machine. Standard library only."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT = "https://pypi.org/simple"
CONFIG_S = 60.0
_NAMES = ("index-url", "extra-index-url", "cert", "no-index")
_SECTIONS = ("download", "install", "global")
"""Of the settings of the same name the first counts."""


@dataclass(frozen=True, slots=True)
class Indexes:
    """`urls` in the order of asking; `cert` is a file of certificates that is trusted instead
    of the system's."""

    urls: tuple[str, ...]
    cert: str | None = None


def configured() -> Indexes:
    """As `pip config list` tells, or where there is no pip, as the environment does."""
    told = _listed()
    if told is None:
        told = {}
        for name in _NAMES:
            value = os.environ.get(f"PIP_{name.upper().replace('-', '_')}")
            if value is not None:
                told[f":env:.{name}"] = value
    return chosen(told)


def chosen(told: Mapping[str, str]) -> Indexes:
    """From settings by their full names, `global.index-url` or `:env:.index-url`."""
    found: dict[str, str] = {}
    for name in _NAMES:
        for section in (":env:", *_SECTIONS):
            value = told.get(f"{section}.{name}")
            if value is not None:
                found[name] = value
                break
    if found.get("no-index", "0").lower() in ("1", "true", "yes", "on"):
        return Indexes(())
    urls = [found.get("index-url") or DEFAULT, *found.get("extra-index-url", "").split()]
    return Indexes(tuple(dict.fromkeys(urls)), found.get("cert") or None)


def _listed() -> dict[str, str] | None:
    """What pip says; None when there is none."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CONFIG_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    told: dict[str, str] = {}
    for line in done.stdout.splitlines():
        name, sign, value = line.partition("=")
        if sign:
            try:
                told[name.strip()] = str(ast.literal_eval(value))
            except (ValueError, SyntaxError):
                continue  # of a setting whose value has several lines
    return told
