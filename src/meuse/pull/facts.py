"""What is known of a language model besides its files, and what follows from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import ADAPTER, Signature, TensorSpec
from meuse.serve.generation.manifest import File, Manifest

SIGNATURE = Signature((TensorSpec("prompt", "BYTES", (1,)),), (TensorSpec("text", "BYTES", (1,)),))

TOKENS_PER_BYTE = {"bytes": 1.0, "composed": 3.0, "compatible": 11.0}
"""Most tokens of a text for each of its bytes, by what the tokenizer does first. A token stands
for one byte at least; but normalisation makes a text longer: three times at most by NFC and NFD
(U+1D160), eleven times by NFKC and NFKD (U+FDFA), counted in UTF-8."""

MOST_CONTEXT = 1 << 27
MOST_LAYERS = 4096
MOST_WIDTH = 1 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """`files` are the model's, by the name that they have in its layout."""

    layout: str
    files: dict[str, Path]
    architecture: str
    context: int
    vocabulary: int
    parameters: int
    chat_template: str
    tokenizer: str
    """One of `TOKENS_PER_BYTE`."""
    licence: str
    kv_bytes_per_token: int


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """Of a LoRA adapter; `targets` are the layers that it changes, by their last names."""

    files: dict[str, Path]
    rank: int
    alpha: float
    targets: tuple[str, ...]
    dora: bool
    parameters: int


def adapter_manifest(
    facts: AdapterFacts,
    files: tuple[File, ...],
    source: str,
    licence: str,
    base: Mapping[str, Any],
) -> Manifest:
    """The document of an adapter; `base` is what its base's version reports."""
    return Manifest(
        layout=ADAPTER,
        files=files,
        architecture=base["architecture"],
        context=base["context"],
        vocabulary=base["vocabulary"],
        parameters=facts.parameters,
        licence=licence,
        source=source,
    )


def adapter_report(
    facts: AdapterFacts, manifest: Manifest, weights: int, base: str
) -> dict[str, Any]:
    """As `report`, with what is an adapter's own. `base`: the version that it was trained on."""
    return report(manifest, weights) | {
        "base": base,
        "rank": facts.rank,
        "alpha": facts.alpha,
        "targets": list(facts.targets),
        "dora": facts.dora,
    }


def manifest(
    facts: Facts, files: tuple[File, ...], source: str, licence: str, template_tokens: int = 64
) -> Manifest:
    """The document of a version. `licence`: what was told beside the model, if it does not
    tell. `template_tokens`: what its chat template adds (`template.most_tokens`)."""
    return Manifest(
        layout=facts.layout,
        files=files,
        architecture=facts.architecture,
        context=facts.context,
        vocabulary=facts.vocabulary,
        parameters=facts.parameters,
        chat_template=facts.chat_template,
        family=family(facts.chat_template),
        template_tokens=template_tokens,
        licence=facts.licence or licence,
        source=source,
        tokens_per_byte=TOKENS_PER_BYTE[facts.tokenizer],
        kv_bytes_per_token=facts.kv_bytes_per_token,
    )


def family(template: str) -> str:
    """Which way of calling tools a chat template teaches the model; "" for none."""
    if "<tool_call>" in template:
        return "qwen3_coder" if "<function=" in template else "hermes"
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "ipython" in template or "<|python_tag|>" in template:
        return "llama3"
    return ""


def report(manifest: Manifest, weights: int) -> dict[str, Any]:
    """What a version tells of itself without its files: for whoever lists, deploys or routes."""
    return {
        "layout": manifest.layout,
        "architecture": manifest.architecture,
        "context": manifest.context,
        "vocabulary": manifest.vocabulary,
        "parameters": manifest.parameters,
        "family": manifest.family,
        "template_tokens": manifest.template_tokens,
        "tokens_per_byte": manifest.tokens_per_byte,
        "kv_bytes_per_token": manifest.kv_bytes_per_token,
        "weight_bytes": weights,
        "licence": manifest.licence,
        "source": manifest.source,
        "adapters": sorted(manifest.adapters),
    }


def kv_bytes(layers: int, heads: tuple[int, ...], key: int, value: int) -> int:
    """Of one token, at 16 bits: `heads` of keys and values in each layer, or in all alike."""
    each = heads * layers if len(heads) == 1 else heads
    return sum(each) * (key + value) * 2


def refused(message: str, hint: str | None = None) -> MeuseError:
    return MeuseError(Code.INVALID_DATA, message, field="model", hint=hint)
