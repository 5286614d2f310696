"""The routes of the data plane by path, each with the scope that it needs. Pure."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from urllib.parse import unquote

MAX_PATH = 1024
"""Longer ones are nobody's here."""


@dataclass(frozen=True, slots=True)
class HttpRoute:
    """`{model}` and `{deployment}` take one segment, or `owner/name`."""

    method: str
    pattern: str
    scope: str  # "public", or the scope that the key must have
    handler: str  # a method of `App`


_V2 = "/v2/models/{model}"
# Paths are read from the right: the first pattern that matches wins.
ROUTES = (
    HttpRoute("POST", "/predict", "infer", "predict"),
    HttpRoute("POST", "/predictions/{deployment}", "infer", "predictions"),
    HttpRoute("POST", _V2 + "/versions/{version}/infer", "infer", "infer"),
    HttpRoute("POST", _V2 + "/infer", "infer", "infer"),
    HttpRoute("GET", _V2 + "/versions/{version}/ready", "infer", "model_ready"),
    HttpRoute("GET", _V2 + "/ready", "infer", "model_ready"),
    HttpRoute("GET", "/v2/models/stats", "infer", "statistics"),
    HttpRoute("GET", _V2 + "/versions/{version}/stats", "infer", "model_statistics"),
    HttpRoute("GET", _V2 + "/stats", "infer", "model_statistics"),
    HttpRoute("GET", _V2 + "/versions/{version}", "infer", "model_metadata"),
    HttpRoute("GET", _V2, "infer", "model_metadata"),
    HttpRoute("POST", "/v2/repository/index", "infer", "repository_index"),
    HttpRoute("POST", "/v2/repository/models/{model}/load", "deploy", "load"),
    HttpRoute("POST", "/v2/repository/models/{model}/unload", "deploy", "unload"),
    HttpRoute("POST", "/v1/chat/completions", "infer", "chat"),
    HttpRoute("POST", "/v1/completions", "infer", "completions"),
    HttpRoute("POST", "/v1/embeddings", "infer", "embeddings"),
    HttpRoute("GET", "/v1/models", "infer", "models"),
    HttpRoute("GET", "/v1/models/{model}", "infer", "model"),
    HttpRoute("GET", "/metrics", "usage", "metrics"),
    HttpRoute("GET", "/v2", "public", "server_metadata"),
    HttpRoute("GET", "/v2/health/live", "public", "live"),
    HttpRoute("GET", "/v2/health/ready", "public", "ready"),
    HttpRoute("GET", "/health/live", "public", "live"),
    HttpRoute("GET", "/health/ready", "public", "ready"),
)


def _regex(pattern: str) -> re.Pattern[str]:
    named = pattern.replace("{version}", "(?P<version>[^/]+)")
    named = re.sub(r"\{(model|deployment)\}", r"(?P<model>[^/]+(?:/[^/]+)?)", named)
    return re.compile(named)


_PATTERNS = [(_regex(route.pattern), route) for route in ROUTES]


@dataclass(frozen=True, slots=True)
class Match:
    """A path: what it may be asked for by method, and the names in it."""

    methods: dict[str, HttpRoute]
    model: str
    version: str | None


@functools.lru_cache(1024)
def match(raw_path: bytes) -> Match | None:
    """The routes of an undecoded path; each segment is decoded by itself."""
    path = raw_path.decode("latin-1")
    for pattern, route in _PATTERNS:
        if found := pattern.fullmatch(path):
            same = {r.method: r for _, r in _PATTERNS if r.pattern == route.pattern}
            names = found.groupdict()
            version = names.get("version")
            return Match(
                same, unquote(names.get("model") or ""), unquote(version) if version else None
            )
    return None
