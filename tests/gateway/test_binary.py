"""The binary tensor extension over REST: raw bytes both ways, and every way to get it wrong."""

from __future__ import annotations

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from gateway.rig import Rig, target
from meuse.core.errors import MeuseError
from meuse.gateway import oip
from meuse.gateway.routes import Caller
from meuse.serve.snapshot import KeyEntry
from serve import models

if TYPE_CHECKING:
    from gateway.conftest import Platform

X = np.random.default_rng(5).normal(size=(2, 64)).astype(np.float32)
TWO = np.array([[1, 2]], np.float32)


def raw(name: str = "x", datatype: str = "FP32", shape: Any = (1, 2), size: Any = 8) -> Any:
    parameters = {"binary_data_size": size}
    return {"name": name, "datatype": datatype, "shape": list(shape), "parameters": parameters}


def post(platform: Platform, model: str, header: Any, data: bytes = b"", length: Any = None) -> Any:
    """POST …/infer with a JSON header and what follows it; `length` is what is said of it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    said = {oip.HEADER_LENGTH: str(len(text) if length is None else length)}
    return platform.http.post(f"/v2/models/{model}/infer", content=text + data, headers=said)


def sealed(pid: int) -> int:
    """Pieces of sealed memory that the process holds, by descriptors or by maps."""
    folder = Path(f"/proc/{pid}/fd")
    held = 0
    for name in os.listdir(folder):
        with contextlib.suppress(FileNotFoundError):  # one of a moment, such as a file of /proc
            held += os.readlink(folder / name).startswith("/memfd:")
    return held + Path(f"/proc/{pid}/maps").read_text().count("/memfd:")


def field_of(answer: Any, status: int = 400) -> str:
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    text: str = answer.json()["error"]
    return text.partition("(field: ")[2].partition(")")[0]


def parts(answer: Any) -> tuple[Any, bytes]:
    """The JSON of an answer, and the raw bytes behind it."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/octet-stream"
    size = int(answer.headers[oip.HEADER_LENGTH])
    return json.loads(answer.content[:size]), answer.content[size:]


def test_raw_in_and_out(platform: Platform) -> None:
    """Raw inputs, all outputs raw by `binary_data_output`; the id comes back."""
    header = {"id": "q", "inputs": [raw()], "parameters": {"binary_data_output": True}}
    said, data = parts(post(platform, "double", header, TWO.tobytes()))
    assert said == {
        "model_name": "double",
        "model_version": "2",
        "id": "q",
        "outputs": [
            {"name": "y", "shape": [1, 2], "datatype": "FP32",
             "parameters": {"binary_data_size": 8}},
        ],
    }  # fmt: skip
    assert np.frombuffer(data, np.float32).tolist() == [2, 4]


def test_raw_and_json_mix(platform: Platform) -> None:
    """Each input and each output has its own form, whatever the order."""
    header = {
        "inputs": [
            {"name": "b", "datatype": "INT64", "shape": [1], "data": [3]},
            raw("a"),
        ],
        "outputs": [
            {"name": "big", "parameters": {"binary_data": True}},
            {"name": "s", "parameters": {"binary_data": False}},
        ],
    }
    said, data = parts(post(platform, "pair", header, TWO.tobytes()))
    assert [o["name"] for o in said["outputs"]] == ["big", "s"]
    assert (data, said["outputs"][1]["data"]) == (b"\1", [4.0, 5.0])
    header["outputs"] = [{"name": "s"}]
    answer = post(platform, "pair", header, TWO.tobytes())
    assert oip.HEADER_LENGTH not in answer.headers
    assert answer.json()["outputs"][0]["data"] == [4.0, 5.0]


def test_json_in_and_raw_out(platform: Platform) -> None:
    """Without the header a body is JSON; its answer may be raw all the same."""
    body = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}],
        "parameters": {"binary_data_output": True},
    }
    said, data = parts(platform.http.post("/v2/models/double/infer", json=body))
    assert np.frombuffer(data, np.float32).tolist() == [2, 4]
    assert said["outputs"][0]["parameters"] == {"binary_data_size": 8}


