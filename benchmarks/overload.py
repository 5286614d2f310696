"""Overload: a model of 5 ms a row at batch 1, offered three times what it can do.

The knee is the highest goodput (answers within the objective, per second) over a ladder of
open-loop rates around the closed-loop capacity. Then 3× the knee is offered while another
tenant calls its own deployment at a modest rate; both are open loop, so nothing that waits
anywhere is left out.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import bodies
import clients
import numpy as np
import onnxruntime
import ours
from bodies import Array
from clients import OpenLoop
from onnx import TensorProto, helper, numpy_helper

ROW_MS = 5.0
OBJECTIVE_MS = 100
TIMEOUT_MS = 80
"""The deployment's deadline: the objective less what the way there and back may take."""
NEIGHBOUR_OBJECTIVE_MS = 50
NEIGHBOUR_RATE = 100.0
LADDER = (0.7, 0.8, 0.9, 1.0)
_WIDTH, _COPIES = 64, 256


def chain(layers: int) -> bytes:
    """input FP32 [n, 64] → output FP32 [n, 64]: `layers` rotations of 256 copies of a row."""
    random = np.random.default_rng(5)
    rotation = np.linalg.qr(random.normal(size=(_WIDTH, _WIDTH)))[0].astype(np.float32)
    nodes = [
        helper.make_node("Unsqueeze", ["input", "axis"], ["one"]),
        helper.make_node("Tile", ["one", "copies"], ["t0"]),
        *(helper.make_node("MatMul", [f"t{i}", "rotation"], [f"t{i + 1}"]) for i in range(layers)),
        helper.make_node("ReduceMean", [f"t{layers}"], ["output"], axes=[1], keepdims=0),
    ]
    weights: dict[str, Array] = {
        "rotation": rotation,
        "axis": np.array([1], np.int64),
        "copies": np.array([1, _COPIES, 1], np.int64),
    }
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", _WIDTH])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["n", _WIDTH])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


def _row_ms(onnx: bytes, row: Array) -> float:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
    taken = []
    for _ in range(20):
        began = time.perf_counter()
        session.run(None, {"input": row})
        taken.append(time.perf_counter() - began)
    return sorted(taken)[len(taken) // 2] * 1000


def slow(ms: float = ROW_MS) -> tuple[bytes, Array]:
    """A model that takes about `ms` a row on this machine, and a row for it."""
    row = np.random.default_rng(6).normal(size=(1, _WIDTH)).astype(np.float32)
    layers = 64
    for _ in range(2):
        layers = max(round(layers * ms / _row_ms(chain(layers), row)), 1)
    return chain(layers), row


def measure(platform: ours.Platform, mlp: bodies.Model, reference: str, folder: Path) -> Any:
    """Knee, goodput at 3× the knee, and the neighbour's p99. Raises NotAvailableError."""
    onnx, row = slow()
    model = bodies.open_model("slow", onnx, {"input": row}, folder)
    platform.client.put_tenant("neighbour")
    key = platform.client.make_key("neighbour", ["infer"], tenant="neighbour")["key"]
    try:
        version = ours.register(platform, "slow", onnx)
        ours.deploy(
            platform,
            "slow",
            version,
            objective_ms=TIMEOUT_MS,
            timeout_ms=TIMEOUT_MS,
            batching={"max_rows": 1},
        )
        ours.deploy(
            platform,
            "neighbour",
            reference,
            objective_ms=NEIGHBOUR_OBJECTIVE_MS,
            access={"tenants": ["neighbour"]},
        )
        return _measured(platform, ours.server(platform, model, "slow"), mlp, key)
    finally:
        ours.remove(platform, "slow")
        ours.remove(platform, "neighbour")


def _measured(platform: ours.Platform, server: Any, mlp: bodies.Model, key: str) -> Any:
    headers = platform.headers(key)
    call = bodies.simple("/predictions/default/neighbour", mlp).with_headers(headers)
    clients.once(platform.port, call, mlp, 10.0)

    def offered(rate: float, seconds: float) -> OpenLoop:
        return OpenLoop(platform.port, server.json, rate, seconds, objective_s=OBJECTIVE_MS / 1000)

    def beside(seconds: float) -> OpenLoop:
        objective = NEIGHBOUR_OBJECTIVE_MS / 1000
        return OpenLoop(platform.port, call, NEIGHBOUR_RATE, seconds, objective_s=objective)

    capacity = clients.closed(platform.port, server.json, server.group, 3.0, 4)["rate"]
    ladder = [offered(capacity * part, 4.0).figures() for part in LADDER]
    knee = max(step["goodput"] for step in ladder)
    quiet = beside(4.0).figures()
    crowd, neighbour = offered(3 * knee, 8.0), beside(8.0)
    crowd_figures = crowd.figures()
    return {
        "capacity": capacity,
        "ladder": ladder,
        "knee": knee,
        "overload": crowd_figures,
        "goodput_ratio": crowd_figures["goodput"] / knee if knee else 0.0,
        "objective_ms": OBJECTIVE_MS,
        "neighbour_quiet": quiet,
        "neighbour": neighbour.figures(),
        "neighbour_objective_ms": NEIGHBOUR_OBJECTIVE_MS,
    }
