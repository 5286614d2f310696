"""Several versions that were judged on the same rows: what their job tells. Knows records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from meuse.evaluate.judge import Judged, differences, with_differences
from meuse.evaluate.record import Rows


def side_by_side(judged: Mapping[str, Judged], rows: Rows) -> dict[str, Any]:
    """Each version's record with its differences from every other, and the summary."""
    evaluations = {}
    for ref, one in judged.items():
        found = [
            difference
            for than, other in judged.items()
            if than != ref
            for difference in differences(one, than, other)
        ]
        evaluations[ref] = with_differences(one.evaluation, found).to_dict()
    first = next(iter(judged))
    models = [
        {
            "model": ref,
            "figures": body["figures"],
            "intervals": body["intervals"],
            "rows_per_s": body["rows_per_s"],
            "differences": {
                d["figure"]: {k: d[k] for k in ("difference", "interval")}
                for d in body["differences"]
                if d["than"] == first
            },
        }
        for ref, body in evaluations.items()
    ]
    return {
        "data": rows.dataset,
        "split": rows.split,
        "target": rows.target,
        "rows": rows.rows,
        "models": models,
        "differences_from": first,
        "evaluations": evaluations,
    }