def test_nan_and_infinity_pass_as_raw_bytes(platform: Platform) -> None:
    """In raw form they are data like any other, bit by bit."""
    given = np.array([[np.nan, -np.inf]], np.float32)
    header = {"inputs": [raw()], "parameters": {"binary_data_output": True}}
    _, data = parts(post(platform, "double/versions/3", header, given.tobytes()))
    assert data == given.tobytes()


def test_half_floats_and_strings(platform: Platform) -> None:
    """FP16 is served in raw form only; BYTES is a length and bytes for each element."""
    both = {"parameters": {"binary_data_output": True}}
    halves = np.array([1.5, -2], np.float16).tobytes()
    header = {"inputs": [raw(datatype="FP16", shape=(2,), size=4)]}
    said, data = parts(post(platform, "halves", header | both, halves))
    assert (said["outputs"][0]["datatype"], data) == ("FP16", halves)
    assert field_of(post(platform, "halves", header, halves)) == "parameters.binary_data_output"
    header["outputs"] = [{"name": "y"}]
    assert field_of(post(platform, "halves", header, halves)) == (
        "outputs[0].parameters.binary_data"
    )
    typed = {"inputs": [{"name": "x", "datatype": "FP16", "shape": [1], "data": [1]}]} | both
    answer = platform.http.post("/v2/models/halves/infer", json=typed)
    assert field_of(answer) == "inputs[0].datatype"
    words = b"".join(len(w).to_bytes(4, "little") + w for w in (b"", b"ab", "é".encode()))
    header = {"inputs": [raw(datatype="BYTES", shape=(3,), size=len(words))]}
    said, data = parts(post(platform, "texts", header | both, words))
    assert (said["outputs"][0]["shape"], data) == ([3], words)
    answer = post(platform, "texts", header, words).json()
    assert answer["outputs"][0]["data"] == ["", "ab", "é"]


@pytest.mark.parametrize("said", ["0", "-1", "+5", "1e2", "9" * 40, "x", "", "1_0", "0x10", "1 1"])
def test_sizes_of_the_header_that_are_none(platform: Platform, said: str) -> None:
    """Only a number of bytes within the body is taken."""
    answer = post(platform, "double", {"inputs": [raw()]}, TWO.tobytes(), length=said)
    assert field_of(answer) == oip.HEADER_LENGTH


@pytest.mark.parametrize(("off", "field"), [(1, "body"), (-1, "body"), (8, "body"), (9, None)])
def test_wrong_sizes_of_the_header(platform: Platform, off: int, field: str | None) -> None:
    """A size that cuts the JSON, takes data for JSON, or goes beyond the body."""
    header = json.dumps({"inputs": [raw()]}).encode()
    answer = post(platform, "double", header, TWO.tobytes(), length=len(header) + off)
    assert field_of(answer) == (field or oip.HEADER_LENGTH)


def test_the_header_said_twice(platform: Platform) -> None:
    """Two sizes are none."""
    headers = [(oip.HEADER_LENGTH, "2"), (oip.HEADER_LENGTH, "2")]
    answer = platform.http.post("/v2/models/double/infer", content=b"{}", headers=headers)
    assert field_of(answer) == oip.HEADER_LENGTH


