"""From a manifest and its files to what a replica is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from meuse.core.errors import Code, MeuseError, invalid
from meuse.serve.generation import lora
from meuse.serve.generation.choice import Choice
from meuse.serve.generation.engine import Tokenizer
from meuse.serve.generation.manifest import Manifest
from meuse.serve.generation.messages import Ask
from meuse.serve.generation.prompt import Reader
from meuse.serve.generation.replica import Parts
from meuse.serve.generation.shelf import Fetch, Shelf
from meuse.serve.generation.template import Template
from meuse.serve.generation.text import BytePieces, Controls, Detokenizer, Stops, Window
from meuse.serve.generation.tools import FAMILIES, parser
from meuse.serve.generation.tuning import Tuning

DEFAULT_SEQUENCES = 64
DEFAULT_BATCHED_TOKENS = 256
DEFAULT_CACHE_MB = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the engine runs; 0 leaves it to the defaults."""

    threads: int = 1
    max_sequences: int = 0
    max_batched_tokens: int = 0
    cache_mb: int = 0
    max_adapters: int = 0
    """That are held for the engine at once; 0: it takes none."""
    adapter_layers: tuple[str, ...] = ()
    """That they may change, by last name: each costs every token time, and a batch memory. (): all
    linear ones."""
    tuning: Tuning = field(default_factory=Tuning)


def load(manifest: Manifest, folder: Path, options: Options, fetch: Fetch | None = None) -> Parts:
    """`folder` holds the manifest's files by their names; `fetch` brings those of adapters.

    Raises `invalid_data` for what cannot be served, `invalid_field` for options that exclude each
    other, `unavailable` without the engine's package.
    """
    if options.tuning.prefix_cache and options.max_adapters:
        # The cache knows tokens alone: base and adapter would go on from each other's.
        raise invalid("engine.prefix_cache", "a replica with adapters has none", "Leave it out.")
    try:
        from meuse.serve.generation.genai import GenaiGenerator, linear_layers
    except ModuleNotFoundError as error:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"the engine 'genai' needs the package {error.name!r}, which is not installed",
            field="engine",
            hint="pip install 'meuse[llm]'",
        ) from None
    if manifest.layout not in ("gguf", "ir"):
        raise MeuseError(
            Code.INVALID_DATA,
            f"the engine 'genai' does not run the layout {manifest.layout!r}",
            hint="It runs gguf and ir; convert the checkpoint first.",
        )
    # Without layer names the engine would skip every adapter without a word.
    adapts = manifest.layout == "ir" and options.max_adapters > 0 and fetch is not None
    layers = linear_layers(folder) if adapts else {}
    able = lora.of_names(layers, options.adapter_layers) if options.adapter_layers else layers
    generator = GenaiGenerator(
        model_path(manifest, folder),
        context=manifest.context,
        threads=options.threads,
        max_sequences=options.max_sequences or DEFAULT_SEQUENCES,
        max_batched_tokens=options.max_batched_tokens or DEFAULT_BATCHED_TOKENS,
        cache_mb=options.cache_mb or DEFAULT_CACHE_MB,
        kv_bytes_per_token=manifest.kv_bytes_per_token,
        tuning=options.tuning,
        layers=able,
    )
    tokenizer = generator.tokenizer
    template = Template(manifest.chat_template, generator.names) if manifest.chat_template else None
    reader = Reader(
        tokenizer, generator.context, manifest.vocabulary, template.render if template else None
    )
    return Parts(
        generator=generator,
        reader=reader,
        choice=choices(tokenizer, manifest.family),
        family=manifest.family,
        shelf=Shelf(fetch, layers, able, generator.adapter, options.max_adapters)
        if fetch is not None and able
        else None,
    )


def model_path(manifest: Manifest, folder: Path) -> Path:
    """What the engine is given of a folder with the manifest's files."""
    return folder / manifest.files[0].name if manifest.layout == "gguf" else folder


def choices(tokenizer: Tokenizer, family: str) -> Callable[[int, Ask], Choice]:
    """How answers of this model are read."""
    pieces = tokenizer.pieces
    words = FAMILIES[family].words if family in FAMILIES else ()
    controls = {tokenizer.special[word]: word for word in words if word in tokenizer.special}
    mark = Controls.MARK if words and words[0] in tokenizer.special else ""

    def piece(number: int) -> bytes:
        return pieces[number] if pieces is not None else tokenizer.decode([number]).encode()

    def choice(index: int, ask: Ask) -> Choice:
        detokenizer: Detokenizer = (
            BytePieces(pieces) if pieces is not None else Window(tokenizer.decode)
        )
        calls = parser(ask, family, mark)
        return Choice(
            index,
            Controls(detokenizer, controls) if calls is not None and mark else detokenizer,
            Stops(ask.sampling.stop),
            calls,
            piece if ask.sampling.logprobs is not None else None,
            one_call=not ask.parallel_tool_calls,
        )

    return choice
