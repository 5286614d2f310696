"""What is read and refused between two steps makes no long pause in the streams of others."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest

import helpers_llm
from meuse.serve.generation.messages import Ask, Format
from serve.generation.rig import CONTEXT, Process, chat, raw

pytestmark = pytest.mark.timeout(500)  # the model is loaded within the first test

WORK_S, WALL_S = 2.0, 10.0
"""Of the replica's own work, and by the clock of a machine that others use meanwhile. A template
alone may work for half a second."""
LOOP = (
    "{% if messages[0]['content'] == 'loop' %}{% for a in range(99999) %}"
    "{% for b in range(99999) %}{% endfor %}{% endfor %}{% endif %}"
)


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """A replica whose template does not end with some conversations."""
    path = helpers_llm.weights()
    template = LOOP + helpers_llm.CHATML
    made = Process(helpers_llm.manifest(path, context=CONTEXT, chat_template=template), [path])
    yield made
    made.close()


def shaped(schema: bytes) -> Ask:
    return msgspec.structs.replace(chat("As JSON."), format=Format("json_schema", schema))


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (shaped(b'{"type": "string", "pattern": "["}'), "the engine cannot hold text to it"),
        (chat("loop"), "did not end within"),
    ],
    ids=["no grammar", "a template that loops"],
)
def test_a_refusal_makes_no_long_pause(process: Process, ask: Ask, says: str) -> None:
    """From before one is asked until after it was answered, a stream beside it goes on."""
    worker = process.connect()

    def now() -> tuple[float, float]:
        clock = ~process.process.pid << 3 | 2  # of its processor time: clock_getcpuclockid(3)
        return time.monotonic(), time.clock_gettime(clock)

    stream = worker.send(raw("Once upon a time", max_tokens=900, ignore_eos=True))
    parts = worker.answers[stream].parts
    while len(parts) < 3:
        worker.read()
    refused = worker.answers[worker.send(ask)]
    times, after = [now()], 0
    while after < 3:
        count = len(parts)
        worker.read()
        if len(parts) > count:
            times.append(now())
            after += refused.finished is not None
    worker.cancel(stream)
    assert says in refused.error.message
    assert worker.wait(stream).error.code == "cancelled"  # it was still there
    wall, work = np.diff(times, axis=0).max(axis=0)
    assert work < WORK_S
    assert wall < WALL_S
