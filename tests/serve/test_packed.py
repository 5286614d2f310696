"""The packed format: bit for bit what went in, small, and safe to read whatever it holds."""

from __future__ import annotations

import lzma
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from meuse.core.errors import Code, MeuseError
from meuse.serve import engines, packed
from meuse.serve.packed import bits, sequences
from meuse.serve.packed.wire import Reader, number
from serve import models
from serve.conftest import Trained

DTYPES = (
    *(np.float32, np.float64, np.float16, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn),
    *(np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64),
    *(np.bool_, np.complex64, np.complex128, ml_dtypes.int4, ml_dtypes.uint4),
)


def model_of(*weights: NDArray[Any]) -> bytes:
    """x → y, the same, beside weights that nothing uses."""
    model = onnx.load_from_string(models.identity(TensorProto.FLOAT, ["n"]))
    tensors = [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)]
    model.graph.initializer.extend(tensors)
    return bytes(model.SerializeToString())


def weights_of(model: bytes) -> list[tuple[str, int, tuple[int, ...], bytes]]:
    """Of every weight its name, type, shape and bits, from which field it may come."""
    found = []
    for tensor in onnx.load_from_string(model).graph.initializer:
        raw = numpy_helper.from_array(numpy_helper.to_array(tensor)).raw_data
        found.append((tensor.name, tensor.data_type, tuple(tensor.dims), raw))
    return found


@st.composite
def weights(draw: st.DrawFn) -> NDArray[Any]:
    """Any dtype and shape, empty ones too; few or many values, many or no zeros, any bits."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    shape = tuple(draw(st.lists(st.integers(0, 40), max_size=3)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = draw(st.sampled_from((1, 2, 3, 17, 300, 70_000)))
    if dtype in (np.bool_, ml_dtypes.int4, ml_dtypes.uint4):
        book = rng.integers(0, 2 if dtype == np.bool_ else 8, kinds).astype(dtype)
    else:
        book = np.frombuffer(rng.bytes(kinds * dtype.itemsize), dtype)
    found = np.asarray(book[rng.integers(0, kinds, shape)])
    found[rng.random(shape) < draw(st.sampled_from((0, 0.5, 0.97, 1)))] = 0
    return found


@settings(max_examples=120, deadline=None)
@given(st.lists(weights(), max_size=4))
def test_what_was_packed_comes_back_bit_for_bit(given_: list[NDArray[Any]]) -> None:
    """Weights of any type, shape and bits, and the graph around them."""
    model = model_of(*given_, *given_[:1])
    again = packed.unpack(packed.pack(model))
    assert weights_of(again) == weights_of(model)
    graphs = [onnx.load_from_string(m).graph for m in (model, again)]
    assert graphs[0].node == graphs[1].node
    assert graphs[0].input == graphs[1].input


def test_odd_floats_keep_their_bits() -> None:
    """Negative zero, infinities, NaNs with a payload, denormals."""
    odd = np.array([-0.0, 0.0, np.inf, -np.inf, np.nan, 1e-45], np.float32)
    odd = np.concatenate([odd, np.array([0x7FC00123], np.uint32).view(np.float32)])
    model = model_of(np.tile(odd, 50), np.where(np.arange(900) % 90, np.float32(0), -0.0))
    assert packed.unpack(packed.pack(model)) == model


def test_fields_of_numbers_are_packed_too() -> None:
    """Weights need not be in `raw_data`."""
    model = onnx.load_from_string(models.identity(TensorProto.FLOAT, ["n"]))
    values = np.arange(64, dtype=np.float32)
    for kind in (TensorProto.FLOAT, TensorProto.INT64, TensorProto.FLOAT16):
        name = TensorProto.DataType.Name(kind)
        model.graph.initializer.append(onnx.helper.make_tensor(name, kind, [8, 8], values))
    data = bytes(model.SerializeToString())
    assert weights_of(packed.unpack(packed.pack(data))) == weights_of(data)


def pruned(shape: tuple[int, int], kept: float, values: int, seed: int = 0) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    book = np.sort(rng.normal(size=values)).astype(np.float32)
    found = book[rng.integers(0, values, shape)]
    found[rng.random(shape) >= kept] = 0
    return found


def entropy_bytes(weight: NDArray[Any]) -> float:
    """Shannon's bound for independent weights of these frequencies."""
    _, counts = np.unique(weight, return_counts=True)
    shares = counts / weight.size
    return float(-(shares * np.log2(shares)).sum() * weight.size / 8)


