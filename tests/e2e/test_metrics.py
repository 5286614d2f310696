"""Metrics of the real platform, as an operator and as a tenant scrape them."""

from __future__ import annotations

import json

import httpx
from prometheus_client.parser import text_string_to_metric_families

from e2e.conftest import Digits, Platform
from e2e.helpers import JSON, until

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(client: httpx.Client) -> Samples:
    answer = client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples.get((name, frozenset(labels.items())), 0.0)


def test_metrics_count_what_was_asked(
    platform: Platform, admin: httpx.Client, private: JSON, digits: Digits
) -> None:
    """Over all workers and connections, for the operator and for the owner alike."""
    version = private["serving"][0]["model"]
    full = {"deployment": "default/private", "version": version}
    before = scrape(admin)
    body = {"model": "private", "input_data": digits.rows[:2]}
    for _ in range(12):  # a connection each: workers share them out
        with httpx.Client(base_url=platform.url, headers=admin.headers, trust_env=False) as client:
            assert client.post("/predict", json=body).status_code == 200
    wrong = {"model": "private", "input_data": [[1]]}
    assert admin.post("/predict", json=wrong).status_code == 400

    def grown() -> Samples | None:
        after = scrape(admin)
        asked = [
            of(series, "meuse_requests_total", code="ok", **full) for series in (before, after)
        ]
        refused = [
            of(series, "meuse_rejected_total", deployment="default/private", reason="invalid_input")
            for series in (before, after)
        ]
        return after if (asked[1] - asked[0], refused[1] - refused[0]) == (12, 1) else None

    after = until(grown, "everything is counted", 20.0)
    for name, count in (("meuse_rows_total", 24), ("meuse_request_duration_seconds_count", 12)):
        assert of(after, name, **full) - of(before, name, **full) == count
    assert of(after, "meuse_replicas", **full) >= 1
    for worker in ("0", "1"):
        assert of(after, "meuse_control_connected", worker=worker) == 1
        assert of(after, "meuse_worker_resident_bytes", worker=worker) > 10e6
    owner = scrape(platform.client(platform.key("usage")))
    mine = {"deployment": "private", "version": version, "code": "ok"}
    assert of(owner, "meuse_requests_total", **mine) == of(
        after, "meuse_requests_total", code="ok", **full
    )
    assert "meuse_unrouted_total" not in {name for name, _ in owner}


def test_requests_are_logged_where_asked(
    platform: Platform, admin: httpx.Client, private: JSON, digits: Digits
) -> None:
    """With `log_requests` each has one line in the log of the workers."""
    body = {"model": "private", "input_data": digits.rows[:3]}
    name = "logged-once"
    assert admin.post("/predict", json=body, headers={"x-request-id": name}).status_code == 200

    def lines() -> list[JSON]:
        texts = [log.read_text() for log in (platform.home / "logs").glob("worker*.log")]
        return [json.loads(line) for text in texts for line in text.splitlines() if name in line]

    (line,) = until(lines, "it is logged", 10.0)
    assert (line["deployment"], line["status"], line["rows"]) == ("default/private", 200, 3)
