"""What a replica refuses before it loads anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from meuse.core.errors import MeuseError
from meuse.serve.generation import load
from meuse.serve.generation.manifest import Manifest
from meuse.serve.generation.tuning import Tuning


def test_adapters_and_a_cache_of_prefixes_exclude_each_other(tmp_path: Path) -> None:
    """It knows tokens alone: an answer of one adapter would go on from another's."""
    options = load.Options(max_adapters=2, tuning=Tuning(prefix_cache=True))
    described = Manifest(layout="ir", files=(), architecture="llama", context=8, vocabulary=9,
                         parameters=1, source="here")  # fmt: skip
    with pytest.raises(MeuseError) as caught:
        load.load(described, tmp_path, options, lambda digest: b"")
    assert caught.value.field == "engine.prefix_cache"
