"""Bad inputs to a model, by all three protocols and gRPC: refused by name, never metered."""

from __future__ import annotations

from typing import Any

import grpc
import httpx
import pytest

from e2e.conftest import MAX_BODY, Digits, Platform
from e2e.helpers import JSON, get, refused, refused_rpc, rpc_infer, rpc_request, tensor

GOOD = [0.0] * 64


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ([], "input_data"),
        ([[]], "input_data[0]"),
        ([[1.0] * 63], "input_data[0]"),
        ([GOOD, [1.0] * 65], "input_data[1]"),
        ([GOOD, [*GOOD[:-1], "1"]], "input_data[1]"),
        ([[*GOOD[:-1], None]], "input_data[0]"),
        ([[*GOOD[:-1], True]], "input_data[0]"),
        ([[*GOOD[:-1], 1e300]], "input_data[0]"),
        (GOOD, "input_data[0]"),
        ([[GOOD]], "input_data[0]"),
        ("rows", "input_data"),
        (None, "input_data"),
        ({"0": GOOD}, "input_data"),
    ],
)
def test_rows_that_do_not_fit(admin: httpx.Client, served: JSON, data: Any, field: str) -> None:
    """Rows of the wrong shape or type are refused with the row's place, in both simple forms."""
    body = {"model": "digits", "input_data": data}
    refused(admin.post("/predict", json=body), 400, "invalid_input", field)
    answer = admin.post("/predictions/digits", json={"input_data": data})
    refused(answer, 400, "invalid_input", field)
    if isinstance(data, list):
        refused(admin.post("/predictions/digits", json=data), 400, "invalid_input", field)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        (b"", "invalid_json", "body"),
        (b"{", "invalid_json", "body"),
        (b'{"input_data": [[NaN]]}', "invalid_json", "body"),
        (b'{"input_data": [[1' + b"]" * 9000, "invalid_json", "body"),
        (b"{}", "invalid_field", "input_data"),
        (b'"text"', "invalid_field", "body"),
        (b'{"model": 5, "input_data": [[1]]}', "invalid_field", "model"),
    ],
)
def test_bodies_that_say_nothing(
    admin: httpx.Client, served: JSON, body: bytes, code: str, field: str
) -> None:
    """A body that is not JSON, or not the object that is wanted, is refused as that."""
    refused(admin.post("/predict", content=body), 400, code, field)


def test_the_model_must_be_named(
    admin: httpx.Client, served: JSON, private: JSON, digits: Digits
) -> None:
    """With several deployments to choose from, /predict wants a name and lists them."""
    error = refused(
        admin.post("/predict", json={"input_data": digits.rows[:1]}), 400, "invalid_field", "model"
    )
    assert "digits" in error["hint"]
    assert "private" in error["hint"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "image"}, "inputs[0].name"),
        ({"datatype": "INT64"}, "inputs[0].datatype"),
        ({"datatype": "FP99"}, "inputs[0].datatype"),
        ({"shape": [1, 63]}, "inputs[0].data"),
        ({"shape": [64]}, "inputs[0].shape"),
        ({"shape": [-1, 64]}, "inputs[0].shape"),
        ({"shape": [1] * 40}, "inputs[0].shape"),
        ({"shape": "1x64"}, "inputs[0].shape"),
        ({"data": [0.0] * 3}, "inputs[0].data"),
        ({"data": ["0"] * 64}, "inputs[0].data[0]"),
        ({"data": [*GOOD[:5], None, *GOOD[6:]]}, "inputs[0].data[5]"),
        ({"data": "none"}, "inputs[0].data"),
    ],
)
def test_open_inference_tensors_that_do_not_fit(
    admin: httpx.Client, served: JSON, changes: JSON, field: str
) -> None:
    """Over Open Inference REST a tensor's bad part is named in the error's text."""
    body = {"inputs": [tensor([GOOD], **changes)]}
    answer = admin.post("/v2/models/digits/infer", json=body)
    code = "invalid_field" if changes.get("shape") == "1x64" else "invalid_input"
    refused(answer, 400, code, None if code == "invalid_field" else field)
    assert field.partition("[")[0] in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "inputs"),
        ([], 400, "body"),
        ({"inputs": []}, 400, "inputs"),
        ({"inputs": [tensor([GOOD]), tensor([GOOD])]}, 400, "inputs[1].name"),
        ({"inputs": [tensor([GOOD])], "outputs": [{"name": "x"}]}, 400, "outputs[0].name"),
    ],
)
def test_open_inference_requests_that_do_not_fit(
    admin: httpx.Client, served: JSON, body: Any, status: int, field: str
) -> None:
    """Over Open Inference REST a request without the right inputs and outputs is refused."""
    refused(admin.post("/v2/models/digits/infer", json=body), status, "invalid_input", field)


