"""One replica of SmolLM2 for all tests that do not end it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import helpers_llm
from serve.generation.rig import CONTEXT, Process, Scripted, Worker


@pytest.fixture(scope="session")
def replica() -> Iterator[Process]:
    path = helpers_llm.weights()
    process = Process(helpers_llm.manifest(path, context=CONTEXT, family="hermes"), [path])
    yield process
    process.close()


@pytest.fixture
def worker(replica: Process) -> Iterator[Worker]:
    worker = replica.connect()
    yield worker
    worker.close()


@pytest.fixture(scope="session")
def bare() -> Any:
    """The engine alone, as its own documentation uses it: what ours is compared with."""
    openvino_genai = pytest.importorskip("openvino_genai")
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1
    scheduler.max_num_seqs = 4
    return openvino_genai.ContinuousBatchingPipeline(
        helpers_llm.weights(), scheduler, "CPU", {"INFERENCE_NUM_THREADS": 2}
    )


@pytest.fixture
def scripted() -> Iterator[Scripted]:
    process = Scripted()
    yield process
    process.close()
