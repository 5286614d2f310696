"""How vLLM is started as a server of its own, in its own toolchain: words and environment.

Pure. Meuse stands in front of it as of any other server (`gateway.upstream`): it listens on
loopback alone, and its key stands in the environment, never among the words that `ps` shows.
Code that comes with a model is never run (`--trust-remote-code` is not among the words).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from meuse.core.errors import invalid
from meuse.core.ids import check_name

LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What `--max-lora-rank` takes."""
MOST_GPUS = 1024


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter in a folder as peft writes it."""

    path: Path
    rank: int


@dataclass(frozen=True, slots=True)
class VllmOptions:
    """None leaves it to vLLM. A model is cut over `tensor_parallel_size` ×
    `pipeline_parallel_size` processors; `max_loras` adapters are active in one batch, `max_held` in
    memory."""

    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    context: int | None = None
    max_sequences: int | None = None
    max_batched_tokens: int | None = None
    memory_share: float | None = None
    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    max_loras: int | None = None
    max_held: int | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """`env` is added to the toolchain's own."""

    argv: tuple[str, ...]
    env: Mapping[str, str]


def command(
    python: Path,
    model: Path,
    name: str,
    port: int,
    key: str,
    options: VllmOptions,
    *,
    heads: int | None = None,
    layers: int | None = None,
) -> Command:
    """What serves the checkpoint in the folder `model` under `name`; `python` is the toolchain's.
    `heads` and `layers` are the model's, where they are known. Raises `invalid_field`."""
    _check(options, heads, layers)
    argv = [
        *(str(python), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", name),
        *("--host", "127.0.0.1", "--port", str(port)),
        *("--tensor-parallel-size", str(options.tensor_parallel_size)),
        *("--pipeline-parallel-size", str(options.pipeline_parallel_size)),
        # On by default, and shared by all: how fast an answer begins would tell one tenant what
        # another has asked, and caches of adapters must not meet.
        "--no-enable-prefix-caching",
    ]
    for flag, value in (
        ("--max-model-len", options.context),
        ("--max-num-seqs", options.max_sequences),
        ("--max-num-batched-tokens", options.max_batched_tokens),
        ("--gpu-memory-utilization", options.memory_share),
    ):
        if value is not None:
            argv += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    argv += _lora(options)
    env = {
        "VLLM_API_KEY": key,
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        # Where its processes meet, when there are several.
        "VLLM_HOST_IP": "127.0.0.1",
    }
    return Command(tuple(argv), env)


def _lora(options: VllmOptions) -> list[str]:
    adapters = options.adapters
    if not adapters:
        return []
    highest = max(adapter.rank for adapter in adapters.values())
    return [
        "--enable-lora",
        *("--max-loras", str(options.max_loras or min(len(adapters), 8))),
        *("--max-lora-rank", str(next(rank for rank in LORA_RANKS if rank >= highest))),
        *(("--max-cpu-loras", str(options.max_held)) if options.max_held else ()),
        "--lora-modules",
        *(f"{name}={adapter.path}" for name, adapter in sorted(adapters.items())),
    ]


def _check(options: VllmOptions, heads: int | None, layers: int | None) -> None:
    tensor, pipeline = options.tensor_parallel_size, options.pipeline_parallel_size
    for name, value in (("tensor_parallel_size", tensor), ("pipeline_parallel_size", pipeline)):
        if not 1 <= value <= MOST_GPUS:
            raise invalid(f"engine.{name}", f"{value} is not from 1 to {MOST_GPUS}")
    if heads is not None and heads % tensor:
        raise invalid(
            "engine.tensor_parallel_size",
            f"{heads} attention heads cannot be shared by {tensor}",
            "Use a divisor of the number of heads.",
        )
    if layers is not None and pipeline > layers:
        raise invalid(
            "engine.pipeline_parallel_size", f"{layers} layers cannot be shared by {pipeline}"
        )
    if options.memory_share is not None and not 0 < options.memory_share <= 1:
        raise invalid("engine.memory_share", "a share above 0, up to 1, is wanted")
    if options.max_loras is not None and not options.adapters:
        raise invalid("engine.max_loras", "there are no adapters")
    for name, adapter in options.adapters.items():
        check_name(name, "engine.adapters")
        if not 1 <= adapter.rank <= LORA_RANKS[-1]:
            raise invalid("engine.adapters", f"{name} has the rank {adapter.rank}")
