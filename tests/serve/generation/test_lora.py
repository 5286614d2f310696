"""generation.lora: all of an adapter is understood, or nothing of it reaches an engine."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import helpers_lora as made
from meuse.core.errors import Code, MeuseError
from meuse.serve.generation import lora
from meuse.serve.generation.lora import Layer

SIZES = {"layers.0.self_attn.q_proj": (6, 8), "layers.1.mlp.down_proj": (10, 6)}
LAYERS = {name: Layer(f"model.{name}", *sizes) for name, sizes in SIZES.items()}
Q = made.PREFIX + "layers.0.self_attn.q_proj."


def config(**changes: Any) -> bytes:
    return json.dumps(made.config(**changes)).encode()


def weights(**changes: Any) -> bytes:
    return made.safetensors({**made.matrices(SIZES, 1), **changes})


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(MeuseError) as caught:
        call()
    assert caught.value.code == Code.INVALID_DATA
    assert caught.value.field == "adapter"
    return caught.value.message


def test_an_adapter_of_peft_is_read() -> None:
    read = lora.read(config(), weights())
    assert read.targets == ("down_proj", "q_proj")
    assert {n: (p.inputs, p.outputs) for n, p in read.pairs.items()} == SIZES
    assert read.config.scale == 2.0
    lora.check_fits(read, LAYERS)


def test_the_scale_is_alpha_over_rank_or_over_its_root() -> None:
    assert lora.read_config(config(r=16, lora_alpha=32)).scale == 2.0
    assert lora.read_config(config(r=16, lora_alpha=32, use_rslora=True)).scale == 8.0


def test_what_the_engine_gets_holds_the_same_numbers_under_the_layers_full_names() -> None:
    tensors = made.matrices(SIZES, 1)
    body = lora.for_engine(lora.read(config(), made.safetensors(tensors)), LAYERS)
    size = int.from_bytes(body[:8], "little")
    header, data = json.loads(body[8 : 8 + size]), body[8 + size :]
    assert set(header) == set(tensors)
    for name, array in tensors.items():
        begin, end = header[name]["data_offsets"]
        found = np.frombuffer(data[begin:end], np.float32).reshape(header[name]["shape"])
        assert np.array_equal(found, array)


def test_a_carrier_is_an_adapter_that_changes_nothing() -> None:
    read = lora.read(config(r=1, lora_alpha=1), lora.carrier(LAYERS))
    lora.check_fits(read, LAYERS)
    assert not any(read.data)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"peft_type": "IA3"}, "'IA3'"),
        ({"r": 0}, "r of"),
        ({"r": True}, "r of"),
        ({"r": 4096}, "r of"),
        ({"lora_alpha": "8"}, "lora_alpha"),
        ({"bias": "all"}, "sets bias"),
        ({"modules_to_save": ["lm_head"]}, "sets modules_to_save"),
        ({"rank_pattern": {"q_proj": 8}}, "sets rank_pattern"),
        ({"target_modules": ".*_proj"}, "not a list of names"),
        ({"target_modules": [1]}, "not a list of names"),
        ({"init_lora_weights": "pissa"}, "its base was changed"),
        ({"init_lora_weights": "pissa_niter_16"}, "its base was changed"),
        ({"init_lora_weights": ["gaussian"]}, "its base was changed"),
        ({"use_bdlora": {"nblocks": 2}}, "sets 'use_bdlora'"),
        ({"r": 8}, "at rank 8"),
        ({"use_dora": True}, "lora_magnitude_vector"),
    ],
)
def test_a_configuration_that_the_engine_would_not_follow(
    changes: dict[str, Any], said: str
) -> None:
    assert said in refusal(lambda: lora.read(config(**changes), weights()))


def test_what_peft_writes_beside_it_and_what_is_left_empty_changes_nothing() -> None:
    told = config(
        init_lora_weights="gaussian", lora_dropout=0.1, layers_to_transform=[0], revision="main",
        qalora_group_size=16, of_a_later_version=None, another=False,
    )  # fmt: skip
    assert lora.read_config(told).modules == ("q_proj", "v_proj")
    assert lora.read_config(b'{"peft_type": "LORA", "r": 4, "lora_alpha": 8}').modules == ()


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_a_configuration_that_is_none(body: bytes) -> None:
    assert "cannot be read" in refusal(lambda: lora.read_config(body))


def array(*shape: int, kind: Any = np.float32) -> Any:
    return np.ones(shape, kind)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"base_model.model.lm_head.weight": array(4, 4)}, "no half of a LoRA pair"),
        ({"": array(1, 1)}, "no half of a LoRA pair"),
        ({"base_model.model.model.layers.0.lora_A.weight": array(4, 4)}, "no half"),
        ({made.PREFIX + "layers.3.mlp.up_proj.lora_A.weight": array(4, 4)}, "has lora_A, not"),
        ({Q + "lora_A.weight": array(3, 6)}, "at rank 4"),
        ({Q + "lora_B.weight": array(8, 5)}, "at rank 4"),
        ({Q + "lora_B.weight": array(8)}, "at rank 4"),
        ({Q + "lora_B.weight": array(8, 4, kind=np.float16)}, "F32 and F16"),
        ({Q + "lora_B.weight": array(8, 4, kind=np.int8)}, "the type 'I8'"),
        ({Q + "lora_B.weight": array(8, 4) * math.nan}, "no number"),
        ({Q + "lora_A": array(4, 6)}, "two tensors"),
        ({Q + "lora_magnitude_vector": array(8)}, "lora_magnitude_vector"),
    ],
)
def test_tensors_that_are_no_lora(changes: dict[str, Any], said: str) -> None:
    assert said in refusal(lambda: lora.read(config(), weights(**changes)))


def test_numbers_of_bfloat16_are_looked_at_too() -> None:
    tensors = {n: np.full(a.shape, 0x3F80, np.uint16) for n, a in made.matrices(SIZES, 1).items()}
    lora.read(config(), made.safetensors(tensors))
    tensors[Q + "lora_A.weight"][1, 1] = 0x7F80
    assert "no number" in refusal(lambda: lora.read(config(), made.safetensors(tensors)))


@pytest.mark.parametrize(
    ("header", "data"),
    [
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"\0" * 8),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\0" * 8),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
          "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]}}, b"\0" * 6),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\0" * 4),
        ({"a": {"dtype": "F32", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}, b""),
        ({"a": {"dtype": "F32"}}, b""),
        ({"a": [1]}, b""),
        ([], b""),
    ],
)  # fmt: skip
def test_a_header_that_lies(header: Any, data: bytes) -> None:
    refusal(lambda: lora.read(config(), made.with_header(header, data)))


@given(st.binary(max_size=64), st.integers(0, 400))
def test_damage_anywhere_is_refused_as_bad_data_or_leaves_what_fits(
    damage: bytes, place: int
) -> None:
    body = bytearray(weights())
    body[place : place + len(damage)] = damage
    try:
        lora.check_fits(lora.read(config(), bytes(body)), LAYERS)
        code = None
    except MeuseError as error:
        code = error.code
    assert code in (None, Code.INVALID_DATA)


@pytest.mark.parametrize("length", [0, 7, 8, 9, 100, -1])
def test_a_file_that_was_cut_short(length: int) -> None:
    refusal(lambda: lora.read(config(), weights()[:length]))


def test_an_adapter_of_another_base_is_refused() -> None:
    read = lora.read(config(), weights())
    assert "no linear layer layers.1" in refusal(
        lambda: lora.check_fits(read, {n: LAYERS[n] for n in list(LAYERS)[:1]})
    )
    wide = {**LAYERS, "layers.0.self_attn.q_proj": Layer("model.x", 7, 8)}
    assert "7 → 8, the adapter's 6 → 8" in refusal(lambda: lora.check_fits(read, wide))


def test_dora_is_read_but_not_given_to_an_engine() -> None:
    tensors = {
        **made.matrices(SIZES, 1),
        **{made.PREFIX + f"{n}.lora_magnitude_vector": array(o) for n, (_, o) in SIZES.items()},
    }
    read = lora.read(config(use_dora=True), made.safetensors(tensors))
    assert read.config.dora
    assert "DoRA" in refusal(lambda: lora.check_fits(read, LAYERS))
