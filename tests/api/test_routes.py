"""Every management route names the scope that it needs."""

from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from meuse.api import (
    access,
    aliases,
    cards,
    dataset_uploads,
    datasets,
    deployments,
    invoices,
    jobs,
    limits,
    methods,
    models,
    money,
    openai_batches,
    openai_files,
    openai_fine_tuning,
    plans,
    reports,
    usage_events,
    wallets,
)
from meuse.core.nouns import SCOPES

ROUTERS = (
    dataset_uploads, datasets, jobs, models, aliases, cards, deployments, access, plans, limits,
    money, invoices, usage_events, wallets, methods, reports, openai_files, openai_batches,
    openai_fine_tuning,
)  # fmt: skip


def scopes_of(dependant: Dependant) -> set[str]:
    found = {getattr(dependant.call, "meuse_scope", None)} - {None}
    for inner in dependant.dependencies:
        found |= scopes_of(inner)
    return found


def test_every_route_asks_for_exactly_one_known_scope() -> None:
    """Deny by default: a route without a scope fails here before it can be shipped."""
    routes = [r for part in ROUTERS for r in part.router.routes if isinstance(r, APIRoute)]
    assert len(routes) >= 30
    for route in routes:
        found = scopes_of(route.dependant)
        assert len(found) == 1, route.path
        assert found <= SCOPES, route.path


def test_no_route_hides_another() -> None:
    """No two routes answer the same method and path."""
    seen = [
        (method, route.path)
        for part in ROUTERS
        for route in part.router.routes
        if isinstance(route, APIRoute)
        for method in route.methods
    ]
    assert len(set(seen)) == len(seen)
