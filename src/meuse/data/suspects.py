"""What a profile's reader should look at: rules over its figures, without the data.

Each warning has a `kind`, the column (or None), and a sentence. Standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

ROWS_ENOUGH = 20
NEARLY_UNIQUE = 0.95
MOSTLY = 0.95
_ID_NAME = re.compile(
    r"(^|[_\-. ])(id|uuid|guid|key|number|nr|no)$|^(id|uuid|guid)([_\-. ]|$)", re.I
)
_CAMEL_ID = re.compile(r"[a-z0-9](Id|ID|Uuid|UUID|Key)$")
_TIME_NAME = re.compile(r"date|time|timestamp|_at$|^ts$|epoch", re.I)
_SECONDS = (10**8, 10**10)
_MILLIS = (10**11, 10**13)
LEAKS = 0.98
IMBALANCED = 20.0
Warning_ = dict[str, Any]


def suspects(profile: dict[str, Any]) -> list[Warning_]:
    """All warnings, the gravest kinds first."""
    return [*_target(profile), *_rows(profile), *_columns(profile)]


def _one(kind: str, column: str | None, message: str) -> Warning_:
    return {"kind": kind, "column": column, "message": message}


def _target(profile: dict[str, Any]) -> Iterator[Warning_]:
    target = profile["target"]
    if target is None:
        return
    what = "classes" if target["task"] == "classification" else "values"
    for feature in target["predicted_by"]:
        if feature["score"] >= LEAKS:
            yield _one(
                "leakage", feature["name"],
                f"alone it predicts the {what} of {target['name']!r} almost perfectly "
                f"(score {feature['score']:.3f}): is it known before the target is?",
            )  # fmt: skip
    if target.get("imbalance", 0) >= IMBALANCED:
        yield _one(
            "imbalance", target["name"],
            f"the most frequent class has {target['imbalance']:.0f} times the rows of the rarest",
        )  # fmt: skip
    for column in profile["columns"]:
        if column["name"] == target["name"] and column["missing"]:
            yield _one("target", column["name"], f"{column['missing']:,} rows have no target")


def _rows(profile: dict[str, Any]) -> Iterator[Warning_]:
    found = profile["duplicates"]
    if found["rows"]:
        about = "" if found["exact"] else "about "
        yield _one(
            "duplicates", None,
            f"{about}{found['rows']:,} rows ({found['share']:.1%}) are equal to one before them",
        )  # fmt: skip
    for pair in (profile["split"] or {}).get("shared", ()):
        if pair["rows"]:
            yield _one(
                "shared_rows", None,
                f"{pair['rows']:,} rows of {pair['second']} ({pair['share']:.1%}) have the "
                f"features of a row of {pair['first']}: figures on them flatter",
            )  # fmt: skip


def _columns(profile: dict[str, Any]) -> Iterator[Warning_]:
    rows, target = profile["rows"], (profile["target"] or {}).get("name")
    for column in profile["columns"]:
        name, present = column["name"], rows - column["missing"]
        if not present:
            yield _one("empty", name, "it has no value")
            continue
        if column["distinct"] <= 1 and rows > 1:
            also = " where it has one" if column["missing"] else ""
            yield _one("constant", name, f"it has the same value in every row{also}")
        elif column["missing_share"] > 0.5:
            yield _one("missing", name, f"{column['missing_share']:.0%} of its values are missing")
        date = _date(column)
        if date:
            yield _one("date", name, date)
        elif name != target and present >= ROWS_ENOUGH:
            reason = _identifier(column, present)
            if reason:
                yield _one("identifier", name, f"{reason}: it tells a model nothing of new rows")


def _date(column: dict[str, Any]) -> str | None:
    if column["kind"] == "string" and column.get("date_share", 0) >= MOSTLY:
        return "its texts look like dates or times"
    if column["kind"] != "integer" or not _TIME_NAME.search(column["name"]):
        return None
    low, high = column["min"], column["max"]
    for (least, most), unit in ((_SECONDS, "seconds"), (_MILLIS, "milliseconds")):
        if least <= low and high < most:
            return f"its numbers look like {unit} since 1970"
    return None


def _identifier(column: dict[str, Any], present: int) -> str | None:
    """Why it may be one; None when it does not look so."""
    unique = column["distinct"] / present
    named = bool(_ID_NAME.search(column["name"]) or _CAMEL_ID.search(column["name"]))
    if column["kind"] == "string":
        if (
            unique >= NEARLY_UNIQUE
            and column["words"]["mean"] <= 2
            and column["length"]["mean"] < 65
        ):
            return "nearly every row has a text of its own"
    elif column["kind"] == "integer" and unique >= NEARLY_UNIQUE:
        if column["ascending"]:
            return "its numbers rise from row to row"
        if named or (column["max"] - column["min"]) < 1.1 * present:
            return "nearly every row has a number of its own"
    if named and unique > 0.5 and column["kind"] in ("integer", "string"):
        return "its name says so, and its values hardly repeat"
    return None
