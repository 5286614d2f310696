"""Versions of models that another server runs: where it is, what it calls the model. Pure.

Such a version has a document in place of weights, of the format `external`, and, where the server
wants a key, that key sealed beside it (`access.sealing`; its purpose is the URL).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from meuse.core.errors import invalid
from meuse.core.fields import integer, known
from meuse.core.nouns import EXTERNAL, ModelVersion, Signature, TensorSpec

FORMAT = EXTERNAL
SEALED = "sealed"
"""The formats of its artifacts."""
TASK = "text-generation"
SIGNATURE = Signature((TensorSpec("prompt", "BYTES", (1,)),), (TensorSpec("text", "BYTES", (1,)),))
FIELDS = ("url", "upstream_model", "context", "api_key", "tokens_per_byte", "template_tokens")
MOST_CONTEXT = 1 << 27
_KEY = re.compile(r"[!-~]{1,4096}")
_URL = re.compile(r"https?://[^\s?#]+")


@dataclass(frozen=True, slots=True)
class External:
    """`url` is the base, `https://host/v1`; `context` the tokens of prompt and answer together,
    of which `tokens_per_byte` and `template_tokens` bound the prompt from above."""

    url: str
    upstream_model: str
    context: int
    tokens_per_byte: float = 1.0
    template_tokens: int = 64

    def document(self) -> bytes:
        return msgspec.json.encode({"layout": FORMAT, **asdict(self)}, order="deterministic")

    def report(self, *, has_key: bool) -> dict[str, Any]:
        """What the version tells of itself (as `pull.facts.report`)."""
        generation = {
            "layout": FORMAT, "context": self.context, "family": "", "adapters": [],
            "tokens_per_byte": self.tokens_per_byte, "template_tokens": self.template_tokens,
            "source": f"external:{self.url}", "licence": "",
        }  # fmt: skip
        upstream = {"url": self.url, "model": self.upstream_model, "has_key": has_key}
        return {"generation": generation, "upstream": upstream}


def check_ours(version: ModelVersion, field: str) -> None:
    """Raises `invalid_field` for a version without weights: there is nothing to compute with."""
    if version.is_external:
        raise invalid(
            field,
            f"{version.ref} runs on another server, and its weights are not here",
            "Name a version that was pulled, imported or trained.",
        )


def parse(body: Mapping[str, Any]) -> tuple[External, str]:
    """(what is registered, the key or ""). Raises `invalid_field`; never with the key in it."""
    known(body, FIELDS)
    url = body.get("url")
    if not isinstance(url, str) or _URL.fullmatch(url) is None or len(url) > 2048:
        raise invalid("url", "the base URL of the server is wanted", "As in https://host/v1.")
    model = body.get("upstream_model")
    if not isinstance(model, str) or not 0 < len(model) <= 256 or not model.isprintable():
        raise invalid("upstream_model", "the server's own name of the model is wanted")
    key = body.get("api_key") or ""
    if not isinstance(key, str) or (key and _KEY.fullmatch(key) is None):
        raise invalid("api_key", "a key has 1 to 4096 visible ASCII characters")
    if "context" not in body:
        raise invalid(
            "context", "context is missing", "The tokens that prompt and answer have together."
        )
    context = integer("context", body["context"], 1, MOST_CONTEXT)
    factor = body.get("tokens_per_byte", 1.0)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor <= 16:
        raise invalid("tokens_per_byte", "a number above 0, up to 16, is wanted")
    template = integer("template_tokens", body.get("template_tokens", 64), 0, 1 << 20)
    return External(url.rstrip("/"), model, context, float(factor), template), key
