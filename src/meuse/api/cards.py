"""What is known of how good a version is: its evaluations and its card."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from meuse.api.context import Number, Parts, requires
from meuse.core.clock import to_rfc3339
from meuse.core.nouns import Principal, StoredEvaluation
from meuse.registry import card as cards

router = APIRouter(prefix="/api/models", tags=["models"])
Caller = Annotated[Principal, requires("models")]

IN_CARD = 5
"""How many of the newest evaluations stand in a card."""
_TYPES = {"application/json": "json", "text/markdown": "markdown", "text/html": "html"}
_CONTENT = {"markdown": "text/markdown; charset=utf-8", "html": "text/html; charset=utf-8"}


def _describe(found: StoredEvaluation) -> dict[str, Any]:
    return {
        "model": found.ref,
        "job": found.job,
        "created": to_rfc3339(found.created_ms),
        **found.body,
    }


@router.get("/{name}/versions/{version}/evaluations")
def evaluations(
    parts: Parts,
    caller: Caller,
    name: str,
    version: Number,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> dict[str, Any]:
    """What the version scored, in training and in `evaluate` jobs, newest first."""
    parts.registry.get_version(caller.scope, name, version)
    found = parts.registry.evaluations(caller.scope, name, version, limit)
    return {"items": [_describe(one) for one in found]}


@router.get(
    "/{name}/versions/{version}/card",
    responses={200: {"content": {kind: {} for kind in _TYPES}}},
)
def card(
    request: Request,
    parts: Parts,
    caller: Caller,
    name: str,
    version: Number,
    format: Literal["json", "markdown", "html"] | None = None,
) -> Response:
    """The model card, of what was measured. JSON, or by `Accept` or `format` Markdown or a
    page."""
    found = parts.registry.get_version(caller.scope, name, version)
    kept = parts.registry.evaluations(caller.scope, name, version, IN_CARD)
    body = cards.compose(found, found.card, [_describe(one) for one in kept])
    chosen = format or _accepted(request.headers.get("accept", ""))
    if chosen == "json":
        return Response(json.dumps(body, allow_nan=False), media_type="application/json")
    text = cards.to_html(body) if chosen == "html" else cards.to_markdown(body)
    # No script and nothing from elsewhere, whatever stands in the card.
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    headers = {"content-security-policy": policy, "vary": "accept"}
    return Response(text, media_type=_CONTENT[chosen], headers=headers)


def _accepted(header: str) -> str:
    """The best of what the header names (by q, then by order); JSON when it names none."""
    best, chosen = 0.0, "json"
    for part in header.split(","):
        kind, _, parameters = part.partition(";")
        name = _TYPES.get(kind.strip().lower())
        if name is None:
            continue
        try:
            quality = float(parameters.replace(" ", "").partition("q=")[2] or 1)
        except ValueError:
            quality = 0.0
        if quality > best:
            best, chosen = quality, name
    return chosen
