"""Frames: round trips, and nothing but frames or `FrameError` from any bytes."""

from __future__ import annotations

import contextlib
import itertools
import math
import struct
import zlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meuse.serve import frames, strings
from meuse.serve.frames import (
    DTYPES,
    Decoder,
    Failure,
    Finished,
    FrameError,
    Generate,
    Hello,
    Part,
    Request,
    Response,
    Spec,
    Started,
    Tokens,
)

shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)
arrays = st.builds(
    lambda dtype, shape, seed: (
        np.random.default_rng(seed).integers(0, 2, shape).astype(DTYPES[dtype])
    ),
    st.sampled_from(sorted(DTYPES.keys() - {"BYTES"})),
    shapes,
    st.integers(0, 99),
) | st.builds(
    lambda shape, words: strings.array_of(
        itertools.islice(itertools.cycle(words), math.prod(shape)), shape
    ),
    shapes,
    st.lists(st.binary(max_size=9), min_size=1, max_size=5),
)
tensor_lists = st.lists(st.tuples(st.text(max_size=8), arrays), max_size=4)
numbers = st.integers(0, 2**63 - 1)


def specs(tensors: list[tuple[str, Any]]) -> tuple[Spec, ...]:
    return tuple(frames.spec_of(name, array) for name, array in tensors)


counts = st.integers(-1, 2**53)
words = st.text(max_size=20)
parts = st.builds(
    Part, numbers, st.integers(0, 15), counts, words, st.binary(max_size=9), st.binary(max_size=9)
)
failures = st.none() | st.builds(Failure, st.text(max_size=9), st.text(max_size=9))
generation = st.one_of(
    st.builds(Generate, numbers, st.binary(min_size=16, max_size=16), numbers, st.binary()),
    st.builds(Started, numbers, counts, counts),
    st.builds(Tokens, st.lists(parts, max_size=4).map(tuple)),
    st.builds(
        Finished,
        numbers,
        st.lists(st.sampled_from(["stop", "length", "tool_calls", ""]), max_size=3).map(tuple),
        *[counts] * 6,
        failures,
    ),
)
messages = st.one_of(
    st.tuples(generation, st.just([])),
    st.tuples(st.builds(Hello, st.text(max_size=20), st.text(max_size=20), numbers), st.just([])),
    tensor_lists.flatmap(
        lambda ts: st.tuples(
            st.builds(
                Request,
                numbers,
                st.binary(min_size=16, max_size=16),
                numbers,
                st.booleans(),
                st.just(specs(ts)),
            ),
            st.just([a for _, a in ts]),
        )
    ),
    tensor_lists.flatmap(
        lambda ts: st.tuples(
            st.builds(
                Response,
                numbers,
                st.just(specs(ts)),
                numbers,
                numbers,
                numbers,
                failures,
            ),
            st.just([a for _, a in ts]),
        )
    ),
)


def wire(message: tuple[Any, list[Any]]) -> bytes:
    return b"".join(bytes(part) for part in frames.encode(*message))


def same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(
        a[0] == b[0]
        and all(
            x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a[1], b[1], strict=True)
        )
        for a, b in zip(left, right, strict=True)
    )


@given(st.lists(messages, min_size=1, max_size=4), st.lists(st.integers(0, 400), max_size=6))
def test_frames_survive_any_cutting(sent: list[Any], cuts: list[int]) -> None:
    """Whatever was encoded is decoded, however the socket cuts the stream."""
    stream = b"".join(wire(message) for message in sent)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder, got = Decoder(), []
    for start, end in itertools.pairwise(edges):
        got += decoder.feed(stream[start:end])
    assert same(sent, got)
    assert not decoder.partial


@given(messages, st.data())
def test_a_cut_frame_is_never_decoded(sent: Any, data: st.DataObject) -> None:
    """A frame that lacks bytes yields nothing."""
    stream = wire(sent)
    cut = data.draw(st.integers(0, len(stream) - 1))
    assert Decoder().feed(stream[:cut]) == []


