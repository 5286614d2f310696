"""Write docs/errors.md and docs/openai-parameters.md from the tables in the source.

`--check` fails when one of them is stale.
"""

from __future__ import annotations

import sys
from pathlib import Path

from meuse.core.errors import STATUS
from meuse.gateway.openai import parameters

DOCS = Path(__file__).parent.parent / "docs"

MEANING = {
    "invalid_request": "The request as a whole makes no sense here.",
    "invalid_json": "The body is not JSON, or not an object.",
    "invalid_field": "A field is missing, unknown or has a value that cannot be; `field` names it.",
    "invalid_data": "A dataset cannot be used; `field` names the line, column or split.",
    "invalid_input": "An inference input does not fit the model's signature.",
    "context_length_exceeded": "A prompt is longer than the model's context window; the message "
    "has both counts, exact up to twice the window.",
    "unauthenticated": "The key is missing, malformed, unknown, expired or revoked.",
    "forbidden": "The key is known and lacks the scope.",
    "not_found": "There is no such thing, or the caller may not know of it.",
    "method_not_allowed": "The path exists, with other methods.",
    "conflict": "The thing is in a state, or in use, that forbids this.",
    "precondition_failed": "`If-Match` names another generation.",
    "too_large": "The body, or the memory that a job needs, is over the limit.",
    "unsupported_media_type": "The content type is not one that this call reads.",
    "gate_refused": "A compressed model missed its goal; the message has the numbers.",
    "quarantined": "This request ended the engine's process more than once.",
    "cancelled": "The job was cancelled.",
    "budget_exceeded": "A hard budget has not enough left; the message says when it resets.",
    "unrated": "A hard budget counts money, and what this work costs is not known: no plan, no "
    "price or another currency.",
    "overloaded": "The queue is full; try again later.",
    "rate_limited": "A rate or concurrency limit is reached; `Retry-After` says how long to wait.",
    "limit_exceeded": "A tenant's quota is used up; the message names it and has the numbers.",
    "engine_error": "The model failed on this input.",
    "internal": "A fault of ours; the logs have the cause under the request id.",
    "upstream_error": "A server elsewhere that runs this model failed, or answered with nonsense.",
    "unavailable": "A part that this call needs is down or not ready; try again.",
    "deadline_exceeded": "No answer within the deployment's timeout.",
}


def errors() -> str:
    rows = [
        f"| `{code}` | {http} | {grpc} | {MEANING[code]} |" for code, (http, grpc) in STATUS.items()
    ]
    return "\n".join(
        [
            "# Errors",
            "",
            "Every error is `{error: {code, message, field, hint, request_id}}`; Open Inference",
            'REST answers `{"error": "…"}` and gRPC a status with the message, as their',
            "protocols ask. Codes are a closed list: rely on them, not on messages.",
            "",
            "| code | HTTP | gRPC | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )


def openai_parameters() -> str:
    lines = [
        "# Parameters of the OpenAI API",
        "",
        "Each is honoured, or refused by 400 with its name in `param`. `null` is as if it were not",
        "sent. What stands in no table is passed over, so that clients of later versions work.",
    ]
    for path, table in (
        ("/v1/chat/completions", parameters.CHAT),
        ("/v1/completions", parameters.COMPLETIONS),
        ("/v1/embeddings", parameters.EMBEDDINGS),
        ("/v1/files", parameters.FILES),
        ("/v1/batches", parameters.BATCHES),
        ("/v1/fine_tuning/jobs", parameters.FINE_TUNING),
    ):
        lines += ["", f"## `{path}`", "", "| parameter | what is made of it |", "|---|---|"]
        lines += [
            f"| `{name}`{' (required)' if row.required else ''} | {row.note} |"
            for name, row in table.items()
        ]
    return "\n".join([*lines, ""])


def main() -> int:
    stale = False
    for name, text in (("errors.md", errors()), ("openai-parameters.md", openai_parameters())):
        target = DOCS / name
        if "--check" not in sys.argv:
            target.write_text(text)
        elif not target.exists() or target.read_text() != text:
            sys.stderr.write(f"docs/{name} is stale: run python tools/generate_docs.py\n")
            stale = True
    return int(stale)


if __name__ == "__main__":
    sys.exit(main())
