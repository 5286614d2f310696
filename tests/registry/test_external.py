"""registry.external: what is registered of another server's model, and what cannot be"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from meuse.core.errors import MeuseError
from meuse.registry import external
from meuse.serve.snapshot import GenerationEntry

GOOD = {"url": "https://api.example.org/v1/", "upstream_model": "m", "context": 8192}


def test_what_it_tells() -> None:
    found, key = external.parse({**GOOD, "api_key": "sk-1"})
    assert (found.url, key) == ("https://api.example.org/v1", "sk-1")
    assert b"sk-1" not in found.document()
    told = found.report(has_key=True)
    assert msgspec.convert(told["generation"], GenerationEntry).context == 8192
    assert "sk-1" not in str(told)


@pytest.mark.parametrize(
    ("field", "value"),
    [("url", "ftp://x/v1"), ("url", "https://x/v1?key=1"), ("url", 5), ("upstream_model", ""),
     ("context", 0), ("context", None), ("api_key", "a b"), ("api_key", "a\r\nx: y"),
     ("tokens_per_byte", 0), ("template_tokens", -1), ("odd", 1)],
)  # fmt: skip
def test_what_it_refuses(field: str, value: Any) -> None:
    with pytest.raises(MeuseError) as caught:
        external.parse({**GOOD, field: value})
    assert caught.value.field == field
    if field == "api_key":
        assert value not in str(caught.value)