@settings(max_examples=300)
@given(messages, st.data())
def test_a_flipped_byte_outside_the_payload_is_noticed(sent: Any, data: st.DataObject) -> None:
    """A changed prefix or header is refused or waited for; a changed payload changes values."""
    stream = bytearray(wire(sent))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] ^= data.draw(st.integers(1, 255))
    header_end = 12 + struct.unpack_from("<II", wire(sent))[1]
    try:
        got = Decoder().feed(bytes(stream))
    except FrameError:
        # Within a payload of BYTES there are lengths, which are checked.
        texts = any(a.dtype == strings.OBJECT for a in sent[1])
        assert at < header_end or texts
        return
    if at < header_end:
        # Only a larger total passes unnoticed, until the bytes it announces have come.
        assert got == []
        assert at < 4
    else:
        assert got[0][0] == sent[0]
        assert [a.shape for a in got[0][1]] == [a.shape for a in sent[1]]


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waited_for(noise: bytes) -> None:
    """Random bytes never raise anything but `FrameError`."""
    with contextlib.suppress(FrameError):
        assert Decoder().feed(noise) == []


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary(),
        lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=12,
    )
)
def test_other_headers_are_refused(value: Any) -> None:
    """A header that is well-formed msgpack but no frame raises `FrameError`."""
    body = msgspec.msgpack.encode(value)
    stream = struct.pack("<III", 8 + len(body), len(body), zlib.crc32(body)) + body
    with pytest.raises(FrameError):
        Decoder().feed(stream)


@pytest.mark.parametrize(
    ("datatype", "shape"),
    [
        ("FP32", (-1, 4)),
        ("FP32", (2**62,)),
        ("FP32", (1,) * 17),
        ("FP32", (5,)),
        ("FP32", (2**61, 0, 2**61)),
        ("FP32", (3,)),
        ("BYTES", (4,)),
        ("BYTES", (2**61,)),
        ("BF16", (4,)),
        ("object", (4,)),
    ],
)
def test_bad_tensors_are_refused(datatype: str, shape: tuple[int, ...]) -> None:
    """Sizes that do not fit the bytes, and datatypes that are not served."""
    body = msgspec.msgpack.encode(Request(1, b"u" * 16, 0, False, (Spec("x", datatype, shape),)))
    stream = struct.pack("<III", 8 + len(body) + 16, len(body), zlib.crc32(body)) + body + b"0" * 16
    with pytest.raises(FrameError):
        Decoder().feed(stream)


def test_sizes_are_limited_before_they_are_held() -> None:
    """A frame announced as too large is refused at its first four bytes, and never sent."""
    with pytest.raises(FrameError):
        Decoder(max_frame=1000).feed(struct.pack("<I", 1001))
    with pytest.raises(FrameError):
        frames.encode(Hello("r" * (frames.MAX_HEADER + 1), "v", 1))
    one = np.zeros(1, np.float64)
    huge = np.lib.stride_tricks.as_strided(one, (frames.MAX_FRAME,), (0,))
    with pytest.raises(FrameError):
        frames.encode(Response(1, (), 1, 1, 0), [huge])


@pytest.mark.parametrize("item", [None, "text", 3, b"a".join, np.zeros(2), bytearray(b"a")])
def test_only_bytes_are_sent_as_bytes(item: Any) -> None:
    """An array of other objects is no tensor: the frame is refused as a whole."""
    array = np.empty(2, object)
    array[:] = [b"a", b"b"]
    array[1] = item
    with pytest.raises(FrameError):
        frames.encode(Response(1, (), 1, 1, 0), [array])


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_sizes_are_those_of_the_frame(words: list[bytes]) -> None:
    """`size_of` is the length of `payload`, where `nbytes` counts pointers."""
    array = strings.array_of(words, (len(words),))
    assert frames.size_of(array) == len(frames.payload(array)) == sum(4 + len(w) for w in words)
    numbers = np.zeros((3, 5), np.float32)
    assert frames.size_of(numbers) == len(frames.payload(numbers)) == 60
