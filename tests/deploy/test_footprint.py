"""deploy.footprint: measured, remembered, guessed"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

from meuse.core.nouns import Artifact
from meuse.deploy.footprint import (
    AGAIN_S,
    BASE,
    PER_BYTE,
    Footprints,
    Load,
    machine_budget,
    resident,
)
from meuse.deploy.plan import Replica

MIB = 1024 * 1024
LOADS = {f"r{i}": Load.of(Artifact("model.onnx", "onnx", f"digest{i}", 1000)) for i in (1, 2)}


def test_this_process_has_a_size() -> None:
    """What is measured of a live process is more than nothing and less than the machine."""
    size = resident(os.getpid())
    assert size is not None
    assert 4 * MIB < size < machine_budget()
    assert resident(2**22 + 1) is None


def held(prints: Footprints, running: list[Replica], idle: bool = True) -> dict[str, int]:
    """Bytes by deployment; "" for what ends."""
    found = prints.held(running, LOADS, lambda name: idle, lambda name: 0.0)
    return {h.name: h.bytes for h in found}


def test_a_measure_replaces_the_guess() -> None:
    """A replica counts as guessed until it is measured; its version is known from then on."""
    now, sizes = [0.0], {1: 70 * MIB}
    prints = Footprints(0, lambda: {"r1": 1, "r2": 2}, sizes.get, lambda: now[0])
    running = [Replica("r1", "a", "m:1", True), Replica("r2", "b", "m:2", False)]
    guess = BASE + PER_BYTE * 1000
    prints.look(running, LOADS)
    assert held(prints, running) == {"": 0, "a": guess, "b": guess}
    now[0] = 2.0
    prints.look(running, LOADS)
    assert held(prints, running) == {"": 0, "a": 70 * MIB, "b": guess}
    assert prints.expected(LOADS["r1"]) == 70 * MIB
    assert prints.expected(LOADS["r2"]) == guess
    sizes[1] = 90 * MIB
    now[0] = 2.0 + AGAIN_S
    prints.look(running, LOADS)
    assert prints.expected(LOADS["r1"]) == 90 * MIB


def test_what_ends_holds_its_memory_until_it_has() -> None:
    """Bytes of a replica that was told to end count while its process is there."""
    now, pids = [0.0], {"r1": 1}
    prints = Footprints(0, lambda: pids, lambda pid: 10 * MIB, lambda: now[0])
    running = [Replica("r1", "a", "m:1", True)]
    prints.look(running, LOADS)
    now[0] = 2.0
    prints.look(running, LOADS)
    assert held(prints, running) == {"": 0, "a": 10 * MIB}
    assert held(prints, []) == {"": 10 * MIB}
    pids.clear()
    prints.look([], LOADS)
    assert held(prints, []) == {"": 0}


def test_what_is_on_its_way_is_not_idle() -> None:
    """A deployment with a replica that is not ready makes no room."""
    prints = Footprints(0, dict, lambda pid: None)
    both = [Replica("r1", "a", "m:1", True), Replica("r2", "a", "m:1", False)]
    found = prints.held(both, LOADS, lambda name: True, lambda name: 5.0)
    assert [(h.name, h.used_at, h.idle) for h in found] == [("", 0.0, False), ("a", 5.0, False)]
    found = prints.held(both[:1], LOADS, lambda name: True, lambda name: 5.0)
    assert found[1].idle


def test_what_will_grow_counts_in_full() -> None:
    """The cache of a language model is empty when it is measured first."""
    now = [0.0]
    prints = Footprints(0, lambda: {"r1": 1}, lambda pid: 30 * MIB, lambda: now[0])
    running = [Replica("r1", "a", "m:1", True)]
    loads = {"r1": Load("digest1", 90 * MIB, least=80 * MIB)}
    for now[0] in (0.0, 2.0):
        prints.look(running, loads)
    found = prints.held(running, loads, lambda name: True, lambda name: 0.0)
    assert [h.bytes for h in found] == [0, 80 * MIB]
    assert prints.expected(loads["r1"]) == 80 * MIB
    assert prints.expected(Load("digest2", 90 * MIB, least=80 * MIB)) == 90 * MIB


def test_a_process_counts_with_those_it_has_started() -> None:
    ready = "print(flush=True); import time; time.sleep(60)"
    inner = f"data = bytearray(40 << 20); data[::4096] = data[1::4096]; {ready}"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {inner!r}]).wait()"
    outer = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        assert outer.stdout is not None
        outer.stdout.readline()
        assert (resident(outer.pid) or 0) > 40 * MIB
    finally:
        os.killpg(outer.pid, signal.SIGKILL)
        outer.communicate()
    assert resident(outer.pid) is None