def test_models_and_versions_that_are_not_there(
    platform: Platform, admin: httpx.Client, served: JSON
) -> None:
    """An unknown model or version answers 404 (NOT_FOUND) by every protocol."""
    rows = [GOOD]
    refused(
        admin.post("/predict", json={"model": "no", "input_data": rows}), 404, "not_found", "model"
    )
    refused(admin.post("/predictions/no", json=rows), 404, "not_found", "model")
    inputs = {"inputs": [tensor(rows)]}
    refused(admin.post("/v2/models/no/infer", json=inputs), 404, "not_found", "model")
    for version in ("1", "99", "x", "digits:1"):
        path = f"/v2/models/digits/versions/{version}"
        refused(admin.post(f"{path}/infer", json=inputs), 404, "not_found", "version")
        refused(admin.get(path), 404, "not_found", "version")
    for name, version, field in (("no", "", "model"), ("digits", "1", "version")):
        request = rpc_request(name, rows)
        request.model_version = version
        refused_rpc(
            lambda r=request: rpc_infer(platform.grpc, platform.admin_key, r),
            grpc.StatusCode.NOT_FOUND, "not_found", field,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": "image"}, "inputs[0].name"),
        ({"datatype": "INT64"}, "inputs[0].contents.int64_contents"),
        ({"datatype": "FP99"}, "inputs[0].datatype"),
        ({"shape": [1, 63]}, "inputs[0].contents.fp32_contents"),
        ({"shape": [64]}, "inputs[0].shape"),
        ({"shape": [-1, 64]}, "inputs[0].shape"),
    ],
)
def test_grpc_tensors_that_do_not_fit(
    platform: Platform, served: JSON, changes: JSON, field: str
) -> None:
    """Over gRPC a bad tensor is INVALID_ARGUMENT, code and field in the trailing metadata."""
    request = rpc_request("digits", [GOOD])
    given = request.inputs[0]
    given.name = changes.get("name", given.name)
    given.datatype = changes.get("datatype", given.datatype)
    if "shape" in changes:
        given.shape[:] = changes["shape"]
    refused_rpc(
        lambda: rpc_infer(platform.grpc, platform.admin_key, request),
        grpc.StatusCode.INVALID_ARGUMENT, "invalid_input", field,
    )  # fmt: skip


def test_grpc_raw_contents_that_do_not_fit(platform: Platform, served: JSON) -> None:
    """Over gRPC raw bytes of the wrong number are refused, and so is a message over the limit."""
    request = rpc_request("digits", [GOOD])
    request.inputs[0].ClearField("contents")
    request.raw_input_contents.append(b"\0" * 255)
    refused_rpc(
        lambda: rpc_infer(platform.grpc, platform.admin_key, request),
        grpc.StatusCode.INVALID_ARGUMENT, "invalid_input", "raw_input_contents[0]",
    )  # fmt: skip
    request.raw_input_contents[0] = b"\0" * (MAX_BODY + 1)
    with pytest.raises(grpc.RpcError) as caught:
        rpc_infer(platform.grpc, platform.admin_key, request)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_refused_calls_are_not_metered(platform: Platform, served: JSON, digits: Digits) -> None:
    """A call that is refused before it reaches the model leaves no usage at all."""
    client = platform.client(platform.key("infer", "usage", tenant="acme"))
    before = get(client, "/api/usage", by="key,meter", fresh="true")["rows"]
    for body in ([[1.0]], [], [["x"]]):
        assert client.post("/predictions/default/digits", json=body).status_code == 400
    assert get(client, "/api/usage", by="key,meter", fresh="true")["rows"] == before


def test_the_server_still_predicts(
    platform: Platform, admin: httpx.Client, served: JSON, digits: Digits
) -> None:
    """After all of this, every protocol answers the same labels."""
    rows, model = digits.rows[:5], "digits"
    labels = admin.post("/predict", json={"model": model, "input_data": rows}).json()["output_data"]
    assert admin.post(f"/predictions/{model}", json=rows).json()["output_data"] == labels
    answer = admin.post(f"/v2/models/{model}/infer", json={"inputs": [tensor(rows)]})
    assert answer.json()["outputs"][0]["data"] == labels
    response = rpc_infer(platform.grpc, platform.admin_key, rpc_request(model, rows))
    assert list(response.outputs[0].contents.int64_contents) == labels
