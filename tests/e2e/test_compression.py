"""Compression through the API: prune → share → quantize → pack → gate → deploy → predict, on
the handwritten digits; what a step claims is counted in the file that is served."""

from __future__ import annotations

from typing import Any

import httpx
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from e2e.conftest import Digits
from e2e.helpers import JSON, ended, get, ready, refused, start, succeeded
from meuse.serve.packed import unpack

Matrices = list[np.ndarray[Any, Any]]
BITS = 4
SERVED = 600


def file_of(client: httpx.Client, reference: str) -> bytes:
    """The file that is served of a version."""
    model, _, number = reference.partition(":")
    version = get(client, f"/api/models/{model}/versions/{number}")
    artifact = version["artifacts"][0]
    answer = client.get(f"/api/models/{model}/versions/{number}/artifacts/{artifact['name']}")
    assert answer.status_code == 200, answer.text
    assert len(answer.content) == artifact["bytes"]
    return answer.content


def served_accuracy(client: httpx.Client, reference: str, name: str, digits: Digits) -> float:
    """Of a version's answers over REST, by a deployment that is gone afterwards."""
    answer = client.put(f"/api/deployments/{name}", json={"model": reference})
    assert answer.status_code == 202, answer.text
    ready(client, name)
    body = {"model": name, "input_data": digits.rows[-SERVED:]}
    answer = client.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    assert client.delete(f"/api/deployments/{name}").json()["published"] is True
    refused(client.post("/predict", json=body), 404, "not_found", "model")
    return float(np.mean(np.array(answer.json()["output_data"]) == digits.labels[-SERVED:]))


def matrices(model: bytes) -> Matrices:
    graph = onnx.load_from_string(model).graph
    found = [numpy_helper.to_array(i) for i in graph.initializer]
    return [m for m in found if m.ndim == 2 and m.size > 500]


@pytest.fixture(scope="module")
def small(admin: httpx.Client, trained: JSON) -> JSON:
    """The child that every step went into."""
    steps = [
        {"method": "prune", "rate": 0.8, "rounds": 2, "epochs": 4},
        {"method": "share", "bits": BITS, "epochs": 2},
        {"method": "quantize", "gate": {"max_drop": 0.1}},
        {"method": "pack"},
    ]
    spec = {"model": trained["model"], "goal": {"max_drop": 0.05}, "steps": steps}
    return succeeded(admin, start(admin, "compress", **spec), 180.0)


def test_every_step_is_in_the_served_file(admin: httpx.Client, small: JSON) -> None:
    """Four of five weights are zero, the rest are few values, all are 8-bit integers; and the
    file is a fraction of its parent's."""
    packed = file_of(admin, small["model"])
    report = small["report"]
    assert len(packed) == report["after"]["bytes"]
    assert len(packed) < report["before"]["bytes"] / 10
    found = matrices(unpack(packed))
    assert len(found) == 3
    assert {m.dtype for m in found} == {np.dtype(np.int8)}
    total = sum(m.size for m in found)
    assert sum(int((m == 0).sum()) for m in found) >= 0.79 * total
    # [outputs, inputs]: weights of one output share a scale, so equal ones have equal codes.
    assert all(len(np.unique(row)) <= 2**BITS + 1 for m in found for row in m)
    assert [step["method"] for step in report["steps"]] == ["prune", "share", "quantize", "pack"]


def test_it_serves(admin: httpx.Client, small: JSON, digits: Digits) -> None:
    """The packed file answers raw rows as well as its report says."""
    assert served_accuracy(admin, small["model"], "c5-small", digits) > 0.9


@pytest.mark.parametrize(
    ("step", "mark"),
    [
        ({"method": "quantize", "mode": "int4", "algorithm": "gptq"}, b"MatMulNBits"),
        ({"method": "convert", "to": "openvino"}, b".xml"),
    ],
)
def test_other_files_serve(
    admin: httpx.Client, trained: JSON, digits: Digits, step: JSON, mark: bytes
) -> None:
    """What ONNX's own operators do not compute, and another format: as right as the parent."""
    spec = {"model": trained["model"], "goal": {"max_drop": 0.03}, "sensitivity": False}
    made = succeeded(admin, start(admin, "compress", steps=[step], **spec), 120.0)
    assert mark in file_of(admin, made["model"])
    before = served_accuracy(admin, trained["model"], "c5-before", digits)
    assert before > 0.9
    assert served_accuracy(admin, made["model"], "c5-after", digits) >= before - 0.03


@pytest.mark.slow
def test_a_child_is_compressed_further(admin: httpx.Client, trained: JSON) -> None:
    """Zeros of the first job stay through the second."""
    prune = {"model": trained["model"], "steps": [{"method": "prune", "rate": 0.7, "epochs": 2}]}
    goal = {"max_drop": 0.1}
    first = succeeded(admin, start(admin, "compress", goal=goal, **prune), 120.0)
    share = {"model": first["model"], "steps": [{"method": "share", "bits": 4, "epochs": 1}]}
    second = succeeded(admin, start(admin, "compress", goal=goal, **share), 120.0)
    before, after = (matrices(file_of(admin, found["model"])) for found in (first, second))
    for old, new in zip(before, after, strict=True):
        assert np.array_equal(old == 0, new == 0)
        assert len(np.unique(new)) <= 16 + 1
    assert second["report"]["before"]["bytes"] > 0


def test_a_gate_that_nothing_meets(admin: httpx.Client, trained: JSON) -> None:
    """The job fails with the numbers, and no version is there."""
    model = trained["model"].partition(":")[0]
    before = get(admin, f"/api/models/{model}")
    steps = [{"method": "prune", "rate": 0.99, "epochs": 0, "gate": {"max_drop": 0.001}}]
    job = ended(admin, start(admin, "compress", model=trained["model"], steps=steps), 120.0)
    assert job["status"] == "failed", job
    assert job["error"]["code"] == "gate_refused"
    assert "accuracy fell by 0." in job["error"]["message"]
    assert get(admin, f"/api/models/{model}") == before


@pytest.mark.parametrize(
    ("steps", "field"),
    [
        ([{"method": "prune", "rate": 0}], "steps.0.rate"),
        ([{"method": "prune", "rate": 1}], "steps.0.rate"),
        ([{"method": "prune", "rate": 1.5}], "steps.0.rate"),
        ([{"method": "quantize"}, {"method": "prune"}], "steps.1.method"),
        ([{"method": "share", "bits": 12}], "steps.0.bits"),
        ([{"method": "shrink"}], "steps.0.method"),
        ("nothing", "steps.0.method"),
    ],
)
def test_bad_steps_are_named(admin: httpx.Client, trained: JSON, steps: Any, field: str) -> None:
    """Refused before anything is queued."""
    spec = {"kind": "compress", "spec": {"model": trained["model"], "steps": steps}}
    refused(admin.post("/api/jobs", json=spec), 400, "invalid_field", field)
