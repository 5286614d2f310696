"""Open Inference Protocol v2 over REST: bytes to calls, results to bytes.

`{m}` is a deployment, a version one of its targets. Tensors are JSON, or follow the JSON as raw
bytes (Triton's binary tensor extension); then the JSON's size is said in `HEADER_LENGTH`, both
ways. Pure: no server, no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.version import __version__
from meuse.gateway import jsontensor, rawtensor
from meuse.gateway.body import decode
from meuse.gateway.dataplane import Call, DataPlane, Result
from meuse.gateway.rawtensor import JSON_NEVER, invalid
from meuse.gateway.routes import Caller, Headers, Target
from meuse.gateway.signature import Inputs
from meuse.gateway.statistics import described
from meuse.serve.frames import DATATYPES, MAX_RANK, payload
from meuse.serve.snapshot import TensorEntry

HEADER_LENGTH = "Inference-Header-Content-Length"
EXTENSIONS = ("binary_tensor_data", "statistics", "model_repository")
NOT_SERVED = ("shared_memory_region", "classification")
"""Parameters of tensors that would change what is meant, so they are not passed over."""


class _Parameters(msgspec.Struct):
    """Of one tensor. Parameters that nobody has defined are passed over."""

    binary_data_size: int | None = None
    binary_data: bool | None = None
    shared_memory_region: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    classification: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: _Parameters | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: _Parameters | None = None


class _Requested(msgspec.Struct):
    """Parameters of the whole request."""

    binary_data_output: bool = False


class _Request(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: _Requested | None = None


_request = msgspec.json.Decoder(_Request)
_encode = msgspec.json.Encoder().encode


class InferRequest:
    """One `…/infer` request: what it asks, and how its answer is dressed.

    `header` is the value of `HEADER_LENGTH`, None where the body is JSON alone.
    """

    def __init__(
        self,
        body: bytes,
        caller: Caller,
        model: str,
        version: str | None,
        header: bytes | None = None,
        headers: Headers = (),
    ) -> None:
        self._body = body
        self._model = model
        if header is None:
            self._request = decode(_request, body)
            self._starts = None
        else:
            length = _header_length(header, len(body))
            # A view: decoding does not copy, and what is kept of it are copies.
            self._request = decode(_request, memoryview(body)[:length])
            self._starts = _starts(self._request.inputs, length, len(body))
        _check_parameters("inputs", self._request.inputs, may_be_raw=header is not None)
        if self._request.outputs:
            _check_parameters("outputs", self._request.outputs)
            check_twice([output.name for output in self._request.outputs])
        self.call = Call(caller, model, version, "oip-rest", self._read, headers=headers)

    def _read(self, target: Target) -> Inputs:
        for i, output in enumerate(self._request.outputs or ()):
            if output.name not in target.outputs:
                raise no_output(i, output.name, target)
        if target.raw_only:
            self._check_half_floats(target)
        inputs = []
        for i, given in enumerate(self._request.inputs):
            spec = target.input_at.get(given.name)
            # An unknown name or another datatype is refused by the data plane, with a hint.
            datatype = given.datatype if spec is None else spec.datatype
            if given.datatype != datatype:
                raise wrong_datatype(i, given.name, given.datatype, datatype)
            inputs.append((given.name, self._tensor(given, i)))
        return inputs

    def _tensor(self, given: _Input, i: int) -> Any:
        shape = given.shape
        if len(shape) > MAX_RANK or (shape and min(shape) < 0):
            raise rawtensor.no_shape(shape, f"inputs[{i}].shape")
        if given.data is not msgspec.UNSET:
            if given.datatype in JSON_NEVER:
                raise invalid(
                    f"inputs[{i}].datatype",
                    f"{given.datatype} cannot be sent as JSON",
                    "Send it as binary data, or over gRPC.",
                )
            return jsontensor.tensor(bytes(given.data), given.datatype, shape, f"inputs[{i}].data")
        start = self._starts[i] if self._starts is not None else None
        if start is None:
            raise invalid(
                f"inputs[{i}].data",
                "data is missing",
                "Send the values as JSON, or as binary data with parameters.binary_data_size.",
            )
        dtype = rawtensor.dtype_of(given.datatype, f"inputs[{i}].datatype")
        size, field = _binary_size(given) or 0, f"inputs[{i}].parameters.binary_data_size"
        return rawtensor.tensor(
            self._body, start, size, dtype, tuple(shape), field, f"inputs[{i}].shape"
        )

    def _check_half_floats(self, target: Target) -> None:
        for i, (name, binary) in enumerate(self._wanted(list(target.outputs))):
            if name in target.raw_only and not binary:
                own = f"outputs[{i}].parameters.binary_data"
                raise invalid(
                    own if self._request.outputs else "parameters.binary_data_output",
                    f"output {name!r} is {target.outputs[name].datatype}, which JSON cannot carry",
                    "Ask for it as binary data, or over gRPC.",
                )

    def _wanted(self, names: list[str]) -> list[tuple[str, bool]]:
        """Name of each output of the answer, and whether it goes as raw bytes."""
        request = self._request
        binary = request.parameters is not None and request.parameters.binary_data_output
        if not request.outputs:
            return [(name, binary) for name in names]
        return [
            (o.name, binary if (own := _binary_data(o)) is None else own) for o in request.outputs
        ]

    def write(self, result: Result) -> tuple[bytes, int | None]:
        """The body, and the size of its JSON where raw bytes follow.

        NaN and infinities are written as null: JSON has no other word for them. As raw bytes
        they stay what they are.
        """
        request, parts = self._request, []
        if request.outputs or request.parameters is not None:
            by_name = dict(result.outputs)
            outputs = []
            for name, binary in self._wanted(list(by_name)):
                if binary:
                    parts.append(payload(by_name[name]))
                    outputs.append(_described(name, by_name[name], len(parts[-1])))
                else:
                    outputs.append(_written(name, by_name[name]))
        else:
            outputs = [_written(name, array) for name, array in result.outputs]
        answer: dict[str, Any] = {
            "model_name": self._model,
            "model_version": result.target.label,
            "outputs": outputs,
        }
        if request.id is not None:
            answer["id"] = request.id
        body = _encode(answer)
        return (b"".join([body, *parts]), len(body)) if parts else (body, None)


def _written(name: str, array: NDArray[Any]) -> dict[str, Any]:
    return {
        "name": name,
        "shape": array.shape,
        "datatype": DATATYPES[array.dtype],
        "data": jsontensor.written(array, name).ravel().tolist(),
    }


def _described(name: str, array: NDArray[Any], size: int) -> dict[str, Any]:
    return {
        "name": name,
        "shape": array.shape,
        "datatype": DATATYPES[array.dtype],
        "parameters": {"binary_data_size": size},
    }


def _header_length(header: bytes, size: int) -> int:
    """Raises `invalid_field` for what is no size of a JSON header within the body."""
    # Digits alone: int() would take signs, spaces and underscores too, and any length.
    length = int(header) if header.isdigit() and len(header) < 16 else 0
    if not 0 < length <= size:
        raise MeuseError(
            Code.INVALID_FIELD,
            f"{header[:64].decode('ascii', 'replace')!r} is not the size of a JSON header "
            f"within a body of {size} bytes",
            field=HEADER_LENGTH,
            hint="Bytes of JSON before the binary data; the body may have been cut short.",
        )
    return length


def _starts(inputs: list[_Input], start: int, end: int) -> list[int | None]:
    """Where the raw bytes of each input begin, None for one that is JSON."""
    starts: list[int | None] = []
    for i, given in enumerate(inputs):
        size = _binary_size(given)
        starts.append(None if size is None else start)
        field = f"inputs[{i}].parameters.binary_data_size"
        if size is None:
            continue
        if size < 0 or size > end - start:
            raise invalid(field, f"{size} bytes, but {end - start} are left in the body")
        if given.data is not msgspec.UNSET:
            raise invalid(field, "the data is given twice, as JSON and as binary data")
        start += size
    if start != end:
        raise invalid("body", f"{end - start} bytes follow the binary data of the last input")
    return starts


def _binary_size(given: _Input) -> int | None:
    return None if given.parameters is None else given.parameters.binary_data_size


def _binary_data(output: _Output) -> bool | None:
    return None if output.parameters is None else output.parameters.binary_data


def check_twice(names: list[str]) -> None:
    """Raises `invalid_input` when an output is asked for twice."""
    if len(set(names)) != len(names):
        i = next(i for i, name in enumerate(names) if name in names[:i])
        raise invalid(f"outputs[{i}].name", f"output {names[i]!r} is asked for twice")


def _check_parameters(
    what: str, tensors: Sequence[_Input | _Output], *, may_be_raw: bool = True
) -> None:
    for i, tensor in enumerate(tensors):
        parameters = tensor.parameters
        if parameters is None:
            continue
        for name in NOT_SERVED:
            if getattr(parameters, name) is not msgspec.UNSET:
                raise not_served(f"{what}[{i}]", name)
        if parameters.binary_data_size is not None and not may_be_raw:
            raise invalid(
                f"{what}[{i}].parameters.binary_data_size",
                f"the header {HEADER_LENGTH} is missing",
                "Say in it how many bytes of JSON come before the binary data.",
            )


def not_served(where: str, name: str) -> MeuseError:
    return invalid(
        f"{where}.parameters.{name}", f"{name} is not served", "Send and take whole tensors."
    )


def wrong_datatype(i: int, name: str, got: str, expected: str) -> MeuseError:
    return invalid(f"inputs[{i}].datatype", f"got {got} for {name!r}", f"Expected: {expected}.")


def no_output(i: int, name: str, target: Target) -> MeuseError:
    return invalid(
        f"outputs[{i}].name",
        f"the model has no output {name!r}",
        f"Outputs: {', '.join(target.outputs)}.",
    )


def server_metadata() -> dict[str, Any]:
    """What `GET /v2` and `ServerMetadata` say."""
    return {"name": "meuse", "version": __version__, "extensions": list(EXTENSIONS)}


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


def statistics(
    plane: DataPlane, caller: Caller, model: str | None = None, version: str | None = None
) -> list[dict[str, Any]]:
    """Triton's `model_stats`: of one deployment, of one of its versions, or of all."""
    if model is None:
        routes = plane.visible(caller)
        return [s for n, route in routes.items() for s in described(n, plane.statistics(route))]
    route = plane.route(caller, model)
    given = plane.statistics(route)
    if version:
        given = [given[route.targets.index(route.choose(version))]]
    return described(model, given)
