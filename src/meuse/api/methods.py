"""Methods of compression: which there are, what each can be told, and where it comes from."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter

from meuse.api.context import requires
from meuse.compress.catalog import METHODS
from meuse.compress.method import Method
from meuse.core.errors import not_found
from meuse.core.nouns import Principal

router = APIRouter(prefix="/api/methods", tags=["jobs"])
Caller = Annotated[Principal, requires("train")]


def describe(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "summary": method.summary,
        "paper": method.paper,
        "stage": method.stage,
        "lossless": method.lossless,
        "config": method.schema(),
    }


@router.get("")
def listing(caller: Caller) -> dict[str, Any]:
    """Every method with its paper and the JSON schema of its config. `stage`: what it works on;
    steps on the network come before steps on the graph."""
    return {"items": [describe(method) for method in METHODS.values()]}


@router.get("/{name}")
def one(caller: Caller, name: str) -> dict[str, Any]:
    if name not in METHODS:
        raise not_found("method", name, f"Use one of: {', '.join(METHODS)}.")
    return describe(METHODS[name])
