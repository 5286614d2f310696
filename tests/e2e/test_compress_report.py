"""Reports of compressions, the methods, and a search for steps, through the public API."""

from __future__ import annotations

import httpx
import pytest

from e2e.conftest import Digits
from e2e.helpers import JSON, ended, get, refused, start, succeeded, upload

WAIT_S = 300.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATH = "/api/models/c5r-digits/versions"


@pytest.fixture(scope="module")
def base(admin: httpx.Client, digits: Digits) -> JSON:
    upload(admin, "c5r-digits", digits.csv)
    job = start(admin, "train", model_name="c5r-digits", data="c5r-digits", epochs=8)
    return succeeded(admin, job, WAIT_S)


@pytest.fixture(scope="module")
def searched(admin: httpx.Client, base: JSON) -> JSON:
    """A search with the least budget; every version that it made."""
    job = start(
        admin, "compress", model=base["model"], steps="auto", goal={"max_drop": 0.05},
        auto={"trials": 1, "keep": 2},
    )  # fmt: skip
    return succeeded(admin, job, WAIT_S)


def test_every_method_is_published(admin: httpx.Client) -> None:
    """Each with its paper and the schema of its options; an unknown one is not found."""
    items = get(admin, "/api/methods")["items"]
    assert "quantize" in {item["name"] for item in items}
    for item in items:
        assert {"name", "summary", "paper", "stage", "lossless", "config"} == set(item)
        assert item["paper"] or item["name"] == "convert"
        assert get(admin, f"/api/methods/{item['name']}") == item
    refused(admin.get("/api/methods/shrink"), 404, "not_found", "method")


def test_a_search_registers_the_front_and_recommends_one(
    admin: httpx.Client, searched: JSON
) -> None:
    """Every version is a child with the search in its report, the smallest is recommended."""
    versions = searched["versions"]
    assert versions[0]["model"] == searched["model"]
    assert [v["recommended"] for v in versions] == [True] + [False] * (len(versions) - 1)
    sizes = []
    for made in versions:
        number = made["model"].partition(":")[2]
        version = get(admin, f"{PATH}/{number}")
        report = get(admin, f"{PATH}/{number}/report")
        assert version["lineage"]["parent"] == "c5r-digits:1"
        assert report == version["report"]
        assert len(report["auto"]["trials"]) == 1
        assert sum(trial["recommended"] for trial in report["auto"]["trials"]) == 1
        assert report["after"]["bytes"] == version["artifacts"][0]["bytes"]
        assert report["drop"] <= 0.05
        assert len(get(admin, f"{PATH}/{number}/evaluations")["items"]) == 1
        sizes.append(report["after"]["bytes"])
    assert sizes == sorted(sizes)


def test_a_report_is_json_a_page_and_plots(admin: httpx.Client, searched: JSON) -> None:
    """By Accept and by name; the page and the plots bring a policy that forbids scripts."""
    path = f"{PATH}/{searched['model'].partition(':')[2]}/report"
    by_accept = admin.get(path, headers={"accept": "text/html"})
    by_name = admin.get(f"{path}.html")
    assert by_accept.status_code == by_name.status_code == 200
    assert by_accept.text == by_name.text
    assert by_name.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in by_name.headers["content-security-policy"]
    assert "<h2>Figures</h2>" in by_name.text
    assert "<script" not in by_name.text
    assert "<h2>Sensitivity</h2>" in by_name.text
    for plot in ("pareto", "latency", "sensitivity"):
        drawn = admin.get(f"{path}/{plot}.svg")
        assert drawn.headers["content-type"] == "image/svg+xml"
        assert drawn.text.startswith("<svg")
    assert admin.get(f"{path}/pie.svg").status_code == 400


def test_what_was_not_compressed_has_no_report(admin: httpx.Client, base: JSON) -> None:
    """A trained version has none, and a job that trains neither."""
    refused(admin.get(f"{PATH}/1/report"), 404, "not_found", "report")
    job = get(admin, f"{PATH}/1")["lineage"]["job"]
    refused(admin.get(f"/api/jobs/{job}/report.html"), 404, "not_found", "report")


@pytest.mark.slow
def test_a_search_that_nothing_meets_leaves_a_report(admin: httpx.Client, base: JSON) -> None:
    """No candidate is small enough: the job fails with the trials in its report, and no version
    is made."""
    before = get(admin, "/api/models/c5r-digits")
    spec = {"model": base["model"], "steps": "auto", "auto": {"trials": 1}}
    job = ended(admin, start(admin, "compress", goal={"max_bytes": 100}, **spec), WAIT_S)
    assert (job["status"], job["error"]["code"]) == ("failed", "gate_refused")
    assert job["error"]["field"] == "goal.max_bytes"
    report = get(admin, f"/api/jobs/{job['id']}/report")
    assert report["auto"]["trials"][0]["bytes"] > 100
    page = admin.get(f"/api/jobs/{job['id']}/report.html").text
    assert "Refused" in page
    assert "<h2>Search</h2>" in page
    assert get(admin, "/api/models/c5r-digits") == before


def test_another_tenant_sees_no_report(stranger: httpx.Client, searched: JSON) -> None:
    """Of versions and of jobs."""
    refused(stranger.get(f"{PATH}/2/report"), 404, "not_found", "model")
