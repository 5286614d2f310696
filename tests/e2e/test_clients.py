"""NVIDIA's tritonclient against the platform, in one process with our own stubs."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from e2e.conftest import Digits, Platform
from e2e.helpers import JSON, ready, rpc_infer, rpc_request, until
from meuse.gateway.wire import inference_pb2 as wire

ROWS = 7


@pytest.fixture(scope="module", params=["default", "acme"])
def who(request: pytest.FixtureRequest, platform: Platform, served: JSON) -> tuple[str, str]:
    """(key, model name): the owner, then another tenant."""
    name = "digits" if request.param == "default" else "default/digits"
    return platform.key("infer", tenant="globex" if "/" in name else "default"), name


@pytest.fixture
def http(platform: Platform) -> Iterator[Any]:
    with triton_http.InferenceServerClient(platform.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture
def rpc(platform: Platform) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(platform.grpc) as client:
        yield client


@pytest.fixture
def rows(digits: Digits) -> NDArray[np.float32]:
    return np.array(digits.rows[:ROWS], np.float32)


@pytest.fixture
def labels(admin: httpx.Client, served: JSON, digits: Digits) -> list[int]:
    """What /predict answers for the same rows."""
    body = {"model": "digits", "input_data": digits.rows[:ROWS]}
    found: list[int] = admin.post("/predict", json=body).json()["output_data"]
    return found


def _header(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def _inputs(kind: Any, values: NDArray[Any], datatype: str, **how: Any) -> list[Any]:
    given = kind.InferInput("input", list(values.shape), datatype)
    given.set_data_from_numpy(values, **how)
    return [given]


def test_http_client(
    http: Any, who: tuple[str, str], rows: NDArray[np.float32], labels: list[int]
) -> None:
    """tritonclient over HTTP checks health, reads metadata and infers, as owner and tenant."""
    key, model = who
    assert http.is_server_live()
    assert http.is_server_ready()
    assert http.is_model_ready(model, headers=_header(key))
    assert http.is_model_ready(model, "2", headers=_header(key))
    assert http.get_server_metadata()["name"] == "meuse"
    described = http.get_model_metadata(model, headers=_header(key))
    assert (described["name"], described["versions"]) == (model, ["2"])
    assert described["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]
    outputs = [triton_http.InferRequestedOutput("label", binary_data=False)]
    inputs = _inputs(triton_http, rows, "FP32", binary_data=False)
    result = http.infer(model, inputs, outputs=outputs, request_id="7", headers=_header(key))
    assert result.as_numpy("label").tolist() == labels
    answer = result.get_response()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", model, "2")
    assert [o["name"] for o in answer["outputs"]] == ["label"]


def test_grpc_client(
    rpc: Any, who: tuple[str, str], rows: NDArray[np.float32], labels: list[int]
) -> None:
    """tritonclient over gRPC checks health, reads metadata and infers, as owner and tenant."""
    key, model = who
    assert rpc.is_server_live()
    assert rpc.is_server_ready()
    assert rpc.is_model_ready(model, headers=_header(key))
    assert rpc.get_server_metadata().name == "meuse"
    described = rpc.get_model_metadata(model, headers=_header(key))
    assert (described.name, list(described.versions)) == (model, ["2"])
    assert [o.name for o in described.outputs] == ["label", "probabilities"]
    inputs = _inputs(triton_grpc, rows, "FP32")  # raw bytes
    result = rpc.infer(model, inputs, request_id="7", headers=_header(key))
    assert result.as_numpy("label").tolist() == labels
    probabilities = result.as_numpy("probabilities")
    assert probabilities.shape == (ROWS, 10)
    assert np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert (result.get_response().id, result.get_response().model_version) == ("7", "2")


@pytest.mark.parametrize(
    ("datatype", "dtype"),
    [("FP64", np.float64), ("INT64", np.int64), ("UINT8", np.uint8), ("BOOL", np.bool_)],
)
def test_other_datatypes_are_refused(
    http: Any, rpc: Any, platform: Platform, served: JSON, datatype: str, dtype: type
) -> None:
    """Tensors of another datatype are refused by both clients with the one expected."""
    values, headers = np.zeros((1, 64), dtype), _header(platform.admin_key)
    with pytest.raises(InferenceServerException) as caught:
        http.infer(
            "digits", _inputs(triton_http, values, datatype, binary_data=False), headers=headers
        )
    assert caught.value.status() == "400"
    assert "(field: inputs[0].datatype) Expected: FP32" in caught.value.message()
    with pytest.raises(InferenceServerException) as caught:
        rpc.infer("digits", _inputs(triton_grpc, values, datatype), headers=headers)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"
    assert "(field: inputs[0].datatype) Expected: FP32" in caught.value.message()


def test_errors_reach_the_clients(http: Any, rpc: Any, platform: Platform, served: JSON) -> None:
    """Wrong shapes, unknown models and missing keys reach both clients as their status."""
    rows = np.zeros((1, 63), np.float32)
    mine = _header(platform.admin_key)
    for model, headers, status, code in (
        ("digits", mine, "400", "INVALID_ARGUMENT"),
        ("nothing", mine, "404", "NOT_FOUND"),
        ("digits", {}, "401", "UNAUTHENTICATED"),
    ):
        with pytest.raises(InferenceServerException) as caught:
            http.infer(
                model, _inputs(triton_http, rows, "FP32", binary_data=False), headers=headers
            )
        assert caught.value.status() == status
        with pytest.raises(InferenceServerException) as caught:
            rpc.infer(model, _inputs(triton_grpc, rows, "FP32"), headers=headers)
        assert caught.value.status() == f"StatusCode.{code}"
        assert not http.is_model_ready("nothing", headers=headers)


def test_binary_tensors_over_http(
    http: Any, who: tuple[str, str], rows: NDArray[np.float32], labels: list[int]
) -> None:
    """tritonclient's default over HTTP, raw bytes both ways, and raw bytes one way alone."""
    key, model = who
    inputs = _inputs(triton_http, rows, "FP32")
    result = http.infer(model, inputs, headers=_header(key))
    assert result.as_numpy("label").tolist() == labels
    assert np.allclose(result.as_numpy("probabilities").sum(1), 1, atol=1e-5)
    for binary in (True, False):
        outputs = [triton_http.InferRequestedOutput("label", binary_data=binary)]
        result = http.infer(model, inputs, outputs=outputs, headers=_header(key))
        assert result.as_numpy("label").tolist() == labels
    job = http.async_infer(model, inputs, headers=_header(key))
    assert job.get_result().as_numpy("label").tolist() == labels


