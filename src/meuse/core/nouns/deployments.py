"""What clients call: targets, scale, engine options."""

from __future__ import annotations

from dataclasses import dataclass

from meuse.core.nouns.who import Scope


@dataclass(frozen=True, slots=True)
class PromptLookup:
    """Guess what comes next from what followed the last words, `max_ngram_size` at most, earlier
    in the text: `num_assistant_tokens` for each step, which the model then checks."""

    max_ngram_size: int = 3
    num_assistant_tokens: int = 5


@dataclass(frozen=True, slots=True)
class Draft:
    """Let a smaller model of the same vocabulary guess `num_assistant_tokens` for each step, which
    the model then checks. `digest` is its manifest's; found when the deployment is made."""

    model: str
    num_assistant_tokens: int = 3
    digest: str = ""
    weight_bytes: int = 0


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How replicas run a version; None leaves it to the artifact and to the settings.

    Of language models alone: `cache_mb` is the memory of the cache of keys and values (MiB),
    `max_sequences` how many are generated at once, `max_batched_tokens` how many tokens one
    step of the engine takes, `max_adapters` how many adapters a replica holds in memory,
    `adapter_turn_ms` for how long it starts requests of one while others wait, `kv_precision` how
    the cache is kept. `prefix_cache`, `prompt_lookup` and `draft_model` are off unless given.
    Of the engine `vllm` alone: those that bear the names of its flags, and `max_loras`, how many
    adapters are active in one batch.
    """

    name: str | None = None
    cores: int | None = None
    cache_mb: int | None = None
    max_sequences: int | None = None
    max_batched_tokens: int | None = None
    max_adapters: int | None = None
    adapter_turn_ms: int | None = None
    kv_precision: str | None = None
    prefix_cache: bool | None = None
    prompt_lookup: PromptLookup | None = None
    draft_model: Draft | None = None
    tensor_parallel_size: int | None = None
    pipeline_parallel_size: int | None = None
    max_model_len: int | None = None
    gpu_memory_utilization: float | None = None
    max_loras: int | None = None


@dataclass(frozen=True, slots=True)
class DeploymentTarget:
    """`model` is a reference as given (`digits:1`, `digits@champion`); weight in percent."""

    model: str
    weight: int = 100


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas of each target, and what decides between `min` and `max`.

    `target` is the ongoing requests that one replica should have; windows and delays are in
    seconds, named as in Knative: averages over `stable_s` decide, over `panic_s` in a burst.
    """

    min: int = 1
    max: int = 1
    target: float = 8.0
    stable_s: float = 20.0
    panic_s: float = 2.0
    zero_after_s: float = 300.0
    """With min 0: how long nothing may be asked before the last replica goes."""
    queue_wait_ms: int | None = None
    """Objective: the mean wait in a replica's queue above which one more is wanted."""


@dataclass(frozen=True, slots=True)
class Batching:
    """Bounds of a replica's batches (rows) and of its queue (requests)."""

    max_rows: int = 64
    max_queue: int = 1024


@dataclass(frozen=True, slots=True)
class Shadow:
    """A version that is asked as well for `percent` of the requests; its answers are compared
    with those given, never returned, and metered as internal."""

    model: str
    percent: int = 100


@dataclass(frozen=True, slots=True)
class Canary:
    """How a new version of a followed alias takes over: weight by weight, each for `step_s`
    and at least `min_requests`; back to the old one when it does worse than allowed."""

    steps: tuple[int, ...] = (1, 10, 50, 100)
    step_s: float = 60.0
    min_requests: int = 20
    max_error_rate: float = 0.02
    max_p95_ratio: float | None = 1.5
    """p95 of the new one against the old one's over the same time."""
    max_p95_ms: float | None = None
    min_agreement: float | None = None
    """With a shadow: least share of equal answers."""


@dataclass(frozen=True, slots=True)
class Cache:
    """Answers kept by (version, inputs) in each gateway worker."""

    ttl_s: float = 60.0
    max_bytes: int = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA adapter on a deployment: clients call `deployment:name` for it."""

    name: str
    model: str
    """The version, `polite:1`."""
    layers: tuple[str, ...] = ()
    """The last names of those that it changes (`q_proj`); () where nobody told."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """What a tenant asked for under a name. `access` is a tuple of tenants or `("*",)`."""

    name: str
    scope: Scope
    generation: int
    targets: tuple[DeploymentTarget, ...]
    scale: Scale
    access: tuple[str, ...]
    timeout_ms: int
    updated_ms: int
    objective_ms: int | None = None
    """The latency that batching and reports aim at; `timeout_ms` is when an answer is late."""
    batching: Batching = Batching()
    sticky: str | None = None
    """What keeps a caller on one target: "key", or "header:<name>"."""
    shadow: Shadow | None = None
    canary: Canary | None = None
    cache: Cache | None = None
    engine: EngineOptions = EngineOptions()
    adapters: tuple[Adapter, ...] = ()

    @property
    def full_name(self) -> str:
        """What clients of other tenants call."""
        return f"{self.scope.tenant}/{self.name}"

    @property
    def key(self) -> str:
        """What it is known by inside: the same name in another project is another one."""
        return f"{self.scope.tenant}/{self.scope.project}/{self.name}"

    @property
    def adapted_layers(self) -> tuple[str, ...]:
        """Those that its adapters change together, by last name; () where one might change any."""
        if not all(adapter.layers for adapter in self.adapters):
            return ()
        return tuple(sorted({layer for adapter in self.adapters for layer in adapter.layers}))

    @property
    def revision(self) -> str:
        """Names how its replicas are started: they are replaced when it is another."""
        bounds = (self.batching.max_rows, self.batching.max_queue, self.objective_ms)
        engine = self.engine
        parts: tuple[object, ...] = (engine.name, engine.cores, *bounds)
        generation = (engine.cache_mb, engine.max_sequences, engine.max_batched_tokens)
        parts += generation if any(part is not None for part in generation) else ()
        # A word for each, so that options that came later change no revision that had none.
        for name in (
            "kv_precision", "prefix_cache", "prompt_lookup", "draft_model",
            "tensor_parallel_size", "pipeline_parallel_size", "max_model_len",
            "gpu_memory_utilization", "max_loras",
        ):  # fmt: skip
            if (option := getattr(engine, name)) is not None:
                parts += (f"{name}={option}",)
        # Not which ones: those that come later are brought when they are asked for.
        if self.adapters and engine.name == "vllm":
            # It is told of them when it starts.
            parts += tuple(f"{adapter.name}={adapter.model}" for adapter in self.adapters)
        elif self.adapters:
            parts += ("adapters", engine.max_adapters, engine.adapter_turn_ms)
            parts += (f"layers={'+'.join(layers)}",) if (layers := self.adapted_layers) else ()
        return "/".join("" if part is None else str(part) for part in parts)
