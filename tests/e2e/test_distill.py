"""Distillation through the API: who may teach, what a student may be, rows without labels.

The student is hardly trained, and alpha is 1: whatever it knows afterwards its teachers told it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import onnx
import pytest

from e2e.conftest import Digits
from e2e.helpers import JSON, csv_bytes, get, refused, start, succeeded, upload
from serve import models

WAIT_S = 300.0
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PIXELS = [f"p{i}" for i in range(64)]
TOLD = {"method": "distill", "alpha": 1.0, "epochs": 6, "learning_rate": 0.005}


@pytest.fixture(scope="module")
def pupil(admin: httpx.Client, dataset: JSON) -> JSON:
    """A small network after one pass with next to no steps: worse than any teacher."""
    job = start(
        admin, "train", model_name="d5-pupil", data="digits", epochs=1, learning_rate=0.0003,
        config={"hidden": [32], "dropout": 0.0},
    )  # fmt: skip
    made = succeeded(admin, job, WAIT_S)
    assert made["metrics"]["test_accuracy"] < 0.7
    return made


@pytest.fixture(scope="module")
def unlabelled(admin: httpx.Client, digits: Digits) -> JSON:
    """The digits' pixels in another order of columns, without the digits."""
    rows = [list(map(int, reversed(row))) for row in digits.rows[:600]]
    return upload(admin, "d5-rows", csv_bytes(list(reversed(PIXELS)), rows))


def distil(admin: httpx.Client, model: JSON, **step: Any) -> JSON:
    """The job that has taught a version, ended well."""
    spec = {"model": model["model"], "goal": {"max_drop": 0.05}, "steps": [{**TOLD, **step}]}
    job_id = start(admin, "compress", **spec)
    succeeded(admin, job_id, WAIT_S)
    return get(admin, f"/api/jobs/{job_id}")


def log_of(admin: httpx.Client, job: JSON) -> str:
    """What the job has said."""
    answer = admin.get(f"/api/jobs/{job['id']}/events")
    assert answer.status_code == 200
    return answer.text


def accuracy(job: JSON) -> float:
    return float(job["result"]["metrics"]["test_accuracy"])


@pytest.fixture(scope="module")
def linear(admin: httpx.Client, pupil: JSON, trained: JSON) -> JSON:
    """The job of a linear student, taught by another model's version."""
    student = {"recipe": "linear"}
    return distil(
        admin, pupil, teacher="digits:1", student=student, learning_rate=0.02, epochs=15
    )  # fmt: skip


def test_another_version_teaches_another_recipe(
    admin: httpx.Client, pupil: JSON, linear: JSON
) -> None:
    """The student answers nearly as its teacher; its lineage is that of what was compressed, its
    job and its card name the teacher's version, and its file has the linear layer alone."""
    assert accuracy(linear) > 0.88
    assert linear["spec"]["steps"][0]["teacher"] == ["digits:1"]
    path = f"/api/models/d5-pupil/versions/{linear['result']['model'].partition(':')[2]}"
    version = get(admin, path)
    assert version["lineage"]["parent"] == pupil["model"]
    card = get(admin, f"{path}/card")
    assert card["training"]["steps"][0]["teacher"] == ["digits:1"]
    (layer,) = version["report"]["after"]["layers"]
    assert sorted(layer["shape"]) == [10, 64]


def test_what_a_student_became_is_compressed_further(admin: httpx.Client, linear: JSON) -> None:
    """By its own recipe, not by its parent's."""
    prune = {"method": "prune", "rate": 0.5, "rounds": 1, "epochs": 1}
    spec = {"model": linear["result"]["model"], "goal": {"max_drop": 0.1}, "steps": [prune]}
    child = succeeded(admin, start(admin, "compress", **spec), WAIT_S)
    (layer,) = child["report"]["after"]["layers"]
    assert layer["nonzeros"] == 320
    path = f"/api/models/d5-pupil/versions/{child['model'].partition(':')[2]}"
    file = admin.get(f"{path}/artifacts/model.onnx").content
    assert "Relu" not in {node.op_type for node in onnx.load_from_string(file).graph.node}


def test_an_ensemble_teaches(admin: httpx.Client, pupil: JSON, linear: JSON) -> None:
    """Two teachers of different recipes."""
    teachers = ["digits:1", linear["result"]["model"]]
    job = distil(admin, pupil, teacher=teachers)
    assert accuracy(job) > 0.85
    assert job["spec"]["steps"][0]["teacher"] == teachers


