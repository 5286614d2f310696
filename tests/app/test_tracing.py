"""app.up: what a setting needs is there before anything starts."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from meuse.app import up
from meuse.core.errors import MeuseError
from meuse.settings import load


def test_traces_need_their_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint without the extra is refused at the start, with the way to install it."""
    up.check_tracing(load(tmp_path, {"MEUSE_OTLP_ENDPOINT": "http://127.0.0.1:4318"}))

    def absent(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", absent)
    up.check_tracing(load(tmp_path, {}))
    with pytest.raises(MeuseError) as refusal:
        up.check_tracing(load(tmp_path, {"MEUSE_OTLP_ENDPOINT": "http://127.0.0.1:4318"}))
    assert refusal.value.field == "otlp_endpoint"
    assert "meuse[otel]" in str(refusal.value)
