"""deploy.footprint: measured, remembered, guessed"""

from __future__ import annotations

import os

from meuse.deploy.footprint import AGAIN_S, BASE, Footprints, machine_budget, resident
from meuse.deploy.plan import Replica

MIB = 1024 * 1024


def test_this_process_has_a_size() -> None:
    """What is measured of a live process is more than nothing and less than the machine."""
    size = resident(os.getpid())
    assert size is not None
    assert 4 * MIB < size < machine_budget()
    assert resident(2**22 + 1) is None


def test_a_measure_replaces_the_guess() -> None:
    """A replica counts as guessed until it is measured; its version is known from then on."""
    now, sizes = [0.0], {"r1": 70 * MIB}
    pids = {"r1": 1, "r2": 2}
    prints = Footprints(lambda: pids, lambda pid: sizes.get(f"r{pid}"), lambda: now[0])
    running = [Replica("r1", "a", "m:1", True), Replica("r2", "a", "m:1", False)]
    digests = {"r1": "d", "r2": "d"}
    prints.look(running, digests)
    assert prints.of("r1", 5) == 5
    now[0] = 2.0
    prints.look(running, digests)
    assert (prints.of("r1", 5), prints.of("r2", 5)) == (70 * MIB, 5)
    assert prints.expected("d", 1000) == 70 * MIB
    assert prints.expected("e", 1000) == BASE + 3000
    sizes["r1"] = 90 * MIB
    now[0] = 2.0 + AGAIN_S
    prints.look(running, digests)
    assert prints.expected("d", 1000) == 90 * MIB


def test_what_ends_holds_its_memory_until_it_has() -> None:
    """Bytes of a replica that was told to end count while its process is there."""
    now, pids = [0.0], {"r1": 1}
    prints = Footprints(lambda: pids, lambda pid: 10 * MIB, lambda: now[0])
    running = [Replica("r1", "a", "m:1", True)]
    prints.look(running, {})
    now[0] = 2.0
    prints.look(running, {})
    assert prints.leaving(running) == 0
    assert prints.leaving([]) == 10 * MIB
    pids.clear()
    prints.look([], {})
    assert prints.leaving([]) == 0
