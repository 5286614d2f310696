"""serve.generation.vllm: the words that vLLM is started with; the run itself needs a GPU"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from meuse.core.errors import MeuseError
from meuse.serve.generation.vllm import Adapter, Command, VllmOptions, command


def made(heads: int | None = 32, layers: int | None = 24, **options: Any) -> Command:
    return command(
        Path("/t/bin/python"), Path("/m"), "llama", 9000, "sk-1", VllmOptions(**options),
        heads=heads, layers=layers,
    )  # fmt: skip


def after(argv: tuple[str, ...], flag: str) -> str:
    return argv[argv.index(flag) + 1]


def test_the_words() -> None:
    argv = made(
        tensor_parallel_size=4, pipeline_parallel_size=2, context=8192, max_sequences=64,
        max_batched_tokens=2048, memory_share=0.85,
    ).argv  # fmt: skip
    assert argv[:3] == ("/t/bin/python", "-m", "vllm.entrypoints.openai.api_server")
    assert after(argv, "--tensor-parallel-size") == "4"
    assert after(argv, "--pipeline-parallel-size") == "2"
    assert after(argv, "--max-model-len") == "8192"
    assert after(argv, "--max-num-seqs") == "64"
    assert after(argv, "--max-num-batched-tokens") == "2048"
    assert after(argv, "--gpu-memory-utilization") == "0.85"
    assert after(argv, "--host") == "127.0.0.1"
    assert "--enable-lora" not in argv
    assert "--no-enable-prefix-caching" in argv
    assert "--max-model-len" not in made().argv


def test_the_key_is_no_word() -> None:
    found = made()
    assert found.env["VLLM_API_KEY"] == "sk-1"
    assert not any("sk-1" in word for word in found.argv)
    assert "--trust-remote-code" not in found.argv


def test_adapters() -> None:
    adapters = {"law": Adapter(Path("/a/law"), 12), "art": Adapter(Path("/a/art"), 8)}
    argv = made(adapters=adapters).argv
    assert (after(argv, "--max-loras"), after(argv, "--max-lora-rank")) == ("2", "16")
    assert argv[-2:] == ("art=/a/art", "law=/a/law")
    assert after(made(adapters=adapters, max_loras=1).argv, "--max-loras") == "1"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"tensor_parallel_size": 5}, "engine.tensor_parallel_size"),
        ({"tensor_parallel_size": 0}, "engine.tensor_parallel_size"),
        ({"pipeline_parallel_size": 25}, "engine.pipeline_parallel_size"),
        ({"memory_share": 1.5}, "engine.memory_share"),
        ({"max_loras": 2}, "engine.max_loras"),
        ({"adapters": {"law": Adapter(Path("/a"), 1000)}}, "engine.adapters"),
        ({"adapters": {"a=b": Adapter(Path("/a"), 8)}}, "engine.adapters"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], field: str) -> None:
    with pytest.raises(MeuseError) as caught:
        made(**options)
    assert caught.value.field == field
