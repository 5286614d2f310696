"""What `meuse data` does: bring a file or a URL, with a bar; find a version; tell of a profile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meuse.client.client import Client

JSON = dict[str, Any]
PARTS_ABOVE = 1 << 20
"""Larger files go in parts."""


def is_url(text: str) -> bool:
    return text.startswith(("https://", "http://"))


def name_of(what: str) -> str:
    """A dataset's name after a file or a URL: data/Sales 2024.csv.gz → sales-2024."""
    plain = what.partition("?")[0].rstrip("/").rpartition("/")[2]
    stem = plain.split(".")[0] if not plain.startswith(".") else plain.strip(".")
    return re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")[:63] or "data"


def find(client: Client, what: str) -> JSON:
    """The version that `name` or `name:3` names."""
    from meuse.core.references import parse_data

    reference = parse_data(what, "data")
    return client.dataset(reference.name, reference.version)


def bring(
    client: Client, what: str, name: str | None, format: str | None, reading: JSON, wait: bool
) -> JSON:
    """The dataset version; without `wait`, for what is read by a job, the answer 202."""
    name = name or name_of(what)
    if is_url(what):
        more = {**reading, **({"format": format} if format else {})}
        answer = client.fetch_data(name, what, **more)
    elif Path(what).stat().st_size <= PARTS_ABOVE:
        return client.upload(name, Path(what), format=format, **reading)
    else:
        answer = _in_parts(client, name, Path(what), format, reading)
    return _waited(client, answer) if wait and "version" not in answer else answer


def _in_parts(client: Client, name: str, path: Path, format: str | None, reading: JSON) -> JSON:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task(f"upload {path.name}", total=None)
        return client.upload_parts(
            name,
            path,
            format=format,
            progress=lambda done, total: bar.update(line, completed=done, total=total),
            **reading,
        )


def _waited(client: Client, answer: JSON) -> JSON:
    """The version that the job has made."""
    from rich.console import Console

    from meuse.client.follow import Bar

    with Bar(client.job(answer["id"]), Console(stderr=True)) as bar:
        done = client.wait(answer["id"], bar.show)
    return client.dataset(done["result"]["name"], done["result"]["version"])


def told(version: JSON) -> str:
    """One line of a version, and its warnings."""
    first = f"{version['ref']}: {version['rows']:,} rows, {len(version['columns'])} columns"
    return "\n  ".join([first, *version["warnings"]])


def lines(profile: JSON) -> list[JSON]:
    """A profile's columns as rows of a table."""
    return [
        {
            "column": column["name"],
            "kind": column["kind"],
            "missing": f"{column['missing_share']:.1%}" if column["missing"] else "-",
            "distinct": f"{'' if column['distinct_exact'] else '~'}{column['distinct']:,}",
            "figures": _figures(column),
        }
        for column in profile["columns"]
    ]


def _figures(column: JSON) -> str:
    if "min" in column:
        middle = (column.get("quantiles") or {}).get("0.5")
        told = f"{column['min']:.6g} … {column['max']:.6g}"
        mean = column["mean"]
        return f"{told}, mean {_short(mean)}, median {_short(middle)}"
    if "length" in column:
        common = ", ".join(
            f"{entry['value'][:20]} {entry['share']:.0%}"
            for entry in column.get("top", ())[:3]
            if entry["count"] > 1
        )
        length = column["length"]
        return common or f"{length['min']:,} … {length['max']:,} characters"
    if "image" in column and "looked_at" not in column["image"]:
        image = column["image"]
        return f"{image['height']} × {image['width']} × {image['channels']}"
    if "image" in column:
        height, width = column["image"]["height"], column["image"]["width"]
        return f"{height['min']} … {height['max']} high, {width['min']} … {width['max']} wide"
    return ""


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
