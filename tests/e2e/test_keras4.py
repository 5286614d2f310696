"""A Keras model, from its JSON to predictions, through the public API alone."""

from __future__ import annotations

import json
from importlib.util import find_spec

import httpx
import pytest

from e2e.conftest import Digits
from e2e.helpers import csv_bytes, ready, refused, succeeded, upload
from helpers_keras import layer, sequential

pytestmark = pytest.mark.slow


def test_a_keras_model_trains_and_serves(admin: httpx.Client, digits: Digits) -> None:
    """Submit, train, deploy, predict; what is not allowed is refused at once, by its place."""
    header = [*(f"p{i}" for i in range(64)), "digit"]
    some = zip(digits.rows[:300], digits.labels[:300], strict=True)
    upload(admin, "keras4-digits", csv_bytes(header, [[*row, label] for row, label in some]))
    last = layer("Dense", units=10, activation="softmax")
    spec = {"model_name": "keras4", "data": "keras4-digits", "recipe": "keras", "deploy": True}

    wrong = sequential(layer("Lambda", function="eval"), last)
    body = {"kind": "train", "spec": {**spec, "config": {"model": wrong}}}
    field = "config.model.config.layers[0].class_name"
    refused(admin.post("/api/jobs", json=body), 400, "invalid_field", field)

    if find_spec("keras") is None:
        pytest.skip("Keras is not installed")
    model = sequential(layer("Dense", units=64, activation="relu"), last, shape=(64,))
    config = {"model": json.dumps(model)}
    body = {
        "kind": "train",
        "spec": {**spec, "epochs": 15, "learning_rate": 0.01, "config": config},
    }
    response = admin.post("/api/jobs", json=body)
    assert response.status_code == 202, response.text
    assert succeeded(admin, response.json()["id"], 120)["model"] == "keras4:1"
    ready(admin, "keras4")
    answer = admin.post("/predict", json={"model": "keras4", "input_data": digits.rows[:50]})
    assert answer.status_code == 200, answer.text
    right = sum(
        a == b for a, b in zip(answer.json()["output_data"], digits.labels[:50], strict=True)
    )
    assert right >= 45
