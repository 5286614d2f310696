"""The readable report of the training benchmark, from made-up figures."""

from __future__ import annotations

from typing import Any

import training_tables


def test_the_page_says_how_settings_were_chosen() -> None:
    """The mean of the seeds, each of them, and the settings; absent data has no such part."""
    tried: dict[str, Any] = {
        "name": "mlp",
        "config": {"hidden": [300, 100]},
        "options": {"epochs": 20},
        "validation": {"0": 0.9, "1": 0.88},
        "cpu_seconds": 61.4,
    }
    figures: dict[str, Any] = {
        "seconds": 60.0,
        "load_before": 0.2,
        "holds": [],
        "choice": [tried],
        "fashion": "skipped: absent",
    }
    body = {
        **{"date": "2026-11-24", "commit": "abc", "figures": figures},
        "machine": {"processor": "x", "cores": 2, "python": "3.11"},
    }
    page = training_tables.page(body)
    row = '| mlp | 0.8900 | 0.9000, 0.8800 | 61 | `{"hidden": [300, 100], "epochs": 20}` |'
    assert row in page
    figures["choice"] = []
    assert "chosen" not in training_tables.page(body)
