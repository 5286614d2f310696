"""The format `packed`: an ONNX graph whose weights are stored in their shortest lossless form.

One file, described byte for byte in docs/packed.md: the graph without its weights, compressed,
then each weight: dense, as codes of a codebook, or sparse. Knows numpy and onnx; runs nothing.
"""

from __future__ import annotations

import math
import zlib
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, numpy_helper

from meuse.core.errors import Code, MeuseError
from meuse.serve.packed import tensors
from meuse.serve.packed.wire import Reader, block, number

MAGIC = b"MPK1"
SMALLEST = 16
"""Bytes of the smallest weight that is taken out of the graph."""
FREE = 64 << 20
EXPANSION = 1000
"""A file unpacks to at most `FREE` bytes, or to `EXPANSION` times its own."""
MOST = (1 << 31) - 1
"""Bytes of the largest ONNX file."""

# Bytes of a word. Types of less than a byte are rows of bytes; texts stay in the graph.
_WIDTHS = {
    **dict.fromkeys(("FLOAT", "INT32", "UINT32"), 4),
    **dict.fromkeys(("DOUBLE", "INT64", "UINT64", "COMPLEX64", "COMPLEX128"), 8),
    **dict.fromkeys(("FLOAT16", "BFLOAT16", "INT16", "UINT16"), 2),
}


def pack(model: bytes) -> bytes:
    """The packed file of a single-file ONNX model.

    Lossless: `unpack` gives a graph whose weights have the same bits. Raises `invalid_data`
    (field `model`) for what is no ONNX model, or keeps its weights in other files.
    """
    proto = _parsed(model)
    shared, parts, total, last = tensors.Shared(), [], 0, -1
    for index, tensor in enumerate(proto.graph.initializer):
        raw = _raw(tensor)
        if raw is None:
            continue
        width, columns = _width(tensor), _columns(tensor)
        encoding, body = tensors.write(tensors.words_of(raw, width), columns, shared)
        parts.append(number(index - last - 1) + bytes((encoding,)) + block(body))
        total, last = total + len(raw), index
        _clear(tensor)
    skeleton = proto.SerializeToString(deterministic=True)
    body = number(len(skeleton)) + tensors.shortest(skeleton) + number(len(parts))
    body += b"".join(parts)
    body += bytes(max(0, _least(total + len(skeleton)) - len(body) - 8))
    return MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


def unpack(data: bytes) -> bytes:
    """The ONNX model of a packed file.

    Takes memory for no more than `FREE` bytes or 1,000 times the file. Raises `invalid_data`
    (field `model`) for a file that is damaged or was made to be.
    """
    try:
        return _unpack(data)
    except (ValueError, DecodeError, OverflowError) as error:
        raise refusal(str(error)) from None


def _unpack(data: bytes) -> bytes:
    reader = Reader(data)
    if reader.take(4) != MAGIC:
        raise ValueError("it does not begin with MPK1")
    if int.from_bytes(reader.take(4), "little") != zlib.crc32(memoryview(data)[8:]):
        raise ValueError("its checksum is wrong")
    size = reader.number()
    _check_total(size, len(data))
    proto = onnx.ModelProto()
    proto.ParseFromString(tensors.expand(reader, size))
    places = proto.graph.initializer
    shared, total, index = tensors.Shared(), size, -1
    for _ in range(_bounded(reader.number(), len(places))):
        index = _bounded(index + 1 + reader.number(), len(places) - 1)
        encoding, body = reader.byte(), Reader(reader.block())
        tensor = places[index]
        if _has_data(tensor):
            raise ValueError("a weight stands twice")
        width = _width(tensor)
        count = _words(tensor, width)
        total += count * width
        _check_total(total, len(data))
        found = tensors.read(encoding, body, width, count, _columns(tensor), shared)
        tensor.raw_data = found.tobytes()
    if any(reader.take(reader.left)):
        raise ValueError("there is more than there should be")
    return bytes(proto.SerializeToString())


def sizes(model: bytes) -> dict[str, int]:
    """Bytes that each weight of an ONNX model takes in the packed file, by name."""
    proto, shared, found = _parsed(model), tensors.Shared(), {}
    for tensor in proto.graph.initializer:
        raw = _raw(tensor)
        if raw is not None:
            words = tensors.words_of(raw, _width(tensor))
            found[tensor.name] = len(tensors.write(words, _columns(tensor), shared)[1])
    return found


def refusal(reason: str) -> MeuseError:
    return MeuseError(
        Code.INVALID_DATA,
        f"not a packed model that can be unpacked: {reason}",
        field="model",
        hint="Pack the model anew.",
    )


def _parsed(model: bytes) -> Any:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(model)
    except DecodeError:
        raise MeuseError(Code.INVALID_DATA, "not an ONNX model", field="model") from None
    if any(t.data_location == TensorProto.EXTERNAL for t in proto.graph.initializer):
        raise MeuseError(
            Code.INVALID_DATA,
            "the model keeps weights in external files",
            field="model",
            hint="Save it as a single ONNX file.",
        )
    return proto


def _raw(tensor: Any) -> bytes | None:
    """The bytes of a weight as they are in `raw_data`; None where it stays in the graph."""
    if tensor.data_type in (TensorProto.STRING, TensorProto.UNDEFINED):
        return None
    if not tensor.HasField("raw_data"):
        try:
            tensor = numpy_helper.from_array(numpy_helper.to_array(tensor))
        except (TypeError, ValueError):
            return None
    raw = bytes(tensor.raw_data)
    width = _width(tensor)
    fits = len(raw) == _words(tensor, width) * width
    return raw if fits and len(raw) >= SMALLEST else None


def _clear(tensor: Any) -> None:
    for name in ("raw_data", "float_data", "int32_data", "int64_data", "double_data"):
        tensor.ClearField(name)
    tensor.ClearField("uint64_data")


def _has_data(tensor: Any) -> bool:
    names = {name.name for name, _ in tensor.ListFields()}
    return not names <= {"dims", "data_type", "name", "doc_string", "metadata_props"}


def _width(tensor: Any) -> int:
    return _WIDTHS.get(TensorProto.DataType.Name(tensor.data_type), 1)


def _words(tensor: Any, width: int) -> int:
    """Words of a weight, from its shape."""
    if any(size < 0 for size in tensor.dims):
        raise ValueError("a shape has a negative size")
    count: int = math.prod(tensor.dims)
    kind = TensorProto.DataType.Name(tensor.data_type)
    if kind == "COMPLEX128":
        return 2 * count
    bits = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}.get(kind, 8 * width)
    return -(-count * bits // (8 * width))


def _columns(tensor: Any) -> int:
    """Words in a row: whatever follows the first dimension; 0 where there is none."""
    width = _width(tensor)
    count = _words(tensor, width)
    rows = tensor.dims[0] if len(tensor.dims) > 1 else 0
    return count // rows if rows and count % rows == 0 else 0


def _least(total: int) -> int:
    """Bytes of the smallest file that may unpack to `total`."""
    return -(-total // EXPANSION) if total > FREE else 0


def _check_total(total: int, size: int) -> None:
    if total > max(FREE, EXPANSION * size) or total > MOST:
        raise ValueError(f"it unpacks to more than {EXPANSION} times its size")


def _bounded(value: int, most: int) -> int:
    if value > most:
        raise ValueError("it has more weights than its graph")
    return value
