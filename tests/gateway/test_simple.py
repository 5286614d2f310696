"""`/predict` and `/predictions`: answers, refusals and records."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from meuse.access import keys
from meuse.meter.record import UsageRecord
from serve import models

if TYPE_CHECKING:
    from gateway.conftest import Platform

X = np.random.default_rng(3).normal(size=(4, 64)).astype(np.float32)
ROWS = X.tolist()


def last(platform: Platform) -> UsageRecord:
    return platform.rig.records()[-1]


def refused(response: Any, status: int, code: str, field: str | None) -> dict[str, Any]:
    error: dict[str, Any] = response.json()["error"]
    assert (response.status_code, error["code"], error["field"]) == (status, code, field)
    assert set(error) == {"code", "message", "field", "hint", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error


def test_predict_answers_the_first_output(platform: Platform) -> None:
    """Scores as computed, with the version that answered."""
    answer = platform.http.post("/predict", json={"model": "scores", "input_data": ROWS})
    assert answer.status_code == 200
    assert answer.json()["model"] == "scores:1"
    np.testing.assert_allclose(answer.json()["output_data"], X @ models.WEIGHTS, rtol=1e-4)


def test_indices_become_labels(platform: Platform) -> None:
    """A version with classes answers their labels."""
    answer = platform.http.post("/predict", json={"model": "digits", "input_data": ROWS})
    expected = [f"digit {i}" for i in (X @ models.WEIGHTS).argmax(1)]
    assert answer.json() == {"output_data": expected, "model": "digits:1"}


@pytest.mark.parametrize(
    "path", ["/predictions/blue/shared", "/predictions/blue%2Fshared", "/predictions/blue%2fshared"]
)
@pytest.mark.parametrize("bare", [True, False])
def test_a_deployment_of_another_tenant(platform: Platform, path: str, bare: bool) -> None:
    """`owner/name` works where access allows; a bare list of rows is a body too."""
    body: Any = [[1, 2]] if bare else {"input_data": [[1, 2]]}
    answer = platform.http.post(path, json=body)
    assert answer.json() == {"output_data": [[2.0, 4.0]], "model": "shared:1"}


def test_the_record_says_who_pays_and_who_owns(platform: Platform) -> None:
    """Payer is the caller's tenant, owner the deployment's; rows are counted."""
    before = len(platform.rig.records())
    platform.http.post("/predict", json={"model": "blue/shared", "input_data": [[1, 2]] * 3})
    records = platform.rig.records()
    assert len(records) == before + 1
    record = records[-1]
    assert (record.tenant, record.owner, record.deployment) == ("acme", "blue", "blue/shared")
    assert (record.version, record.plan_version) == ("shared:1", "basic:3")
    assert (record.status, record.final, record.seq, record.tier) == ("ok", True, 0, "standard")
    assert (record.protocol, record.source, record.project) == ("predict", "gateway", "default")
    assert record.quantities["requests"] == 1
    assert record.quantities["rows"] == 3
    assert record.quantities["compute_ms"] >= 1
    assert record.key in platform.key


def test_refused_before_admission_leaves_no_record(platform: Platform) -> None:
    """Neither a bad key nor bad input is metered."""
    before = len(platform.rig.records())
    platform.http.post("/predict", json={"model": "scores", "input_data": [[1]]})
    with platform.as_("nonsense") as client:
        client.post("/predict", json={"model": "scores", "input_data": ROWS})
    assert len(platform.rig.records()) == before


def test_a_failed_request_is_recorded_as_an_error(platform: Platform) -> None:
    """Admitted and failed in the engine: status error, no rows, the time that it took."""
    answer = platform.http.post("/predict", json={"model": "table", "input_data": [99]})
    refused(answer, 500, "engine_error", None)
    assert (last(platform).status, last(platform).quantities["rows"]) == ("error", 0)
    assert last(platform).quantities["compute_ms"] >= 1
    assert last(platform).deployment == "acme/table"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"", "invalid_json", "body"),
        (b"{", "invalid_json", "body"),
        (b"\xff\xfe", "invalid_json", "body"),
        (b'{"model": "scores", "input_data": [[NaN]]}', "invalid_json", "body"),
        (b'{"model": "scores", "input_data": [[Infinity]]}', "invalid_json", "body"),
        (b'{"model":"scores","input_data":' + b"[" * 5000 + b"]" * 5000 + b"}",
         "invalid_json", "body"),
        (b'{"model":"scores","input_data":' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
         "invalid_json", "body"),
        (b'{"modle": "scores", "input_data": [[1]]}', "invalid_field", "modle"),
        (b"[]", "invalid_field", "body"),
        (b'{"model": "scores"}', "invalid_field", "input_data"),
        (b'{"model": 7, "input_data": [[1]]}', "invalid_field", "model"),
        (b'{"model": "scores", "input_data": "x"}', "invalid_input", "input_data"),
        (b'{"model": "scores", "input_data": []}', "invalid_input", "input_data"),
        (b'{"model": "scores", "input_data": [[1,2],[3]]}', "invalid_input", "input_data[0]"),
        (b'{"model": "double", "input_data": [[1,2],[3,"4"]]}', "invalid_input", "input_data[1]"),
        (b'{"model": "pair", "input_data": [[1,2]]}', "invalid_input", "input_data[0].a"),
        (b'{"input_data": [[1,2]]}', "invalid_field", "model"),
    ],
)  # fmt: skip
def test_bad_bodies(platform: Platform, body: bytes, code: str, field: str) -> None:
    """Each names its code and its field."""
    refused(platform.http.post("/predict", content=body), 400, code, field)


def test_no_model_lists_what_may_be_called(platform: Platform) -> None:
    """Own deployments first, then shared ones, never those that may not be called."""
    answer = platform.http.post("/predict", json={"input_data": [[1, 2]]})
    hint = refused(answer, 400, "invalid_field", "model")["hint"]
    assert hint.startswith("One of: bools, cubes, digits, ")
    assert hint.endswith(", table, texts, blue/shared.")
    assert "private" not in hint
    with platform.as_(platform.green) as client:
        answer = client.post("/predict", json={"input_data": [[1, 2]]})
        refused(answer, 400, "invalid_field", "model")


@pytest.mark.parametrize(
    "model", ["nothing", "blue/private", "private", "blue/nothing", "", "a/b/c"]
)
def test_what_may_not_be_called_does_not_exist(platform: Platform, model: str) -> None:
    """Forbidden and absent give the same answer, word for word but for the name."""
    answer = platform.http.post("/predict", json={"model": model, "input_data": [[1, 2]]})
    error = refused(answer, 404, "not_found", "model")
    assert error["message"] == f"there is no model {model!r}"
    absent = platform.http.post("/predict", json={"model": "absent", "input_data": [[1, 2]]})
    assert absent.json()["error"]["hint"] == error["hint"]


def test_a_deployment_without_a_ready_version(platform: Platform) -> None:
    """Nothing to route to is unavailable, with Retry-After."""
    answer = platform.http.post("/predict", json={"model": "empty", "input_data": [[1]]})
    refused(answer, 503, "unavailable", "model")
    assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Basic abc", "Bearer meuse_live_x", "bad-crc", "unknown"],
)
def test_bad_keys(platform: Platform, header: str | None) -> None:
    """All are unauthenticated, before the body is looked at."""
    if header == "bad-crc":
        header = "Bearer " + platform.key[:-1] + ("0" if platform.key[-1] != "0" else "1")
    elif header == "unknown":
        header = "Bearer " + keys.mint()[1]
    headers = {} if header is None else {"authorization": header}
    del platform.http.headers["authorization"]
    try:
        answer = platform.http.post("/predict", content=b"{", headers=headers)
    finally:
        platform.http.headers["authorization"] = f"Bearer {platform.key}"
    refused(answer, 401, "unauthenticated", "authorization")
    assert answer.headers["www-authenticate"] == "Bearer"


def test_expired_keys_and_missing_scopes(platform: Platform) -> None:
    """An expired key says so; a key without the scope is forbidden; admin may all."""
    body = {"model": "scores", "input_data": ROWS}
    with platform.as_(platform.expired) as client:
        error = refused(client.post("/predict", json=body), 401, "unauthenticated", "authorization")
        assert "expired" in error["message"]
    with platform.as_(platform.no_infer) as client:
        refused(client.post("/predict", json=body), 403, "forbidden", "scope")
    with platform.as_(platform.admin) as client:
        assert client.post("/predict", json=body).status_code == 200


def test_the_key_of_another_owner_does_not_fit(platform: Platform) -> None:
    """A key with a known id and a right checksum, but another secret, is refused."""
    other = platform.key[:-38] + "x" * 32
    forged = other + keys._base62(zlib.crc32(other.encode()), 6)
    assert keys.key_id(forged) == keys.key_id(platform.key)
    with platform.as_(forged) as client:
        answer = client.post("/predict", json={"model": "scores", "input_data": ROWS})
        refused(answer, 401, "unauthenticated", "authorization")


def test_request_ids_come_back(platform: Platform) -> None:
    """A sane X-Request-Id is kept in errors, another is replaced."""
    for given, kept in (("abc-1", True), ("a b", False), ("x" * 200, False)):
        answer = platform.http.post("/predict", content=b"{", headers={"x-request-id": given})
        assert (refused(answer, 400, "invalid_json", "body")["request_id"] == given) is kept
