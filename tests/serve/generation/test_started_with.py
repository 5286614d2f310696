"""Options of a deployment, as a replica process is started with them: its engine has them."""

from __future__ import annotations

import contextlib
import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

import helpers_lora
from meuse.serve.frames import Started, Tokens
from meuse.serve.generation import manifest as manifests
from serve.generation.rig import Answer, Process, Worker, raw

pytest.importorskip("openvino_genai")
pytest.importorskip("transformers")
pytestmark = pytest.mark.timeout(500)

LONG = 300
"""Tokens of a prompt: the model's are bytes."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    model = helpers_lora.tiny(tmp_path_factory.mktemp("tiny"))
    return sorted(path for path in model.iterdir() if path.is_file())


@contextlib.contextmanager
def started(files: list[Path], **options: int | str) -> Iterator[Worker]:
    process = Process(helpers_lora.manifest("ir", files), files, **options)
    try:
        yield process.connect()
    finally:
        process.close()


@pytest.mark.parametrize("most", [64, 128])
def test_a_long_prompt_comes_in_parts_beside_a_stream(files: list[Path], most: int) -> None:
    """Each step has a token of the stream, and of the prompt as many as still fit in."""
    with started(files, **{"max-batched-tokens": most}) as worker:
        stream = worker.send(raw("a", max_tokens=400, ignore_eos=True))
        long = worker.send(raw("b" * LONG, max_tokens=1, ignore_eos=True))
        worker.wait(long)
        first = next(
            i for i, each in enumerate(worker.came)
            if isinstance(each, Started) and each.number == long
        )  # fmt: skip
        steps = [each.parts for each in worker.came[first:] if isinstance(each, Tokens)]
        taken = 1 + next(i for i, parts in enumerate(steps) if long in [p.number for p in parts])
        assert taken == math.ceil(LONG / (most - 1))
        given = [part.tokens for parts in steps[:taken] for part in parts if part.number == stream]
        assert given == list(range(given[0], given[0] + taken))


def test_a_draft_saves_steps_and_changes_nothing(files: list[Path]) -> None:
    """The model guesses for itself, and is right, mostly: steps give several tokens."""

    def answer(**options: int | str) -> Answer:
        with started(files, **options) as worker:
            return worker.ask(raw("abcabc", max_tokens=40, ignore_eos=True, logprobs=0))

    manifest = manifests.encode(helpers_lora.manifest("ir", files))
    draft = hashlib.sha256(manifest).hexdigest()
    alone, guessed = answer(), answer(draft=draft, **{"assistant-tokens": 3})
    assert guessed.pieces() == alone.pieces()
    assert len(guessed.parts) < len(alone.parts) * 3 / 4
