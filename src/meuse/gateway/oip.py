"""Open Inference Protocol v2 over REST, JSON only: bytes to calls, results to bytes.

`{m}` is a deployment, a version one of its targets. The binary tensor extension is not served.
"""

from __future__ import annotations

from typing import Any

import msgspec

from meuse.core.errors import Code, MeuseError
from meuse.core.version import __version__
from meuse.gateway import jsontensor
from meuse.gateway.body import decode
from meuse.gateway.dataplane import Call, Inputs, Result
from meuse.gateway.routes import Caller, Headers, Target
from meuse.serve.frames import DATATYPES, MAX_RANK
from meuse.serve.snapshot import TensorEntry


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Output(msgspec.Struct):
    name: str


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Output] | None = None


_request = msgspec.json.Decoder(_Request)
_encode = msgspec.json.Encoder().encode


class InferRequest:
    """One `…/infer` request: what it asks, and how its answer is dressed."""

    def __init__(
        self,
        body: bytes,
        caller: Caller,
        model: str,
        version: str | None,
        headers: Headers = (),
    ) -> None:
        self._request = decode(_request, body)
        self._model = model
        self.call = Call(caller, model, version, "oip-rest", self._read, headers=headers)

    def _read(self, target: Target) -> Inputs:
        for i, output in enumerate(self._request.outputs or ()):
            if output.name not in target.outputs:
                raise no_output(i, output.name, target)
        inputs = []
        for i, given in enumerate(self._request.inputs):
            spec = target.input_at.get(given.name)
            # An unknown name or another datatype is refused by the data plane, with a hint.
            datatype = given.datatype if spec is None else spec.datatype
            if given.datatype != datatype:
                raise wrong_datatype(i, given.name, given.datatype, datatype)
            inputs.append((given.name, _tensor(given, i)))
        return inputs

    def write(self, result: Result) -> bytes:
        """NaN and infinities are written as null: JSON has no other word for them."""
        outputs = result.outputs
        if self._request.outputs:
            by_name = dict(outputs)
            outputs = [(o.name, by_name[o.name]) for o in self._request.outputs]
        answer: dict[str, Any] = {
            "model_name": self._model,
            "model_version": result.target.label,
            "outputs": [
                {
                    "name": name,
                    "shape": array.shape,
                    "datatype": DATATYPES[array.dtype],
                    "data": array.ravel().tolist(),
                }
                for name, array in outputs
            ],
        }
        if self._request.id is not None:
            answer["id"] = self._request.id
        return _encode(answer)


def _tensor(given: _Input, i: int) -> Any:
    if len(given.shape) > MAX_RANK or any(n < 0 for n in given.shape):
        raise MeuseError(
            Code.INVALID_INPUT,
            f"{given.shape} is not a shape",
            field=f"inputs[{i}].shape",
            hint=f"At most {MAX_RANK} dimensions, none negative.",
        )
    if given.data is msgspec.UNSET:
        raise MeuseError(
            Code.INVALID_INPUT,
            "data is missing",
            field=f"inputs[{i}].data",
            hint="Send the values as JSON; binary tensors are not served here.",
        )
    raw = bytes(given.data)
    return jsontensor.tensor(raw, given.datatype, given.shape, f"inputs[{i}].data")


def wrong_datatype(i: int, name: str, got: str, expected: str) -> MeuseError:
    return MeuseError(
        Code.INVALID_INPUT,
        f"got {got} for {name!r}",
        field=f"inputs[{i}].datatype",
        hint=f"Expected: {expected}.",
    )


def no_output(i: int, name: str, target: Target) -> MeuseError:
    return MeuseError(
        Code.INVALID_INPUT,
        f"the model has no output {name!r}",
        field=f"outputs[{i}].name",
        hint=f"Outputs: {', '.join(target.outputs)}.",
    )


def server_metadata() -> dict[str, Any]:
    """What `GET /v2` and `ServerMetadata` say."""
    return {"name": "meuse", "version": __version__, "extensions": []}


def model_metadata(model: str, target: Target) -> dict[str, Any]:
    """What a deployment takes and gives, under the name that the caller used."""

    def tensors(specs: tuple[TensorEntry, ...]) -> list[dict[str, Any]]:
        return [{"name": s.name, "datatype": s.datatype, "shape": list(s.shape)} for s in specs]

    return {
        "name": model,
        "versions": [other.label for other in target.route.targets],
        "platform": target.entry.platform,
        "inputs": tensors(target.entry.inputs),
        "outputs": tensors(target.entry.outputs),
    }
