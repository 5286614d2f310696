"""Open Inference v2 over REST, by hand and with tritonclient."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tritonclient.http as triton

from meuse.gateway import oip
from serve import models

if TYPE_CHECKING:
    from gateway.conftest import Platform

X = np.random.default_rng(5).normal(size=(2, 64)).astype(np.float32)


def tensor(name: str = "x", datatype: str = "FP32", shape: Any = (1, 2), data: Any = (1, 2)) -> Any:
    return {"name": name, "datatype": datatype, "shape": list(shape), "data": data}


def test_metadata(platform: Platform) -> None:
    """Of the server without a key, of a model under the name that was asked."""
    assert platform.http.get("/v2").json()["name"] == "meuse"
    assert platform.http.get("/v2").json()["extensions"] == list(oip.EXTENSIONS)
    assert platform.http.get("/v2/health/live").json() == {"live": True}
    assert platform.http.get("/v2/health/ready").json() == {"ready": True}
    assert platform.http.get("/v2/models/double").json() == {
        "name": "double",
        "versions": ["2", "3"],
        "platform": "onnx",
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 2]}],
    }
    assert platform.http.get("/v2/models/blue/shared").json()["name"] == "blue/shared"
    ready = platform.http.get("/v2/models/double/versions/3/ready")
    assert (ready.status_code, ready.json()) == (200, {"name": "double", "ready": True})
    assert platform.http.get("/v2/models/empty/ready").status_code == 503


def test_infer_with_two_inputs(platform: Platform) -> None:
    """Flat and nested data, an id that comes back, every output."""
    body = {
        "id": "q-1",
        "inputs": [
            tensor("b", "INT64", (2,), [0, 3]),
            tensor("a", "FP32", (2, 2), [[1, 2], [3, 4]]),
        ],
        "parameters": {"anything": True},
    }
    answer = platform.http.post("/v2/models/pair/infer", json=body)
    assert answer.json() == {
        "model_name": "pair",
        "model_version": "1",
        "id": "q-1",
        "outputs": [
            {"name": "s", "shape": [2, 2], "datatype": "FP32", "data": [1.0, 2.0, 6.0, 7.0]},
            {"name": "big", "shape": [2], "datatype": "BOOL", "data": [False, True]},
        ],
    }
    assert platform.rig.records()[-1].protocol == "oip-rest"


def test_outputs_are_selected(platform: Platform) -> None:
    """Only what was asked for, in that order."""
    body = {
        "inputs": [tensor("a"), tensor("b", "INT64", (1,), [1])],
        "outputs": [{"name": "big"}],
    }
    answer = platform.http.post("/v2/models/pair/infer", json=body).json()
    assert [output["name"] for output in answer["outputs"]] == ["big"]
    assert "id" not in answer


def test_a_version_is_pinned(platform: Platform) -> None:
    """A target of weight 0 answers only when asked for, by number or full name."""
    body = {"inputs": [tensor()]}
    for path, expected in (
        ("double", [2.0, 4.0]),
        ("double/versions/2", [2.0, 4.0]),
        ("double/versions/3", [1.0, 2.0]),
        ("double/versions/double%3A3", [1.0, 2.0]),
        ("acme/double/versions/3", [1.0, 2.0]),
    ):
        answer = platform.http.post(f"/v2/models/{path}/infer", json=body).json()
        assert answer["outputs"][0]["data"] == expected
    answer = platform.http.post("/v2/models/double/versions/9/infer", json=body)
    assert (answer.status_code, "field: version" in answer.json()["error"]) == (404, True)


@pytest.mark.parametrize(
    ("model", "inputs", "field"),
    [
        ("pair", [tensor("a")], "inputs"),
        ("pair", [], "inputs"),
        ("double", [tensor("z")], "inputs[0].name"),
        ("double", [tensor(), tensor()], "inputs[1].name"),
        ("double", [tensor(datatype="FP64")], "inputs[0].datatype"),
        ("double", [tensor(datatype="BYTES")], "inputs[0].datatype"),
        ("double", [tensor(shape=(2,))], "inputs[0].shape"),
        ("double", [tensor(shape=(1, 3), data=[1, 2, 3])], "inputs[0].shape"),
        ("double", [tensor(shape=(0, 2), data=[])], "inputs[0].shape"),
        ("double", [tensor(shape=(-1, 2))], "inputs[0].shape"),
        ("double", [tensor(shape=(-1, -2))], "inputs[0].shape"),
        ("double", [tensor(shape=(1,) * 17)], "inputs[0].shape"),
        ("double", [tensor(data=[1, 2, 3])], "inputs[0].data"),
        ("double", [tensor(data=[[1], [2]])], "inputs[0].data"),
        ("double", [tensor(data=[1, "2"])], "inputs[0].data[1]"),
        ("double", [tensor(data=[1, 1e39])], "inputs[0].data[1]"),
        ("double", [tensor(data={})], "inputs[0].data"),
        ("double", [{"name": "x", "datatype": "FP32", "shape": [1, 2]}], "inputs[0].data"),
        ("double", [{"name": "x", "datatype": "FP32", "data": [1]}], "inputs[0].shape"),
        ("ints", [tensor(datatype="INT8", data=[1, 128])], "inputs[0].data[1]"),
        ("pair", [tensor("a"), tensor("b", "INT64", (2,), [1, 2])], "inputs[1].shape"),
        ("double", [tensor(shape=(2**62, 2**62))], "inputs[0].data"),
        ("double", [tensor(data=[[1, 2], [3]])], "inputs[0].data"),
        ("double", [tensor(datatype="BF16")], "inputs[0].datatype"),
        (
            "halves",
            [tensor(datatype="FP16", shape=(1,), data=[1])],
            "parameters.binary_data_output",
        ),
        ("texts", [tensor(datatype="BYTES", shape=(2,), data=["a", 1])], "inputs[0].data[1]"),
        ("texts", [tensor(datatype="BYTES", shape=(3,), data=["a", "b"])], "inputs[0].data"),
    ],
)
def test_bad_inputs(platform: Platform, model: str, inputs: Any, field: str) -> None:
    """400 with the protocol's body, which names the field."""
    answer = platform.http.post(f"/v2/models/{model}/infer", json={"inputs": inputs})
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert f"(field: {field})" in answer.json()["error"]


