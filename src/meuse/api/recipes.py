"""Recipes: which ways to train there are, and what each can be told."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter

from meuse.api.context import requires
from meuse.core.errors import not_found
from meuse.core.nouns import Principal
from meuse.train import recipes
from meuse.train.options import LoopOptions
from meuse.train.prepare.options import PrepareOptions
from meuse.train.recipes import Recipe
from meuse.train.typed import schema

router = APIRouter(prefix="/api/recipes", tags=["jobs"])
Caller = Annotated[Principal, requires("train")]


def describe(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "summary": recipe.summary,
        "data": sorted(recipe.data),
        "tasks": sorted(recipe.tasks),
        "defaults": dict(recipe.defaults),
    }


@router.get("")
def listing(caller: Caller) -> dict[str, Any]:
    """Every recipe with what it takes and does."""
    return {"items": [describe(recipes.find(name)) for name in recipes.names()]}


@router.get("/{name}")
def one(caller: Caller, name: str) -> dict[str, Any]:
    """A recipe with the JSON schemas of its `config`, of the loop's `options` (null for one
    with a training of its own) and of `prepare`."""
    if name not in recipes.names():
        raise not_found("recipe", name)
    recipe = recipes.find(name)
    return {
        **describe(recipe),
        "config": recipe.schema(),
        "options": schema(LoopOptions) if recipe.fit is None else None,
        "prepare": schema(PrepareOptions),
    }
