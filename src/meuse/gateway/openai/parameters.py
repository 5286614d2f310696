"""Every parameter of the OpenAI API that is known: honoured, or refused by name.

One row each. What stands in no row does not break a call: clients send fields of later
versions, and of other servers. Values that ask for nothing are accepted everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from meuse.core.errors import invalid
from meuse.gateway.openai import checks
from meuse.gateway.openai.checks import Check
from meuse.serve.generation.messages import MAX_CHOICES, MAX_TOP_LOGPROBS

_MOST_TOKENS = 2**31 - 1
_SEED = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Parameter:
    """`note` says what is made of it."""

    check: Check
    note: str
    required: bool = False


def _refused(why: str, hint: str, *harmless: Any) -> Parameter:
    return Parameter(checks.refused(hint, *harmless), f"refused: {why}")


_TOP = "honoured where the engine tells; ours knows the chosen token's alone and refuses more"

_SAMPLING: Mapping[str, Parameter] = {
    "frequency_penalty": Parameter(checks.number(-2, 2), "honoured"),
    "presence_penalty": Parameter(checks.number(-2, 2), "honoured"),
    "temperature": Parameter(checks.number(0, 2), "honoured; 0 is greedy"),
    "top_p": Parameter(checks.number(0, 1), "honoured"),
    "top_k": Parameter(checks.whole(0, 2**20), "honoured (beyond OpenAI); 0 is all"),
    "min_p": Parameter(checks.number(0, 1), "honoured (beyond OpenAI)"),
    "repetition_penalty": Parameter(checks.number(0.01, 10), "honoured (beyond OpenAI)"),
    "ignore_eos": Parameter(checks.flag, "honoured (beyond OpenAI)"),
    "max_tokens": Parameter(checks.whole(1, _MOST_TOKENS), "honoured"),
    "n": Parameter(checks.whole(1, MAX_CHOICES), "honoured"),
    "stop": Parameter(checks.stops, "honoured"),
    "seed": Parameter(checks.whole(-_SEED, _SEED), "taken, without a promise"),
    "stream": Parameter(checks.flag, "honoured"),
    "stream_options": Parameter(checks.stream_options, "honoured: include_usage"),
    "logit_bias": _refused("engines do not offer it", "Leave it out.", {}),
    "user": Parameter(checks.text, "taken, not used"),
}

CHAT: Mapping[str, Parameter] = {
    **_SAMPLING,
    "model": Parameter(checks.named, "the deployment, or deployment:adapter", required=True),
    "messages": Parameter(lambda value, _: value, "honoured", required=True),
    "max_completion_tokens": Parameter(checks.whole(1, _MOST_TOKENS), "honoured"),
    "logprobs": Parameter(checks.flag, "honoured where the engine tells"),
    "top_logprobs": Parameter(checks.whole(0, MAX_TOP_LOGPROBS), _TOP),
    "response_format": Parameter(checks.response_format, "honoured"),
    "tools": Parameter(checks.tools, "honoured where the model's family is known"),
    "tool_choice": Parameter(checks.tool_choice, "honoured"),
    "parallel_tool_calls": Parameter(
        checks.flag, "honoured; with false an answer ends after its first call"
    ),
    "modalities": Parameter(checks.modalities, "text alone"),
    "audio": _refused("text alone", "Leave it out."),
    "prediction": _refused("engines do not offer it", "Leave it out."),
    "reasoning_effort": _refused("models decide", "Leave it out."),
    "verbosity": _refused("models decide", "Leave it out; say it in a message."),
    "web_search_options": _refused("nothing is searched", "Leave it out."),
    "functions": _refused("OpenAI gave it up", "Send tools."),
    "function_call": _refused("OpenAI gave it up", "Send tool_choice."),
    "store": Parameter(checks.one_of(False), "nothing is kept"),
    "metadata": _refused("nothing is kept that it could be found by", "Leave it out.", {}),
    "service_tier": Parameter(checks.one_of("auto", "default"), "there is one tier"),
    "safety_identifier": Parameter(checks.text, "taken, not used"),
    "prompt_cache_key": Parameter(checks.text, "taken, not used"),
}

COMPLETIONS: Mapping[str, Parameter] = {
    **_SAMPLING,
    "model": CHAT["model"],
    "prompt": Parameter(lambda value, _: value, "honoured", required=True),
    "best_of": Parameter(checks.whole(1, MAX_CHOICES), "only as many as n"),
    "echo": Parameter(checks.flag, "honoured; not with logprobs: engines do not tell the prompt's"),
    "logprobs": Parameter(checks.whole(0, 5), _TOP),
    "suffix": _refused("models fill no gaps", "Leave it out.", ""),
}

EMBEDDINGS: Mapping[str, Parameter] = {
    "model": CHAT["model"],
    "input": Parameter(
        lambda value, _: value, "texts; tokens only for models of other servers", required=True
    ),
    "encoding_format": Parameter(checks.one_of("float", "base64"), "honoured"),
    "dimensions": Parameter(
        checks.whole(1, 2**20),
        "only as many as the model gives; models of other servers judge it themselves",
    ),
    "user": Parameter(checks.text, "taken, not used"),
}

FINE_TUNING: Mapping[str, Parameter] = {
    "model": Parameter(
        checks.named, "a version, such as smollm2:1, or a deployment that serves one", required=True
    ),
    "training_file": Parameter(
        checks.file_id, "a file of the purpose fine-tune: chats or completions", required=True
    ),
    "validation_file": Parameter(
        checks.file_id, "the same; without it a part of the training file is held out"
    ),
    "suffix": Parameter(
        checks.suffix, "the adapter's name behind the deployment's, or a part of the new model's"
    ),
    "seed": Parameter(checks.whole(0, 2**31 - 1), "honoured; one is drawn without it"),
    "method": Parameter(
        checks.method, "supervised, with hyperparameters n_epochs, batch_size and "
        "learning_rate_multiplier; dpo and reinforcement are refused"
    ),
    "hyperparameters": Parameter(
        checks.hyperparameters, "as method.supervised.hyperparameters, which is its new place"
    ),
    "metadata": Parameter(checks.metadata, "honoured; jobs are listed by it"),
    "integrations": _refused("nothing leaves the platform", "Leave it out; read the events.", []),
}  # fmt: skip

FILES: Mapping[str, Parameter] = {
    "purpose": Parameter(checks.one_of("batch", "fine-tune"), "batch or fine-tune", required=True),
    "file": Parameter(lambda value, _: value, "honoured; of any name", required=True),
    "expires_after": _refused("files do not expire", "Leave it out."),
}

BATCH_ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
BATCHES: Mapping[str, Parameter] = {
    "input_file_id": Parameter(checks.file_id, "a file of the purpose batch", required=True),
    "endpoint": Parameter(
        checks.one_of(*BATCH_ENDPOINTS), "one for all lines: " + ", ".join(BATCH_ENDPOINTS),
        required=True,
    ),
    "completion_window": Parameter(checks.one_of("24h"), "24h", required=True),
    "metadata": Parameter(checks.metadata, "kept and shown"),
    "output_expires_after": _refused("files do not expire", "Leave it out."),
}  # fmt: skip


def read(table: Mapping[str, Parameter], body: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that were sent, checked. Raises `invalid_field` with the name."""
    found = {}
    for name, parameter in table.items():
        value = body.get(name)
        if value is not None:
            found[name] = parameter.check(value, name)
        elif parameter.required:
            raise invalid(name, "it is missing")
    return found
