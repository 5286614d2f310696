"""Runs kserve's inference clients: `kserve_client.py <json>`; prints what they saw as JSON.

In a process of its own: its generated messages and tritonclient's do not share one. kserve's
package itself imports Kubernetes and a model server, so the clients are imported without it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import sys
import types
from typing import Any

import grpc
import httpx
import numpy as np


def clients() -> tuple[Any, Any]:
    """The modules kserve.inference_client and kserve.protocol.infer_type."""
    spec = importlib.util.find_spec("kserve")
    assert spec is not None
    package = types.ModuleType("kserve")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules["kserve"] = package
    return (
        importlib.import_module("kserve.inference_client"),
        importlib.import_module("kserve.protocol.infer_type"),
    )


async def over_rest(given: dict[str, Any], client: Any, kinds: Any, rows: Any) -> dict[str, Any]:
    url, model = given["url"], given["model"]
    headers = {"authorization": f"Bearer {given['key']}"}
    rest = client.InferenceRESTClient(client.RESTConfig(protocol="v2", retries=0))
    seen: dict[str, Any] = {
        "live": await rest.is_server_live(url),
        "ready": await rest.is_server_ready(url),
        "model_ready": await rest.is_model_ready(url, model, headers=headers),
    }
    for name, binary in (("json", False), ("binary", True)):
        tensor = kinds.InferInput("input", list(rows.shape), "FP32")
        tensor.set_data_from_numpy(rows, binary_data=binary)
        wanted = [kinds.RequestedOutput("label", {"binary_data": binary})]
        request = kinds.InferRequest(model, [tensor], request_id=name, request_outputs=wanted)
        answer = await rest.infer(url, request, model_name=model, headers=dict(headers))
        seen[name] = [answer.id, answer.outputs[0].as_numpy().tolist()]
    try:
        await rest.infer(url, request, model_name="nothing", headers=dict(headers))
    except httpx.HTTPStatusError as error:
        seen["error"] = [error.response.status_code, str(error)]
    await rest.close()
    return seen


async def over_grpc(given: dict[str, Any], client: Any, kinds: Any, rows: Any) -> dict[str, Any]:
    model, headers = given["model"], [("authorization", f"Bearer {given['key']}")]
    async with client.InferenceGRPCClient(given["grpc"], retries=2) as rpc:
        seen: dict[str, Any] = {
            "live": await rpc.is_server_live(),
            "ready": await rpc.is_server_ready(),
            "model_ready": await rpc.is_model_ready(model, headers=headers),
        }
        for name, binary in (("json", False), ("binary", True)):
            tensor = kinds.InferInput("input", list(rows.shape), "FP32")
            tensor.set_data_from_numpy(rows, binary_data=binary)
            request = kinds.InferRequest(model, [tensor], request_id=name)
            answer = await rpc.infer(request, headers=headers)
            label = answer.get_output_by_name("label")
            seen[name] = [answer.id, label.as_numpy().tolist()]
        try:
            await rpc.infer(kinds.InferRequest("nothing", [tensor]), headers=headers)
        except grpc.RpcError as error:
            seen["error"] = [error.code().name, error.details()]
    return seen


async def main() -> None:
    given = json.loads(sys.argv[1])
    client, kinds = clients()
    rows = np.array(given["rows"], np.float32)
    seen = {
        "rest": await over_rest(given, client, kinds, rows),
        "grpc": await over_grpc(given, client, kinds, rows),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    asyncio.run(main())
