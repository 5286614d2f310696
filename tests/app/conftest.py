"""A tiny language model, and a desk that fine-tunes it as a job's process does."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers_finetune import Desk
from helpers_llama import checkpoint


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def desk(tmp_path: Path, tiny: Path) -> Desk:
    return Desk(tmp_path, tiny)