@pytest.mark.parametrize("kept", [0.04, 0.3, 1.0])
@pytest.mark.parametrize("values", [8, 16, 256])
def test_a_weight_takes_little_more_than_its_entropy(kept: float, values: int) -> None:
    """At most 4 % and the codebook above what no code of single weights goes below."""
    weight = pruned((400, 500), kept, values)
    size = packed.sizes(model_of(weight))["w0"]
    assert size <= 1.04 * entropy_bytes(weight) + 4 * values + values / 2 + 40


def test_codes_are_really_packed() -> None:
    """16 equally frequent values take four bits each."""
    weight = np.resize(np.arange(16, dtype=np.float32), 40_000)
    size = packed.sizes(model_of(np.random.default_rng(0).permutation(weight)))["w0"]
    assert 20_000 <= size <= 20_000 + 100


def test_what_is_shared_is_stored_once() -> None:
    """A tied weight, and a codebook of several layers."""
    one, other = pruned((200, 200), 0.1, 256), pruned((200, 200), 0.1, 256, 1)
    other[other != 0] = np.random.default_rng(2).choice(
        np.unique(one[one != 0]), (other != 0).sum()
    )
    found = packed.sizes(model_of(one, one, other))
    assert found["w1"] < 8
    assert found["w2"] < found["w0"] - 900  # its 1,024 bytes of values
    again = packed.unpack(packed.pack(model_of(one, one, other)))
    assert again == model_of(one, one, other)


def test_columns_are_tried_as_well() -> None:
    """Inputs that no unit uses cost nothing in the order by columns."""
    weight = pruned((300, 400), 1.0, 8)
    weight[:, np.random.default_rng(1).permutation(400)[:360]] = 0
    size = packed.sizes(model_of(weight))["w0"]
    assert size < 1.1 * 300 * 40 * 3 / 8 + 1700  # three bits each, a bit for "the next one"


def test_a_large_weight_comes_back() -> None:
    """A million weights, more than is decoded at once."""
    model = model_of(pruned((1000, 1000), 0.05, 16))
    data = packed.pack(model)
    assert len(data) < len(model) / 55
    assert packed.unpack(data) == model


# What is damaged or hostile


def signed(body: bytes) -> bytes:
    """A file whose checksum is right, whatever its body."""
    return packed.MAGIC + zlib.crc32(body).to_bytes(4, "little") + body


SAMPLE = packed.pack(
    model_of(
        pruned((60, 50), 0.1, 8),
        pruned((40, 50), 1.0, 8),
        np.random.default_rng(3).normal(size=(9, 50)).astype(np.float32),
        pruned((60, 50), 0.1, 8),
    )
)


def refused(data: bytes) -> MeuseError:
    with pytest.raises(MeuseError) as caught:
        packed.unpack(data)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
    return caught.value


def tried(data: bytes) -> None:
    """Either it unpacks, or it is refused; and its memory stays small."""
    with suppress(MeuseError):
        packed.unpack(data)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(SAMPLE) - 1))
def test_a_truncated_file_is_refused(length: int) -> None:
    refused(SAMPLE[:length])
    refused(signed(SAMPLE[8:length]))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 8 * len(SAMPLE) - 1))
def test_a_flipped_bit_is_refused(place: int) -> None:
    data = bytearray(SAMPLE)
    data[place // 8] ^= 1 << place % 8
    refused(bytes(data))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(8, len(SAMPLE) - 1), st.integers(0, 255)), min_size=1))
def test_a_forged_file_never_crashes(changes: list[tuple[int, int]]) -> None:
    """Any bytes changed, the checksum made right."""
    data = bytearray(SAMPLE)
    for place, value in changes:
        data[place] = value
    tried(signed(bytes(data[8:])))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_junk_never_crashes(junk: bytes) -> None:
    refused(junk)
    tried(signed(junk))


def forged(dims: list[int], encoding: int, body: bytes, kind: int = TensorProto.FLOAT) -> bytes:
    """A file with one weight of this shape and body."""
    model = onnx.load_from_string(models.identity(TensorProto.FLOAT, ["n"]))
    model.graph.initializer.add(name="w", data_type=kind, dims=dims)
    graph = model.SerializeToString()
    stored = number(len(graph)) + b"\0" + number(len(graph)) + graph
    return signed(stored + number(1) + number(0) + bytes((encoding,)) + number(len(body)) + body)