def test_statistics_and_repository(
    http: Any, rpc: Any, platform: Platform, who: tuple[str, str], rows: NDArray[np.float32]
) -> None:
    """Both clients count inferences, list what there is, and find what is up loaded."""
    key, model = who
    mine = _header(key)
    with triton_grpc.InferenceServerClient(platform.grpc) as other:
        for _ in range(3):
            other.infer(model, _inputs(triton_grpc, rows, "FP32"), headers=mine)
        # One connection, so one worker, which has counted its own.
        (stats,) = other.get_inference_statistics(model, "2", headers=mine).model_stats
        assert (stats.name, stats.version) == (model, "2")
        assert stats.inference_count >= 3 * ROWS
        assert stats.inference_stats.success.count >= 3
        assert stats.inference_stats.success.ns > stats.inference_stats.compute_infer.ns > 0
    (given,) = http.get_inference_statistics(model, headers=mine)["model_stats"]
    assert (given["name"], given["version"]) == (model, "2")
    assert set(given["inference_stats"]) >= {"success", "fail", "queue", "compute_infer"}
    for index in (
        http.get_model_repository_index(headers=mine),
        rpc.get_model_repository_index(headers=mine, as_json=True).get("models"),
    ):
        (found,) = [one for one in index if one["name"] == model]
        assert (found["version"], found["state"]) == ("2", "READY")
    for client in (http, rpc):
        with pytest.raises(InferenceServerException, match="lacks the scope"):
            client.load_model(model, headers=mine)


def test_load_and_unload(http: Any, rpc: Any, platform: Platform, served: JSON) -> None:
    """A deployment that is up is loaded; one that may not go to zero is not unloaded."""
    mine = _header(platform.admin_key)
    for client in (http, rpc):
        client.load_model("digits", headers=mine)
        with pytest.raises(InferenceServerException, match="may not go to zero"):
            client.unload_model("digits", headers=mine)
        with pytest.raises(InferenceServerException, match="there is no model"):
            client.load_model("nothing", headers=mine)
        with pytest.raises(InferenceServerException, match="parameters"):
            client.load_model("digits", headers=mine, config="{}")