@pytest.mark.parametrize(
    ("given", "data", "field"),
    [
        (raw(), TWO.tobytes()[:-1], "inputs[0].parameters.binary_data_size"),
        (raw(), TWO.tobytes() + b"x", "body"),
        (raw(size=7), TWO.tobytes()[:-1], "inputs[0].parameters.binary_data_size"),
        (raw(size=-8), TWO.tobytes(), "inputs[0].parameters.binary_data_size"),
        (raw(size=2**62), TWO.tobytes(), "inputs[0].parameters.binary_data_size"),
        (raw(size=2**80), TWO.tobytes(), "inputs[0].parameters.binary_data_size"),
        (raw(size="8"), TWO.tobytes(), "inputs[0].parameters.binary_data_size"),
        (raw(size=8.5), TWO.tobytes(), "inputs[0].parameters.binary_data_size"),
        (raw(size=None), b"", "inputs[0].data"),
        (raw() | {"data": [1, 2]}, TWO.tobytes(), "inputs[0].parameters.binary_data_size"),
        (raw(shape=(1, 3)), TWO.tobytes(), "inputs[0].parameters.binary_data_size"),
        (raw(shape=(2,)), TWO.tobytes(), "inputs[0].shape"),
        (raw(shape=(-1, -2)), TWO.tobytes(), "inputs[0].shape"),
        (raw(shape=(2**62, 2**62)), TWO.tobytes(), "inputs[0].parameters.binary_data_size"),
        (raw(shape=(0, 2**62), size=0), b"", "inputs[0].shape"),
        (raw(shape=(1,) * 17), TWO.tobytes(), "inputs[0].shape"),
        (raw(datatype="FP64", shape=(1,)), TWO.tobytes(), "inputs[0].datatype"),
        (raw("z", datatype="BF16"), TWO.tobytes(), "inputs[0].datatype"),
        (raw("z"), TWO.tobytes(), "inputs[0].name"),
        ({"name": "x", "datatype": "FP32", "shape": [1, 2],
          "parameters": {"shared_memory_region": "r"}}, b"",
         "inputs[0].parameters.shared_memory_region"),
    ],
)  # fmt: skip
def test_raw_data_that_does_not_fit(
    platform: Platform, given: Any, data: bytes, field: str
) -> None:
    """Sizes that disagree with the body, the shape or the datatype: 400 that names the field."""
    assert field_of(post(platform, "double", {"inputs": [given]}, data)) == field


def test_other_refusals(platform: Platform) -> None:
    """Two inputs of one name, strange booleans, parameters that would change the meaning."""
    header: Any = {"inputs": [raw(), raw()]}
    assert field_of(post(platform, "double", header, TWO.tobytes() * 2)) == "inputs[1].name"
    header = {"inputs": [raw(datatype="BOOL", size=2)]}
    size = "inputs[0].parameters.binary_data_size"
    assert field_of(post(platform, "bools", header, b"\0\2")) == size
    header = {"inputs": [raw()], "outputs": [{"name": "y", "parameters": {"classification": 3}}]}
    wanted = "outputs[0].parameters.classification"
    assert field_of(post(platform, "double", header, TWO.tobytes())) == wanted
    answer = platform.http.post("/v2/models/double/infer", json={"inputs": [raw()]})
    assert field_of(answer) == size
    assert oip.HEADER_LENGTH in answer.json()["error"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "identity, gzip", "x"])
def test_encoded_bodies_are_refused(platform: Platform, encoding: str) -> None:
    """415 names the header; `identity` is no encoding."""
    url = "/v2/models/double/infer"
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}]}
    answer = platform.http.post(url, json=body, headers={"content-encoding": encoding})
    assert field_of(answer, 415) == "Content-Encoding"
    answer = platform.http.post(url, json=body, headers={"content-encoding": "identity"})
    assert answer.status_code == 200


def test_inputs_are_views_of_the_body() -> None:
    """Raw numbers are not copied, aligned or not, and cannot be written to."""
    header = json.dumps({"inputs": [raw(shape=(250_000,), size=1_000_000)]}).encode()
    body = header + bytes(1_000_000)
    key = KeyEntry(b"", "acme", "default", frozenset())
    caller = Caller(b"", "k", key, None)
    asked = oip.InferRequest(body, caller, "m", None, str(len(header)).encode())
    target: Any = _Target()
    ((name, array),) = asked.call.read(target)
    assert (name, array.shape) == ("x", (250_000,))
    owner = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    assert owner is body
    assert not array.flags.writeable


class _Target:
    """What reading inputs asks of a target."""

    def __init__(self) -> None:
        self.input_at: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}
        self.raw_only: set[str] = set()


def test_a_body_over_the_limit(platform: Platform) -> None:
    """One byte more than max_body_bytes is refused by size, JSON or not; as much is read."""
    limit = 1024 * 1024
    for size, status in ((limit, 400), (limit + 1, 413)):
        header = json.dumps({"inputs": [raw()]}).encode()
        answer = post(platform, "double", header, bytes(size - len(header)))
        assert (answer.status_code, field_of(answer, status)) == (status, "body")


