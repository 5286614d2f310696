"""Budgets in the ledger's own API."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def budget_routes(tell: Callable[[str], dict[str, Any]]) -> list[Route]:
    """`GET /budgets/{id}`: what one comes to by the records. `tell` raises `not_found`."""

    def one_budget(request: Request) -> Response:
        body = json.dumps(tell(request.path_params["id"]))
        return Response(body, media_type="application/json")

    return [Route("/budgets/{id}", one_budget, methods=["GET"])]
