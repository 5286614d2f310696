"""How a batch stands, as OpenAI names it, by how its job stands."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from meuse.api.openai_batches import describe
from meuse.core.nouns import Batch, Job, Scope
from meuse.core.states import JobStatus

BATCH = Batch(
    "batch_1", Scope("acme"), "key", "job-1", "file-1", "/v1/embeddings", None, 1_000, 9_000
)
JOB = Job(
    id="job-1", scope=Scope("acme"), kind="batch", spec={}, status=JobStatus.QUEUED, progress=0.0,
    attempt=1, metrics={}, result=None, error=None, cancel_requested=False, created_ms=1,
    updated_ms=7_000,
)  # fmt: skip
FIGURES = {"total": 9.0, "completed": 4.0, "failed": 1.0, "in_progress_ms": 2_500.0}
OUTCOME: dict[str, Any] = {
    "status": "completed", "errors": [], "counts": {"total": 9, "completed": 9, "failed": 0},
    "output": "file-2", "error": None, "used": [5, 1, 2], "in_progress_ms": 2_500,
    "finalizing_ms": 3_500, "at_ms": 4_500,
}  # fmt: skip


@pytest.mark.parametrize(
    ("job", "status"),
    [
        ({}, "validating"),
        ({"status": JobStatus.RUNNING}, "validating"),
        ({"status": JobStatus.RUNNING, "metrics": FIGURES}, "in_progress"),
        # A process that was started again reads the file again; what was begun stays begun.
        (
            {"status": JobStatus.RUNNING, "metrics": FIGURES, "live": {"note": "validating"}},
            "in_progress",
        ),
        ({"status": JobStatus.PAUSED, "metrics": FIGURES}, "in_progress"),
        (
            {"status": JobStatus.RUNNING, "metrics": FIGURES, "live": {"note": "finalizing"}},
            "finalizing",
        ),
        ({"status": JobStatus.CANCELLED, "metrics": FIGURES}, "cancelled"),
        ({"status": JobStatus.FAILED, "error": {"code": "internal", "message": "m"}}, "failed"),
    ],
)
def test_a_batch_stands_as_its_job_does(job: dict[str, Any], status: str) -> None:
    told = describe(BATCH, replace(JOB, **job))
    assert told["status"] == status
    began = "metrics" in job
    assert told["request_counts"]["completed"] == (4 if began else 0)
    assert told["in_progress_at"] == (2 if began else None)
    ended = told.get(f"{status}_at") if status in ("cancelled", "failed") else None
    assert ended == (7 if status in ("cancelled", "failed") else None)
    assert bool(told["errors"]) == (status == "failed")


def test_what_the_job_came_to_counts_once_it_has_ended() -> None:
    """Not before, nor while another attempt is on its way; one that nobody began has failed."""
    batch = replace(BATCH, outcome=OUTCOME)
    running = replace(JOB, status=JobStatus.RUNNING, metrics=FIGURES)
    assert describe(batch, running)["status"] == "in_progress"
    told = describe(batch, replace(JOB, status=JobStatus.SUCCEEDED))
    assert (told["status"], told["output_file_id"], told["completed_at"]) == (
        "completed", "file-2", 4,
    )  # fmt: skip
    assert (told["usage"]["total_tokens"], told["failed_at"]) == (7, None)
    asked = replace(BATCH, cancelling_ms=6_000)
    assert describe(asked, running)["status"] == "cancelling"
    assert describe(asked, running)["cancelling_at"] == 6
    assert describe(BATCH, None)["status"] == "failed"
