"""Dated reports: figures, and the machine and commit that they were measured on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPORTS = Path(__file__).parent / "reports"


def write(
    name: str,
    figures: dict[str, Any],
    page: Callable[[dict[str, Any]], str] | None = None,
    folder: Path = REPORTS,
    plots: Callable[[dict[str, Any]], Mapping[str, str]] | None = None,
) -> Path:
    """Write <date>-<name>.json, and what `page` makes of it as .md beside it, and the files that
    `plots` makes, by name.

    The same day's report is replaced.
    """
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    body = {
        "benchmark": name,
        "date": day,
        "commit": commit.stdout.strip() or None,
        "machine": {
            "cores": os.cpu_count(),
            "processor": _processor(),
            "python": platform.python_version(),
        },
        "figures": figures,
    }
    folder.mkdir(exist_ok=True)
    path = folder / f"{day}-{name}.json"
    path.write_text(json.dumps(body, indent=1) + "\n")
    if page is not None:
        path.with_suffix(".md").write_text(page(body))
    for file, content in (plots(body) if plots else {}).items():
        (folder / file).write_text(content)
    return path


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
