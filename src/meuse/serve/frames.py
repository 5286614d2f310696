"""Frames between gateway workers and replicas on a unix stream socket.

    u32 total | u32 header length | u32 CRC-32 of the header | msgpack header | tensor bytes

`total` counts what follows it; integers and tensors are little-endian, tensors row-major, in
the order of the header's specs; those of BYTES as `strings` has them. The CRC means that
nothing but payload values can ever be read wrongly. Decoding is strict: anything unexpected
raises `FrameError` and the connection is closed, never the process. Knows msgspec and numpy;
knows no socket.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from meuse.serve import strings

if TYPE_CHECKING:
    import asyncio

MAX_FRAME = 256 * 1024 * 1024
"""Largest frame, either way, in bytes."""
MAX_HEADER = 8 * 1024 * 1024
"""Largest header: it may carry a long conversation (`Generate.ask`)."""
MAX_TENSORS = 256
MAX_RANK = 16
_MAX_DIMENSION = 2**62
HIGH, NORMAL, LOW = 0, 1, 2
"""Priority classes."""
_JOINED = 256 * 1024

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": strings.OBJECT,
}
"""Open Inference datatypes that are served; elements of BYTES are `bytes` objects."""
DATATYPES: dict[np.dtype[Any], str] = {dtype: name for name, dtype in DTYPES.items()}

_PREFIX = struct.Struct("<III")
_AFTER_TOTAL = _PREFIX.size - 4


class FrameError(Exception):
    """Bytes that are no frame, or a frame that is too large to send."""


class Spec(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """One tensor of a frame; its bytes follow the header."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Failure(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """A `MeuseError` that crosses the socket."""

    code: str
    message: str
    field: str | None = None
    hint: str | None = None
    retry_after_s: int | None = None


class Hello(
    msgspec.Struct, array_like=True, frozen=True, tag_field="t", tag=1, forbid_unknown_fields=True
):
    """Replica → worker on connect. `credits`: how many requests may be unanswered."""

    replica: str
    version: str
    credits: int


class Request(
    msgspec.Struct, array_like=True, frozen=True, tag_field="t", tag=2, forbid_unknown_fields=True
):
    """Worker → replica. `number` is unique per connection, `id` is the usage id (16 bytes).

    Lower `priority` classes come first; within one, `flow`s (tenants) take turns.
    """

    number: int
    id: bytes
    deadline_ms: int
    alone: bool
    tensors: tuple[Spec, ...]
    priority: int = NORMAL
    flow: str = ""
    shared: int = 0  # bytes of tensors that are in shared memory (`sharing`), and not here


class Cancel(
    msgspec.Struct, array_like=True, frozen=True, tag_field="t", tag=4, forbid_unknown_fields=True
):
    """Worker → replica: nobody waits for this request any more. It is answered all the same."""

    number: int


class Response(
    msgspec.Struct, array_like=True, frozen=True, tag_field="t", tag=3, forbid_unknown_fields=True
):
    """Replica → worker. `depth`: requests still queued there when this was written.

    `queue_us`: from arrival to the start of its batch. `batch_rows` stands in the first answer
    of each batch that ran, so that sums over workers count every batch once.
    """

    number: int
    tensors: tuple[Spec, ...]
    rows: int
    compute_us: int
    depth: int
    error: Failure | None = None
    queue_us: int = 0
    batch_rows: int = 0
    shared: int = 0


class Attach(
    msgspec.Struct, array_like=True, frozen=True, tag_field="t", tag=5, forbid_unknown_fields=True
):
    """Worker → replica, once: the token that was said on the side socket."""

    token: bytes


class Generate(
    msgspec.Struct, array_like=True, frozen=True, tag_field="t", tag=6, forbid_unknown_fields=True
):
    """Worker → replica: produce text. `ask` is a `generation.messages.Ask`, as msgpack.

    Answered by one `Started`, any number of `Tokens`, and one `Finished`; by `Finished` alone
    where it is refused. `number`, `id`, `priority`, `flow` and `Cancel` as for `Request`.
    """

    number: int
    id: bytes
    deadline_ms: int
    ask: bytes
    priority: int = NORMAL
    flow: str = ""


class Started(
    msgspec.Struct, array_like=True, frozen=True, tag_field="t", tag=7, forbid_unknown_fields=True
):
    """Replica → worker: the prompt was read, and is about to be worked on. `cached_tokens` are
    those of `prompt_tokens` that need no work; -1 where the engine does not tell."""

    number: int
    prompt_tokens: int
    cached_tokens: int = -1


class Part(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """What choice `index` of request `number` has more: `text`, or calls of tools (`calls`, JSON
    as OpenAI's deltas have it). `tokens` is the running count over all choices of the request,
    so that whoever reads a part knows what was produced. `logprobs`: JSON as OpenAI's
    `choices[].logprobs.content` has it; empty where not asked for."""

    number: int
    index: int
    tokens: int
    text: str
    calls: bytes = b""
    logprobs: bytes = b""


class Tokens(
    msgspec.Struct, array_like=True, frozen=True, tag_field="t", tag=8, forbid_unknown_fields=True
):
    """Replica → worker: what one step of the engine gave to all requests of this connection."""

    parts: tuple[Part, ...]


class Finished(
    msgspec.Struct, array_like=True, frozen=True, tag_field="t", tag=9, forbid_unknown_fields=True
):
    """Replica → worker, the last word. `reasons`: why each choice ended, `stop`, `length` or
    `tool_calls`. The counts are what is billed, also with an `error`. `switches`: how often the
    engine changed adapters of which no worker was told before."""

    number: int
    reasons: tuple[str, ...]
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = -1
    queue_us: int = 0
    compute_us: int = 0
    depth: int = 0
    error: Failure | None = None
    switches: int = 0


Header = Hello | Request | Response | Cancel | Attach | Generate | Started | Tokens | Finished
_WITH_TENSORS = (Request, Response)
Fetch = Callable[[int, int], Any]
"""(number, bytes) → the shared memory of that frame. Raises `FrameError`."""
Tensors = list[NDArray[Any]]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Header).decode


def spec_of(name: str, array: NDArray[Any]) -> Spec:
    """The spec of an array whose dtype is one of `DTYPES`."""
    return Spec(name, DATATYPES[array.dtype], array.shape)


def size_of(array: NDArray[Any]) -> int:
    """How many bytes of a frame an array takes. Raises TypeError for objects without bytes."""
    return array.nbytes if array.dtype is not strings.OBJECT else strings.size(array)


def payload(array: NDArray[Any]) -> bytes | memoryview:
    """The bytes of an array in a frame: a view of a large one, a copy of a small one.

    Raises TypeError for objects that are not `bytes`, and `FrameError` for what no frame holds.
    """
    if array.dtype is strings.OBJECT:
        return strings.pack(array)
    if array.nbytes > 65536:
        if array.nbytes > MAX_FRAME:
            raise FrameError(f"a tensor of {array.nbytes} bytes is too large")
        return np.ascontiguousarray(array).data.cast("B")
    return array.tobytes()  # cheaper than a view


def encode(header: Header, tensors: Sequence[NDArray[Any]] = ()) -> list[Any]:
    """Buffers to write in this order; C-contiguous tensors are not copied.

    Raises `FrameError` for a frame that the other side would refuse.
    """
    body = _encode(header)
    size = len(body)
    total = _AFTER_TOTAL + size
    buffers: list[Any] = [body]
    try:
        for tensor in tensors:
            part = payload(tensor)
            total += len(part)
            buffers.append(part)
    except TypeError as error:
        raise FrameError(f"a BYTES tensor holds something else: {error}") from None
    if size > MAX_HEADER or total > MAX_FRAME:
        raise FrameError(f"a frame of {total} bytes (header {size}) is too large")
    buffers[0] = _PREFIX.pack(total, size, zlib.crc32(body)) + body
    return buffers


def write(transport: asyncio.Transport, buffers: Sequence[Any]) -> None:
    """Everything in one system call: small buffers joined, large ones as they are."""
    if sum([len(buffer) for buffer in buffers]) <= _JOINED:
        transport.write(b"".join(buffers))
    else:
        transport.writelines(buffers)


class Decoder:
    """Turns what a socket delivers into frames. One per connection; useless after an error.
    Without `fetch` a frame with shared tensors is an error."""

    def __init__(self, max_frame: int = MAX_FRAME, fetch: Fetch | None = None) -> None:
        self._max_frame = max_frame
        self.fetch = fetch
        self._pending = bytearray()
        self._needed = 4

    def feed(self, data: bytes) -> list[tuple[Header, Tensors]]:
        """Every frame that is complete now. Arrays are read-only views of received bytes."""
        frames: list[tuple[Header, Tensors]] = []
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return frames
            data = bytes(self._pending)
            self._pending.clear()
        start, end = 0, len(data)
        while end - start >= 4:
            total = int.from_bytes(data[start : start + 4], "little")
            if total > self._max_frame or total < _AFTER_TOTAL:
                raise FrameError(f"a frame of {total} bytes is not acceptable")
            if end - start - 4 < total:
                self._needed = total + 4
                break
            frames.append(_read(data, start, start + 4 + total, self.fetch))
            start += 4 + total
        else:
            self._needed = 4
        if start < end:
            self._pending += memoryview(data)[start:]
        return frames

    @property
    def partial(self) -> bool:
        """Whether bytes of an unfinished frame are held."""
        return bool(self._pending)


def aligned(offset: int) -> int:
    """Where the next tensor in shared memory begins."""
    return (offset + 63) & ~63


def _read(data: bytes, start: int, end: int, fetch: Fetch | None) -> tuple[Header, Tensors]:
    _, size, checksum = _PREFIX.unpack_from(data, start)
    offset = start + _PREFIX.size
    body = data[offset : offset + size]
    if offset + size > end or zlib.crc32(body) != checksum:
        raise FrameError("the header of a frame is damaged")
    try:
        header = _decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise FrameError(f"the header of a frame is not understood: {error}") from None
    offset += size
    tensors: Tensors = []
    if isinstance(header, _WITH_TENSORS):
        if header.shared:
            return header, _shared(header, offset == end, fetch)
        if len(header.tensors) > MAX_TENSORS:
            raise FrameError(f"a frame of {len(header.tensors)} tensors")
        if type(header) is Request and len(header.id) != 16:
            raise FrameError("a usage id has 16 bytes")
        for spec in header.tensors:
            array, offset = _tensor(data, offset, end, spec)
            tensors.append(array)
    if offset != end:
        raise FrameError(f"{end - offset} bytes follow the last tensor")
    return header, tensors


def _shared(header: Request | Response, alone: bool, fetch: Fetch | None) -> Tensors:
    if fetch is None or not alone or not 0 < header.shared <= MAX_FRAME:
        raise FrameError("a frame shares what it cannot")
    if len(header.tensors) > MAX_TENSORS:
        raise FrameError(f"a frame of {len(header.tensors)} tensors")
    if type(header) is Request and len(header.id) != 16:
        raise FrameError("a usage id has 16 bytes")
    memory = fetch(header.number, header.shared)
    tensors: Tensors = []
    offset = 0
    for spec in header.tensors:
        if spec.datatype == "BYTES":
            raise FrameError(f"tensor {spec.name!r}: BYTES are not shared")
        tensor, offset = _tensor(memory, aligned(offset), header.shared, spec)
        tensors.append(tensor)
    if offset != header.shared:
        raise FrameError(f"{header.shared} shared bytes, {offset} of them in tensors")
    return tensors


def _tensor(data: Any, offset: int, end: int, spec: Spec) -> tuple[NDArray[Any], int]:
    """One tensor, and where its bytes end."""
    dtype, shape = DTYPES.get(spec.datatype), spec.shape
    if dtype is None or len(shape) > MAX_RANK:
        raise FrameError(f"tensor {spec.name!r}: {spec.datatype} of shape {shape}")
    count = 1
    for n in shape:
        if not 0 <= n < _MAX_DIMENSION:
            raise FrameError(f"tensor {spec.name!r}: {spec.datatype} of shape {shape}")
        count *= n
    if count == 0:  # numpy refuses an offset at the very end, and some shapes such as (0, 2**61)
        try:
            return np.empty(shape, dtype), offset
        except ValueError:
            raise FrameError(f"tensor {spec.name!r}: shape {shape}") from None
    if dtype is strings.OBJECT:
        try:
            array, offset = strings.unpack(data, offset, end, count)
        except ValueError as error:
            raise FrameError(f"tensor {spec.name!r}: {error}") from None
        return array.reshape(shape), offset
    size = count * dtype.itemsize
    if size > end - offset:
        raise FrameError(f"tensor {spec.name!r} is cut short")
    return np.ndarray(shape, dtype, data, offset), offset + size
