"""What a file or folder is taken for, and what is then known of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers_gguf import FIELDS, gguf
from meuse.core.errors import Code, MeuseError
from meuse.pull import facts
from meuse.pull.facts import Facts
from meuse.pull.recognise import recognise
from meuse.serve.generation.manifest import File, decode, encode
from pull.folders import BYTE_LEVEL, CONFIG, folder

IR = [f"openvino_{part}.{end}" for part in ("model", "tokenizer", "detokenizer")
      for end in ("xml", "bin")]  # fmt: skip


def known(path: Path) -> Facts:
    found = recognise(path)
    assert found is not None
    return found


def refused(path: Path, told: str) -> None:
    with pytest.raises(MeuseError, match=told) as caught:
        recognise(path)
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "model")


def of_fields(path: Path, **changes: Any) -> Path:
    fields = {**FIELDS, **{name.replace("__", "."): value for name, value in changes.items()}}
    file = path / "m.gguf"
    file.write_bytes(gguf({name: value for name, value in fields.items() if value is not None}))
    return file


def test_a_gguf_file_tells_what_a_manifest_needs(tmp_path: Path) -> None:
    file = of_fields(tmp_path)
    found = known(file)
    assert found == Facts(
        layout="gguf", files={"m.gguf": file}, architecture="llama", context=64, vocabulary=4,
        parameters=160, chat_template="{{ messages[0].content }}", tokenizer="bytes",
        licence="apache-2.0", kv_bytes_per_token=2 * 2 * (8 + 8) * 2,
    )  # fmt: skip
    assert known(tmp_path) == found  # also by its folder


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"general__architecture": None}, "does not say its architecture"),
        ({"general__architecture": 3}, "is 3, not a text"),
        ({"llama__context_length": None}, "context_length of the GGUF file is None"),
        ({"llama__context_length": 0}, "context_length of the GGUF file is 0"),
        ({"llama__context_length": -5}, "context_length of the GGUF file is -5"),
        ({"llama__context_length": 2**30}, "from 1 to 134,217,728"),
        ({"llama__context_length": True}, "is True"),
        ({"llama__block_count": 9999}, "block_count"),
        ({"llama__attention__head_count": 0}, "head_count"),
        ({"llama__attention__head_count_kv": [1, 2, 3]}, "does not fit its 2 layers"),
        ({"llama__attention__head_count_kv": [0, 0]}, "does not fit its 2 layers"),
        ({"llama__embedding_length": 2}, "is 0"),
        ({"tokenizer__ggml__model": None}, "holds no tokenizer"),
        ({"tokenizer__ggml__model": "own"}, "the tokenizer 'own'"),
        ({"tokenizer__ggml__tokens": None}, "holds no vocabulary"),
        ({"general__type": "adapter"}, "of the type 'adapter'"),
        ({"split__count": 3}, "one of 3 parts"),
        ({"tokenizer__chat_template": 3}, "is 3, not a text"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    refused(of_fields(tmp_path, **changes), told)


def test_layers_may_keep_different_numbers_of_heads(tmp_path: Path) -> None:
    file = of_fields(tmp_path, llama__attention__head_count_kv=[4, 0])
    assert known(file).kv_bytes_per_token == 4 * (8 + 8) * 2
    file = of_fields(tmp_path, llama__attention__key_length=16, llama__attention__value_length=4)
    assert known(file).kv_bytes_per_token == 2 * 2 * (16 + 4) * 2


def test_a_safetensors_checkpoint(tmp_path: Path) -> None:
    template = {"chat_template": [{"name": "default", "template": "<tool_call>"}]}
    path = folder(
        tmp_path, tokenizer_config__json=template, pytorch_model__bin=b"pickle",
        modeling_own__py=b"raise SystemExit",
    )  # fmt: skip
    found = known(path)
    assert (found.layout, found.architecture, found.context) == ("hf", "llama", 64)
    assert (found.parameters, found.kv_bytes_per_token) == (35, 2 * 2 * (8 + 8) * 2)
    assert (found.chat_template, found.tokenizer) == ("<tool_call>", "bytes")
    assert set(found.files) == {
        "config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors",
    }  # fmt: skip


def test_openvinos_folder(tmp_path: Path) -> None:
    files: dict[str, Any] = {name.replace(".", "__"): b"x" for name in IR}
    path = folder(tmp_path, model__safetensors=None, chat_template__jinja=b"hi", **files)
    found = known(path)
    assert (found.layout, found.chat_template, found.parameters) == ("ir", "hi", 0)
    assert set(found.files) == {*IR, "config.json", "tokenizer.json", "chat_template.jinja"}
    (path / "openvino_detokenizer.bin").unlink()
    refused(path, r"the folder has no openvino_detokenizer\.bin")


@pytest.mark.parametrize(
    ("tokenizer", "most"),
    [
        (BYTE_LEVEL, 1.0),
        ({"model": {"type": "BPE"}, "normalizer": {"type": "NFC"}}, 3.0),
        ({"model": {"type": "WordPiece"}, "normalizer": {"type": "BertNormalizer"}}, 3.0),
        ({"model": {"type": "Unigram"}}, 11.0),
        (
            {"model": {"type": "BPE"},
             "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFKC"}]}},
            11.0,
        ),
        (
            {"model": {"type": "BPE"},
             "normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace"}]}},
            1.0,
        ),
    ],
)  # fmt: skip
def test_bytes_bound_tokens(tmp_path: Path, tokenizer: dict[str, Any], most: float) -> None:
    path = folder(tmp_path, tokenizer__json=tokenizer)
    assert facts.manifest(known(path), (), "s", "").tokens_per_byte == most


def test_a_gguf_tokenizer_that_composes_texts_first(tmp_path: Path) -> None:
    file = of_fields(tmp_path, tokenizer__ggml__pre="qwen2")
    assert facts.manifest(known(file), (), "s", "").tokens_per_byte == 3.0


def test_encoders_go_another_way(tmp_path: Path) -> None:
    config = {"model_type": "bert", "architectures": ["BertModel"]}
    assert recognise(folder(tmp_path, config)) is None


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"config__json": None}, "holds no model"),
        ({"config__json": b"{"}, r"config\.json cannot be read"),
        ({"config__json": b'{"a":' * 90_000}, r"config\.json cannot be read"),
        ({"config__json": b"[]"}, r"config\.json is not a JSON object"),
        ({"config__json": {"architectures": ["ViTModel"]}}, "the checkpoint is a ViTModel"),
        ({"config__json": {**CONFIG, "vocab_size": "many"}}, "vocab_size of config.json"),
        ({"config__json": {**CONFIG, "num_hidden_layers": 0}}, "num_hidden_layers"),
        ({"model__safetensors": None}, "no safetensors file"),
        ({"model__safetensors": (1 << 40).to_bytes(8, "little") + b"{}"}, "a header of"),
        ({"model__safetensors": (2).to_bytes(8, "little") + b"[]"}, "cannot be read"),
        (
            {"model__safetensors": (180_000).to_bytes(8, "little") + b"[" * 180_000},
            "cannot be read",
        ),
        ({"tokenizer__json": None}, "no tokenizer.json"),
    ],
)
def test_a_folder_that_makes_no_sense_is_refused(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    refused(folder(tmp_path, **changes), told)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.bin").write_bytes(b"pickle")
    refused(tmp_path / "x.bin", "is no model file")
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).write_bytes(gguf())
    refused(tmp_path, "holds several GGUF files")


@pytest.mark.parametrize(
    ("template", "family"),
    [
        ("{{ messages }}", ""),
        ("... <tool_call>{json}</tool_call>", "hermes"),
        (r"'<tool_call>\n<function=' + call.name + '>\n' <parameter=", "qwen3_coder"),
        ("'[TOOL_CALLS]' + (calls | tojson)", "mistral"),
        ("{% if role == 'ipython' %}", "llama3"),
        ("<|python_tag|>", "llama3"),
    ],
)
def test_the_template_tells_how_tools_are_called(template: str, family: str) -> None:
    assert facts.family(template) == family


def test_a_manifest_survives_its_bytes(tmp_path: Path) -> None:
    found = known(of_fields(tmp_path, general__license=None))
    made = facts.manifest(found, (File("m.gguf", "d" * 64, 9),), "file:m.gguf", "MIT")
    assert decode(encode(made)) == made
    assert made.licence == "MIT"  # what the wrapping says, where the file does not
    told = facts.report(made, 9)
    assert (told["licence"], told["weight_bytes"], told["context"]) == ("MIT", 9, 64)
    json.dumps(told)