def test_a_deployment_teaches_by_rows_without_labels(
    admin: httpx.Client, pupil: JSON, private: JSON, unlabelled: JSON
) -> None:
    """What it served when the job was accepted is written down. A dataset that has no target, its
    columns in another order, is all that is learned from."""
    how = {"unlabelled": "d5-rows", "labelled": False, "epochs": 12}
    job = distil(admin, pupil, teacher="deployments/private", **how)
    assert accuracy(job) > 0.8
    (step,) = job["spec"]["steps"]
    assert step["teacher"] == [private["targets"][0]["model"]]
    assert step["unlabelled"] == "d5-rows:1"
    assert "600 rows to learn from, 0 of them with labels" in log_of(admin, job)


def refusal(client: httpx.Client, model: str, status: int, field: str, **step: Any) -> JSON:
    """The error of a job that is refused before it is queued."""
    steps = [{"method": "prune"}, {**TOLD, **step}]
    body = {"kind": "compress", "spec": {"model": model, "steps": steps}}
    code = "not_found" if status == 404 else "invalid_field"
    return refused(client.post("/api/jobs", json=body), status, code, f"steps.1.{field}")


@pytest.mark.parametrize(
    "teacher", ["digits:99", "nobody:1", "digits@nobody", "deployments/nobody"]
)
def test_a_teacher_that_is_not_there(admin: httpx.Client, pupil: JSON, teacher: str) -> None:
    """A version, an alias or a deployment: the step and the field are named."""
    error = refusal(admin, pupil["model"], 404, "teacher", teacher=teacher)
    assert teacher.removeprefix("deployments/") in error["message"]


def test_a_teacher_of_other_classes(admin: httpx.Client, pupil: JSON, trained: JSON) -> None:
    """What it lacks is told, of one that was uploaded; alone and within an ensemble."""
    labels = [f"c{i}" for i in range(10)]
    answer = admin.post(
        "/api/models/d5-strange/versions", content=models.classifier(),
        headers={"content-type": "application/onnx"}, params={"classes": labels},
    )  # fmt: skip
    assert answer.status_code == 201, answer.text
    for teacher in ("d5-strange:1", ["digits:1", "d5-strange:1"]):
        error = refusal(admin, pupil["model"], 400, "teacher", teacher=teacher)
        assert "it lacks 0, 1, 2, 3, 4, … and has 'c0', 'c1'" in error["message"]


def test_several_teachers_have_no_inside(admin: httpx.Client, pupil: JSON, trained: JSON) -> None:
    """Hidden states of an ensemble are refused at submission."""
    teachers = ["digits:1", pupil["model"]]
    error = refusal(admin, pupil["model"], 400, "teacher", teacher=teachers, hidden=1.0)
    assert "hidden states" in error["message"]


def test_another_tenants_teacher_is_not_there(
    admin: httpx.Client, stranger: httpx.Client, digits: Digits, private: JSON, unlabelled: JSON
) -> None:
    """Nor its deployments, nor its rows, whatever is named: as if they did not exist."""
    upload(stranger, "digits", digits.csv)
    job = start(stranger, "train", model_name="own", data="digits", epochs=1)
    own = succeeded(stranger, job, WAIT_S)["model"]
    for teacher in ("digits:1", "deployments/private"):
        refusal(stranger, own, 404, "teacher", teacher=teacher)
    refusal(stranger, own, 404, "unlabelled", unlabelled="d5-rows")
    assert not [m for m in get(stranger, "/api/models")["items"] if m["name"] == "digits"]


Change = Callable[[list[str], list[list[Any]]], None]


def drop(header: list[str], rows: list[list[Any]]) -> None:
    header.pop()
    for row in rows:
        row.pop()


def name(header: list[str], rows: list[list[Any]]) -> None:
    header[3] = "q3"


def spell(header: list[str], rows: list[list[Any]]) -> None:
    for row in rows:
        row[5] = "dark"


def forget(header: list[str], rows: list[list[Any]]) -> None:
    rows[7][5] = ""


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (drop, "has no column 'p63'"),
        (name, "has no column 'p3'"),
        (spell, "has string in the column 'p5'"),
        (forget, "lacks 1 values of the column 'p5'"),
    ],
)
def test_unlabelled_rows_of_other_columns(
    admin: httpx.Client, digits: Digits, pupil: JSON, change: Change, told: str
) -> None:
    """A column that is missing, has another name, holds texts or has a gap is named."""
    header, rows = list(PIXELS), [list(map(int, row)) for row in digits.rows[:40]]
    change(header, rows)
    data = f"d5-{change.__name__}"
    upload(admin, data, csv_bytes(header, rows))
    error = refusal(admin, pupil["model"], 400, "unlabelled", unlabelled=data)
    assert told in error["message"]


def test_the_data_itself_is_not_unlabelled(admin: httpx.Client, pupil: JSON) -> None:
    """The test rows are in it."""
    error = refusal(admin, pupil["model"], 400, "unlabelled", unlabelled="digits:1")
    assert "is the data itself" in error["message"]
