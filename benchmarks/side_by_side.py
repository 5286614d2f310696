"""The same work for many seeds, some side by side, a process each with its share of the cores.

Nothing that is timed belongs in there.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.queues import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def each(one: Callable[[Item], Made], items: Iterable[Item], at_once: int) -> list[Made]:
    """`one` of every item, in their order. With `at_once` 1 they have all cores in turn."""
    cores = sorted(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    shares = spawn.SimpleQueue()
    for number in range(at_once):
        shares.put(cores[number::at_once] or cores)
    with ProcessPoolExecutor(at_once, spawn, _have, (shares,)) as pool:
        return list(pool.map(one, items))


def _have(shares: SimpleQueue[list[int]]) -> None:
    os.sched_setaffinity(0, shares.get())