def test_other_refusals(platform: Platform) -> None:
    """Bad JSON, missing inputs, an unknown output, another tenant's model."""
    url = "/v2/models/double/infer"
    for content, status, field in (
        (b"{", 400, "body"),
        (b"{}", 400, "inputs"),
        (b'{"inputs": 3}', 400, "inputs"),
    ):
        answer = platform.http.post(url, content=content)
        assert (answer.status_code, f"(field: {field})" in answer.json()["error"]) == (status, True)
    body = {"inputs": [tensor()], "outputs": [{"name": "y"}, {"name": "y"}]}
    assert "(field: outputs[1].name)" in platform.http.post(url, json=body).json()["error"]
    body = {"inputs": [tensor()], "outputs": [{"name": "y"}, {"name": "q"}]}
    assert "(field: outputs[1].name)" in platform.http.post(url, json=body).json()["error"]
    answer = platform.http.post("/v2/models/blue/private/infer", json=body)
    assert (answer.status_code, "(field: model)" in answer.json()["error"]) == (404, True)


def test_strings(platform: Platform) -> None:
    """BYTES are strings in JSON, flat or nested, and come back."""
    words = ["", "a", "né\0"]
    body = {"inputs": [tensor(datatype="BYTES", shape=(3,), data=words)]}
    answer = platform.http.post("/v2/models/texts/infer", json=body).json()
    assert answer["outputs"] == [{"name": "y", "shape": [3], "datatype": "BYTES", "data": words}]
    answer = platform.http.post("/predictions/texts", json=words)
    assert answer.json()["output_data"] == words


def test_nan_is_null(platform: Platform) -> None:
    """An output that JSON cannot write is null, not a broken body."""
    body = {"inputs": [tensor(data=[3e38, 1])]}
    answer = platform.http.post("/v2/models/double/infer", json=body).json()
    assert answer["outputs"][0]["data"] == [None, 2.0]


def test_tritonclient(platform: Platform) -> None:
    """NVIDIA's client reads our metadata and gets its answer, as JSON."""
    client = triton.InferenceServerClient(f"127.0.0.1:{platform.worker.port}")
    headers = {"authorization": f"Bearer {platform.key}"}
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("scores", headers=headers)
        assert client.get_model_metadata("scores", headers=headers)["platform"] == "onnx"
        given = triton.InferInput("x", [2, 64], "FP32")
        given.set_data_from_numpy(X, binary_data=False)
        wanted = triton.InferRequestedOutput("y", binary_data=False)
        result = client.infer(
            "scores", [given], model_version="1", outputs=[wanted], request_id="7", headers=headers
        )
        np.testing.assert_allclose(result.as_numpy("y"), X @ models.WEIGHTS, rtol=1e-4)
        assert result.get_response()["id"] == "7"
        with pytest.raises(triton.InferenceServerException, match="no model"):
            client.infer("absent", [given], outputs=[wanted], headers=headers)
    finally:
        client.close()