def test_unloading_gives_the_memory_back(
    http: Any, rpc: Any, platform: Platform, admin: httpx.Client, trained: JSON
) -> None:
    """A deployment that may rest is unloaded and loaded again by the repository's verbs."""
    spec = {"model": trained["model"], "scale": {"min": 0, "zero_after_s": 600}}
    assert admin.put("/api/deployments/rests", json=spec).status_code == 202
    ready(admin, "rests")
    mine = _header(platform.admin_key)

    def unloaded(client: Any) -> bool:
        try:
            client.unload_model("rests", headers=mine)
        except InferenceServerException as error:
            if "in use" not in str(error):  # it is, for a moment after its last request
                raise
            return False
        return True

    for client in (http, rpc):
        until(lambda c=client: unloaded(c), "it is unloaded")
        until(lambda: not http.is_model_ready("rests", headers=mine), "no replica is connected")
        client.load_model("rests", headers=mine)
        assert client.is_model_ready("rests", headers=mine)
    assert admin.delete("/api/deployments/rests").status_code == 200


def test_grpc_stream(
    rpc: Any, who: tuple[str, str], rows: NDArray[np.float32], labels: list[int]
) -> None:
    """tritonclient's stream: answers in order, errors in their place, the stream goes on."""
    key, model = who
    answers: queue.Queue[Any] = queue.Queue()
    rpc.start_stream(lambda result, error: answers.put((result, error)), headers=_header(key))
    for i in range(50):
        wrong = i % 10 == 3
        given = _inputs(triton_grpc, rows[:, :63] if wrong else rows, "FP32")
        rpc.async_stream_infer(model, given, request_id=str(i))
    for i in range(50):
        result, error = answers.get(timeout=30)
        if i % 10 == 3:
            assert "(field: inputs[0].shape)" in str(error)
        else:
            assert error is None
            assert result.get_response().id == str(i)
            assert result.as_numpy("label").tolist() == labels
    rpc.stop_stream()


def test_asyncio_clients(
    platform: Platform, who: tuple[str, str], rows: NDArray[np.float32], labels: list[int]
) -> None:
    """tritonclient's asyncio clients: HTTP, gRPC and the stream."""
    key, model = who
    mine = _header(key)

    async def over_http() -> None:
        async with triton_http_aio.InferenceServerClient(
            platform.url.removeprefix("http://")
        ) as client:
            inputs = _inputs(triton_http, rows, "FP32")
            found = await asyncio.gather(
                *[client.infer(model, inputs, headers=_header(key)) for _ in range(8)]
            )
            assert [r.as_numpy("label").tolist() for r in found] == [labels] * 8

    async def over_grpc() -> None:
        async with triton_grpc_aio.InferenceServerClient(platform.grpc) as client:
            inputs = _inputs(triton_grpc, rows, "FP32")
            assert await client.is_model_ready(model, headers=mine)
            result = await client.infer(model, inputs, headers=mine)
            assert result.as_numpy("label").tolist() == labels

            async def requests() -> AsyncIterator[dict[str, Any]]:
                for i in range(8):
                    yield {"model_name": model, "inputs": inputs, "request_id": str(i)}

            seen = []
            async for result, error in client.stream_infer(requests(), headers=mine):
                assert error is None
                assert result.as_numpy("label").tolist() == labels
                seen.append(result.get_response().id)
            assert seen == [str(i) for i in range(8)]

    asyncio.run(over_http())
    asyncio.run(over_grpc())


def test_stubs_live_side_by_side(
    platform: Platform, rpc: Any, rows: NDArray[np.float32], labels: list[int], digits: Digits
) -> None:
    """tritonclient's messages and ours share a process: each infers, and they are not mixed up."""
    theirs = triton_grpc.service_pb2
    ours = rpc_infer(platform.grpc, platform.admin_key, rpc_request("digits", digits.rows[:ROWS]))
    assert isinstance(ours, wire.ModelInferResponse)
    assert list(ours.outputs[0].contents.int64_contents) == labels
    found = rpc.infer(
        "digits", _inputs(triton_grpc, rows, "FP32"), headers=_header(platform.admin_key)
    ).get_response()
    assert isinstance(found, theirs.ModelInferResponse)
    again = theirs.ModelInferResponse.FromString(ours.SerializeToString())
    assert list(again.outputs[0].contents.int64_contents) == labels
    assert again.model_name == ours.model_name