def test_tritonclient_as_it_is(platform: Platform) -> None:
    """NVIDIA's client with its defaults: binary both ways, FP16 and BYTES too."""
    client = triton.InferenceServerClient(f"127.0.0.1:{platform.worker.port}")
    headers = {"authorization": f"Bearer {platform.key}"}

    def infer(model: str, values: Any, datatype: str, **more: Any) -> Any:
        given = triton.InferInput("x", list(values.shape), datatype)
        given.set_data_from_numpy(values)
        return client.infer(model, [given], headers=headers, **more)

    try:
        result = infer("scores", X, "FP32", request_id="7")
        np.testing.assert_allclose(result.as_numpy("y"), X @ models.WEIGHTS, rtol=1e-4)
        assert result.get_response()["id"] == "7"
        wanted = [triton.InferRequestedOutput("y")]
        result = infer("scores", X, "FP32", outputs=wanted)
        np.testing.assert_allclose(result.as_numpy("y"), X @ models.WEIGHTS, rtol=1e-4)
        halves = np.array([1.5, np.inf], np.float16)
        assert infer("halves", halves, "FP16").as_numpy("y").tolist() == halves.tolist()
        words = np.array([b"", "né".encode()], object)
        assert infer("texts", words, "BYTES").as_numpy("y").tolist() == words.tolist()
        with pytest.raises(triton.InferenceServerException, match="no model"):
            infer("absent", X, "FP32")
        for how in ("gzip", "deflate"):
            with pytest.raises(triton.InferenceServerException, match="Content-Encoding"):
                infer("scores", X, "FP32", request_compression_algorithm=how)
    finally:
        client.close()


def test_bytes_that_json_cannot_carry() -> None:
    """An output that is no text is refused with the way out."""
    from meuse.gateway import jsontensor
    from meuse.serve import strings

    with pytest.raises(MeuseError) as caught:
        jsontensor.written(strings.array_of([b"\xff"], (1,)), "y")
    assert "output 'y'" in str(caught.value)
    assert "binary" in str(caught.value)


def test_strings_of_several_callers_are_not_mixed_up(platform: Platform) -> None:
    """Batched in the replica or not, each gets its own strings back."""

    def ask(i: int) -> bool:
        words = [f"{i}-{j}" * (j + 1) for j in range(i % 5 + 1)]
        tensor = {"name": "x", "datatype": "BYTES", "shape": [len(words)], "data": words}
        body = {"inputs": [tensor]}
        answer = platform.http.post("/v2/models/texts/infer", json=body).json()
        return bool(answer["outputs"][0]["data"] == words)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(ask, range(200)))


@pytest.mark.parametrize("megabytes", [1, 3, 12])
def test_large_tensors_are_shared(rig: Rig, megabytes: int) -> None:
    """Beyond a megabyte tensors go through sealed memory, both ways; the answer is the same, and
    nothing of them stays: neither in a descriptor nor in memory that grows."""
    key = rig.key("acme")
    process = rig.replica("big", "big:1", models.doubled(), max_rows=4)
    rig.deploy("acme/big", target("big:1", models.doubled(), ["big"]))
    rig.publish()
    worker = rig.worker(max_body_bytes=64 << 20)
    rows = megabytes * 1024 * 1024 // 8 + 3
    x = np.arange(2 * rows, dtype=np.float32).reshape(rows, 2)
    body = json.dumps(
        {
            "inputs": [
                {
                    "name": "x", "shape": [rows, 2], "datatype": "FP32",
                    "parameters": {"binary_data_size": x.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
        }
    ).encode()  # fmt: skip
    headers = {
        "authorization": f"Bearer {key}",
        "inference-header-content-length": str(len(body)),
    }
    shared = []
    with httpx.Client(base_url=worker.url, headers=headers, timeout=60) as client:
        for _ in range(4):
            answer = client.post("/v2/models/big/infer", content=body + x.tobytes())
            assert answer.status_code == 200, answer.text
            head = int(answer.headers["inference-header-content-length"])
            y = np.frombuffer(answer.content[head:], np.float32).reshape(rows, 2)
            assert np.array_equal(y, 2 * x)
            shared.append([sealed(p.pid) for p in (process, worker.process)])
    assert shared[-1] == shared[1], shared
    assert (rig.sockets / "big.fds").exists()
