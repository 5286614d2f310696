"""Cross-validation and search through the public API, on real tables."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from e2e.helpers import JSON, csv_bytes, ended, get, refused, start, succeeded, upload

pytestmark = pytest.mark.slow

SPACE: JSON = {
    "learning_rate": {"low": 0.0005, "high": 0.1, "log": True},
    "config.hidden": {"choices": [[16], [32, 16]]},
}


@pytest.fixture(scope="module")
def wine(admin: httpx.Client) -> JSON:
    """178 wines of three growers."""
    from sklearn.datasets import load_wine

    found = load_wine()
    header = [*(name.replace("/", "_") for name in found.feature_names), "grower"]
    rows = [[*x, f"g{y}"] for x, y in zip(found.data.tolist(), found.target, strict=True)]
    return upload(admin, "cv4-wine", csv_bytes(header, rows))


def story(client: httpx.Client, job_id: str) -> str:
    return client.get(f"/api/jobs/{job_id}/events").text


def test_a_cross_validated_model_says_how_it_varies(admin: httpx.Client, wine: JSON) -> None:
    """Five folds: each judged on rows of its own; mean and deviation stand in the version."""
    spec: dict[str, Any] = {"data": "cv4-wine", "epochs": 15, "recipe": "linear"}
    plain = start(admin, "train", model_name="cv4-plain", **spec)
    folded = start(admin, "train", model_name="cv4-folds", cv=5, **spec)
    without, result = succeeded(admin, plain), succeeded(admin, folded)
    version = get(admin, "/api/models/cv4-folds/versions/1")
    report = version["report"]["cv"]
    assert report["by"] == "strata"
    assert [fold["fold"] for fold in report["folds"]] == [1, 2, 3, 4, 5]
    held = sum(fold["rows"]["held_out"] for fold in report["folds"])
    assert 0.8 * 178 < held < 0.9 * 178
    accuracies = [fold["figures"]["accuracy"] for fold in report["folds"]]
    metrics = result["metrics"]
    assert metrics["cv_accuracy"] == pytest.approx(sum(accuracies) / 5)
    assert metrics["cv_accuracy"] > 0.9
    assert 0 < metrics["cv_accuracy_deviation"] < 0.1
    # The model is that of a training without folds.
    other = get(admin, f"/api/models/cv4-plain/versions/{without['model'][-1]}")
    assert version["artifacts"] == other["artifacts"]
    assert metrics["test_accuracy"] == without["metrics"]["test_accuracy"]
    assert "fold 5/5" in story(admin, folded)


def test_a_search_registers_the_best(admin: httpx.Client, wine: JSON) -> None:
    """Every trial is recorded; the best of the last rung is a version with its figures."""
    spec: JSON = {
        "model_name": "cv4-halving", "data": "cv4-wine", "space": SPACE, "trials": 6,
        "method": "successive_halving", "parallel": 2, "metric": "log_loss",
        "base": {"epochs": 9},
    }  # fmt: skip
    job = start(admin, "search", **spec)
    result = succeeded(admin, job, 110)
    report = result["report"]["search"]
    runs = report["runs"]
    assert [(run["rung"], run["epochs"]) for run in runs] == [(0, 3)] * 6 + [(1, 9)] * 2
    firsts = sorted(runs[:6], key=lambda run: run["score"])
    assert [run["trial"] for run in runs[6:]] == [run["trial"] for run in firsts[:2]]
    assert report["counts"] == {"succeeded": 8, "diverged": 0, "failed": 0}
    best = min(run["score"] for run in runs[6:])
    assert report["best"]["score"] == best
    assert result["metrics"]["validation_log_loss"] == pytest.approx(best, rel=1e-6)
    assert result["metrics"]["test_accuracy"] > 0.7
    version = get(admin, "/api/models/cv4-halving/versions/1")
    assert version["lineage"]["job"] == job
    assert version["lineage"]["dataset"] == wine["ref"]
    assert "so far" in story(admin, job)


def test_trials_that_diverge_do_not_end_a_search(admin: httpx.Client) -> None:
    """A rate far too high is recorded as such; the search goes on to a good one."""
    from sklearn.datasets import load_diabetes

    found = load_diabetes(scaled=False)
    rows = [[*x, y] for x, y in zip(found.data.tolist(), found.target, strict=True)]
    upload(admin, "cv4-diabetes", csv_bytes([*found.feature_names, "progression"], rows))
    spec: JSON = {
        "model_name": "cv4-diverged", "data": "cv4-diabetes", "task": "regression",
        "recipe": "linear", "method": "halton", "trials": 4,
        "space": {"learning_rate": {"choices": [0.001, 900.0]}},
        "base": {"optimizer": "sgd", "epochs": 3},
    }  # fmt: skip
    report = succeeded(admin, start(admin, "search", **spec), 60)["report"]["search"]
    assert report["counts"]["diverged"] == report["counts"]["succeeded"] == 2
    assert report["best"]["parameters"] == {"learning_rate": 0.001}
    spoiled = [run for run in report["runs"] if run["status"] == "diverged"]
    assert all(run["error"]["field"] == "learning_rate" for run in spoiled)
    none = ended(
        admin,
        start(
            admin,
            "search",
            **spec | {"space": {"learning_rate": {"choices": [900.0]}}, "trials": 1},
        ),
    )
    assert none["status"] == "failed"
    assert "none of 1 trials succeeded" in none["error"]["message"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"space": {}}, "space"),
        ({"space": {"learning_rate": {"low": -1, "high": 1}}}, "space.learning_rate.low"),
        ({"space": {"config.hiden": {"choices": [[8]]}}}, "space.config.hiden.choices[0]"),
        ({"space": {"model_name": {"choices": ["a"]}}}, "space.model_name"),
        ({"trials": 501}, "trials"),
        ({"method": "grid"}, "method"),
        ({"base": {"optimizer": "sdg"}}, "base.optimizer"),
        ({"base": {"split": {"by": "time", "column": "when"}}}, "base.split.column"),
        ({"base": {"deploy": True}}, "base.deploy"),
        ({"target": "nothing"}, "target"),
    ],
)
def test_bad_searches_name_the_field(
    admin: httpx.Client, wine: JSON, change: JSON, field: str
) -> None:
    """Nothing starts; the answer says where the mistake is."""
    spec = {"model_name": "cv4-bad", "data": "cv4-wine", "space": SPACE, **change}
    response = admin.post("/api/jobs", json={"kind": "search", "spec": spec})
    refused(response, 400, "invalid_field", field)