LZMA = lzma.compress(bytes(1 << 28), lzma.FORMAT_RAW, filters=packed.tensors._FILTERS)
BOMBS: dict[str, Callable[[], bytes]] = {
    "huge shape": lambda: forged([1 << 40], 2, number(1) + bytes(4) + b"\0\0"),
    "shape that overflows": lambda: forged([1 << 62, 1 << 62], 2, number(1) + bytes(6)),
    "negative shape": lambda: forged([-1, 4], 0, b""),
    "all of it missing": lambda: forged([4 << 20], 0, b""),
    "constant of 4 GB": lambda: forged([1 << 30], 2, number(1) + bytes(4) + b"\0\0"),
    "deflated zeros": lambda: forged(
        [4, 4], 1, b"\1" + number(400) + zlib.compress(bytes(400_000))
    ),
    "lzma of zeros": lambda: forged([4, 4], 1, b"\2" + number(len(LZMA)) + LZMA),
    "skeleton of zeros": lambda: signed(number(1 << 40) + b"\2" + number(len(LZMA)) + LZMA),
    "endless number": lambda: signed(b"\xff" * 40),
    "tensor like a later one": lambda: forged([16], 4, number(3)),
    "codebook of a later one": lambda: forged([16], 2, number(0) + number(5) + b"\0\0"),
    "code outside": lambda: forged([16], 2, number(1) + bytes(4) + b"\0\1" + b"\xff\xff"),
    "more values than places": lambda: forged([4, 4], 3, bytes(5) + number(17) + b"\0\0"),
    "gap too wide": lambda: forged([4, 4], 3, bytes(5) + number(1) + b"\0\x20" + b"\xff" * 4),
    "unknown type": lambda: forged([4, 4], 0, bytes(64), kind=99),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused(name: str) -> None:
    """Nothing takes memory for what is not there; a file may unpack to 64 MB, not more."""
    data = BOMBS[name]()
    tracemalloc.start()
    refused(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20


def test_extremely_sparse_models_unpack_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """What shrinks by more than a reader allows is padded to what it allows."""
    monkeypatch.setattr(packed, "FREE", 100_000)
    model = model_of(np.zeros((1000, 1000), np.float32))
    data = packed.pack(model)
    assert 4000 <= len(data) < 4100
    assert packed.unpack(data) == model
    refused(data[:3000])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 300) | st.just(7)))
def test_sequences_come_back(numbers: list[int]) -> None:
    """Every code that is tried gives back its numbers."""
    given_ = np.array(numbers, np.int64)
    reader = Reader(sequences.write(given_))
    assert sequences.read(reader, len(given_)).tolist() == numbers
    reader.end()


@pytest.mark.parametrize("size", [1, 2, 8, 1000, 300_000])
def test_huffman_is_as_short_as_it_can_be(size: int) -> None:
    """Skewed symbols of many lengths, across the borders of what is decoded at once."""
    rng = np.random.default_rng(size)
    symbols = np.minimum(rng.geometric(0.3, size) - 1, 40).astype(np.int64)
    counts = np.bincount(symbols, minlength=2) + (np.arange(max(symbols.max() + 1, 2)) < 2)
    lengths = bits.code_lengths(counts)
    data = bits.huffman(symbols, lengths)
    assert len(data) == bits.bytes_of(int(lengths[symbols].astype(int).sum()))
    assert bits.read_huffman(data, lengths, size).tolist() == symbols.tolist()
    if size > 8:
        shares = counts / counts.sum()
        bound = -(shares[shares > 0] * np.log2(shares[shares > 0])).sum()
        assert (lengths * shares).sum() <= bound + 0.1
        with pytest.raises(ValueError, match="cut off"):
            bits.read_huffman(data[:-1], lengths, size)


def test_codes_are_never_longer_than_a_table() -> None:
    """Counts like Fibonacci's numbers would give codes of 40 bits."""
    counts = np.array([1, 1] + [2**n for n in range(1, 39)], np.int64)
    lengths = bits.code_lengths(counts)
    assert 0 < lengths.min() <= lengths.max() <= bits.MAX_LENGTH
    symbols = np.arange(40)
    data = bits.huffman(symbols, lengths)
    assert bits.read_huffman(data, lengths, 40).tolist() == symbols.tolist()


# What serves it


def test_the_engine_answers_as_with_the_onnx_file(classifier: Trained) -> None:
    """Same signature, same answers to the last bit, a smaller file."""
    data = packed.pack(classifier.onnx)
    assert len(data) < len(classifier.onnx)
    plain, engine = engines.load("onnx", classifier.onnx), engines.load("packed", data)
    assert engine.signature == plain.signature
    inputs = {engine.signature.inputs[0].name: classifier.splits.test.frame.numbers[:5]}
    for name, value in plain.run(inputs).items():
        np.testing.assert_array_equal(engine.run(inputs)[name], value)


def test_what_is_no_model_is_not_packed() -> None:
    """Junk, and a model whose weights lie elsewhere."""
    model = onnx.load_from_string(models.scores())
    model.graph.initializer[0].ClearField("raw_data")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    for data in (b"junk", bytes(model.SerializeToString())):
        with pytest.raises(MeuseError) as caught:
            packed.pack(data)
        assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")
