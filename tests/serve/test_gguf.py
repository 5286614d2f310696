"""A header is believed only where the file bears it out."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers_gguf import FIELDS, WEIGHTS, Weights, gguf, text, value
from meuse.core.errors import Code, MeuseError
from meuse.serve.gguf import Array, read

SOUND = gguf()


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gguf") / "model.gguf"


def test_what_a_sound_file_says(file: Path) -> None:
    file.write_bytes(SOUND)
    found = read(file)
    assert found.version == 3
    assert found.fields["general.architecture"] == "llama"
    assert found.fields["llama.context_length"] == 64
    assert found.fields["tokenizer.ggml.add_bos_token"] is False
    assert found.fields["tokenizer.ggml.tokens"] == Array(4)
    assert found.fields["tokenizer.ggml.scores"] == Array(4, (0.5, 0.25, 0.125, 0.0))
    first, second = found.tensors
    assert (first.name, first.type, first.shape) == ("token_embd.weight", "F32", (32, 4))
    assert (first.size, second.size) == (512, 128)
    assert second.start == first.start + first.size
    assert second.start + second.size == file.stat().st_size
    assert found.parameters == 32 * 4 + 32


def test_it_reads_what_the_gguf_package_writes(file: Path) -> None:
    import gguf as package
    import numpy as np

    writer = package.GGUFWriter(str(file), "llama")
    writer.add_context_length(128)
    writer.add_token_list(["a", "b"])
    writer.add_head_count_kv([1, 2])
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4, 64)).astype(np.float32)
    kind = package.GGMLQuantizationType.Q4_1
    writer.add_tensor("w", package.quantize(rows, kind), raw_dtype=kind)
    writer.add_tensor("b", rng.standard_normal(3).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read(file)
    reader = package.GGUFReader(str(file))
    assert [(t.name, t.shape, t.start, t.size) for t in found.tensors] == [
        (t.name, tuple(map(int, t.shape)), int(t.data_offset), int(t.n_bytes))
        for t in reader.tensors
    ]
    assert [t.type for t in found.tensors] == ["Q4_1", "F16"]
    assert found.fields["llama.attention.head_count_kv"] == Array(2, (1, 2))


def _with(**changes: Any) -> dict[str | bytes, Any]:
    return {**FIELDS, **{name.replace("__", "."): each for name, each in changes.items()}}


def _one(**changes: Any) -> list[Weights]:
    return [Weights(**{"name": "w", "shape": (32,), **changes})]


LIES: dict[str, tuple[bytes, str]] = {
    "magic": (gguf(magic=b"GGML"), "begins with"),
    "version": (gguf(version=1), "version 1 is not known"),
    "big endian": (gguf(version=0x03000000), "little-endian"),
    "empty": (b"", "too short"),
    "many tensors": (gguf(tensor_count=1 << 40), "at most 65,536"),
    "more tensors than bytes": (gguf((), (), tensor_count=60_000), "do not fit"),
    "more tensors than there are": (gguf(tensor_count=3), "byte"),
    "many keys": (gguf(key_count=1 << 60), "at most 4,096"),
    "fewer keys than there are": (gguf(key_count=3), "byte"),
    "key length": (gguf({b"x": b""}, ())[:24] + text("k", 1 << 40) + bytes(64), "a key of"),
    "key twice": (gguf([("a", 1), ("a", 1)]), "there twice"),
    "empty key": (gguf([("", 1)]), "empty"),
    "key no text": (gguf([(b"\xff\xfe", 1)]), "not UTF-8"),
    "value length": (gguf({"a": struct.pack("<I", 8) + text("x", 1 << 62)}), "the value of 'a'"),
    "value past the end": (gguf({"a": struct.pack("<I", 8) + text("x", 9999)}, ()), "more"),
    "value type": (gguf({"a": struct.pack("<II", 13, 0)}), "type 13"),
    "bool": (gguf({"a": struct.pack("<IB", 7, 2)}), "neither true nor false"),
    "array length": (gguf({"a": struct.pack("<IIQ", 9, 5, 1 << 61)}), "at most"),
    "array past the end": (gguf({"a": struct.pack("<IIQ", 9, 10, 4000)}, ()), "do not fit"),
    "texts past the end": (gguf({"a": struct.pack("<IIQ", 9, 8, 4000)}, ()), "do not fit"),
    "item length": (gguf({"a": struct.pack("<IIQQ", 9, 8, 1, 1 << 50)}), "an item of 'a'"),
    "array of arrays": (gguf({"a": struct.pack("<IIQ", 9, 9, 1) + value([1])}), "not read"),
    "alignment": (gguf(_with(general__alignment=7)), "general.alignment is 7"),
    "alignment of zero": (gguf(_with(general__alignment=0)), "general.alignment is 0"),
    "alignment a text": (gguf(_with(general__alignment="32")), "general.alignment is '32'"),
    "no dimensions": (gguf(tensors=_one(shape=())), "0 dimensions"),
    "dimensions": (gguf(tensors=_one(shape=(1,) * 5)), "5 dimensions"),
    "zero": (gguf(tensors=_one(shape=(0, 4))), "the shape [0, 4]"),
    "overflow": (gguf(tensors=_one(shape=(1 << 32, 1 << 32), content=b"")), "the shape"),
    "wraps to little": (gguf(tensors=_one(shape=((1 << 63), 2), content=b"")), "the shape"),
    "tensor type": (gguf(tensors=_one(type=77)), "type 77"),
    "block": (gguf(tensors=_one(shape=(33,), type=2)), "no multiple of 32"),
    "not aligned": (gguf(tensors=_one(offset=4)), "not aligned"),
    "past the end": (gguf(tensors=_one(offset=1 << 40)), "end at byte"),
    "past the end by far": (gguf(tensors=_one(offset=(1 << 64) - 32)), "end at byte"),
    "cut": (gguf(cut=1), "end at byte"),
    "overlap": (gguf(tensors=[WEIGHTS[0], Weights("v", (32,), offset=480)]), "overlap"),
    "same place": (gguf(tensors=[WEIGHTS[0], Weights("v", (32,), offset=0)]), "overlap"),
    "tensor twice": (gguf(tensors=[WEIGHTS[0], WEIGHTS[0]]), "two tensors"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused(lie: str, file: Path) -> None:
    content, told = LIES[lie]
    file.write_bytes(content)
    with pytest.raises(MeuseError) as caught:
        read(file)
    assert caught.value.code is Code.INVALID_DATA
    assert told in caught.value.message
    assert "byte " in caught.value.message


def _read_or_refuse(file: Path, content: bytes) -> None:
    """It is read, or refused by name; and all that it then says lies within the file."""
    file.write_bytes(content)
    try:
        found = read(file)
    except MeuseError as error:
        code = error.code
    else:
        assert all(t.start > 0 and t.start + t.size <= len(content) for t in found.tensors)
        return
    assert code is Code.INVALID_DATA


FUZZ = settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FUZZ
@given(st.data())
def test_changed_bytes_do_no_harm(file: Path, data: st.DataObject) -> None:
    content = bytearray(SOUND)
    spots = st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255))
    for at, byte in data.draw(st.lists(spots, min_size=1, max_size=8)):
        content[at] = byte
    _read_or_refuse(file, bytes(content[: data.draw(st.integers(0, len(content)))]))


@FUZZ
@given(st.data())
def test_changed_numbers_do_no_harm(file: Path, data: st.DataObject) -> None:
    """Whole words, at the edges where sums overflow."""
    content = bytearray(SOUND)
    edges = [0, 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(4, len(SOUND) - 8))
        struct.pack_into("<Q", content, at, data.draw(st.sampled_from(edges)))
    _read_or_refuse(file, bytes(content))


@FUZZ
@given(st.binary(max_size=400))
def test_noise_does_no_harm(file: Path, noise: bytes) -> None:
    _read_or_refuse(file, b"GGUF\x03\x00\x00\x00" + noise)
