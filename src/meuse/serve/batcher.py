"""Running a batch: what is joined, split again, and told when it fails.

Whatever fails together is run again one by one, so that a bad request fails alone. Pure of
sockets and of time; may be called from another thread than the queue's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Engine
from meuse.serve.queue import Item

Mark = Callable[[Sequence[bytes]], None]


@dataclass(slots=True)
class Done:
    """One answer. `error` and `outputs` exclude each other. `batch_rows` stands in the first
    answer of each batch that ran."""

    item: Item
    outputs: dict[str, NDArray[Any]]
    rows: int
    compute_us: int
    error: MeuseError | None = None
    queue_us: int = 0
    batch_rows: int = 0


def now_us() -> int:
    """The clock of queues and batches: monotonic µs."""
    return time.perf_counter_ns() // 1000


def run_batch(engine: Engine, batch: list[Item], mark: Mark) -> list[Done]:
    """Answer every request of a batch, expired and cancelled ones without running them."""
    started = now_us()
    live: list[Item] = []
    ids: list[bytes] = []
    done: list[Done] = []
    total = 0
    for item in batch:
        if item.cancelled:
            done.append(Done(item, {}, 0, 0, cancelled()))
        elif item.deadline_us <= started:
            error = MeuseError(
                Code.DEADLINE_EXCEEDED, "the deadline passed while the request was queued"
            )
            done.append(Done(item, {}, 0, 0, error, started - item.arrived_us))
        else:
            live.append(item)
            ids.append(item.header.id)
            total += item.rows
    if not live:
        return done
    mark(ids)
    try:
        outputs = _run(engine, live, total)
    except Exception as error:  # whatever an engine raises
        spent = now_us() - started
        if len(live) == 1:
            failure = cancelled() if live[0].cancelled else _engine_error(error)
            waited = started - live[0].arrived_us
            done.append(Done(live[0], {}, 0, spent, failure, waited, total))
        else:
            for item in live:
                done += run_batch(engine, [item], mark)
        return done
    spent = now_us() - started
    if len(live) == 1:
        waited = started - live[0].arrived_us
        done.append(Done(live[0], outputs, live[0].rows, spent, None, waited, total))
        return done
    start = 0
    for item in live:
        end = start + item.rows
        mine = {name: value[start:end] for name, value in outputs.items()}
        # Shares are cut by position so that they add up to the whole.
        share = spent * end // total - spent * start // total
        waited = started - item.arrived_us
        done.append(Done(item, mine, item.rows, share, None, waited, 0 if start else total))
        start = end
    return done


def cancelled() -> MeuseError:
    return MeuseError(Code.CANCELLED, "nobody waits for this request any more")


def _run(engine: Engine, items: list[Item], rows: int) -> dict[str, NDArray[Any]]:
    if len(items) == 1:
        # Views of received bytes may be unaligned, which an engine need not expect.
        single = {n: a if a.flags.aligned else a.copy() for n, a in items[0].inputs.items()}
        return engine.run(single)
    joined = {
        name: np.concatenate([item.inputs[name] for item in items]) for name in items[0].inputs
    }
    outputs = engine.run(joined)
    for name, value in outputs.items():
        if value.shape[:1] != (rows,):
            raise ValueError(f"output {name!r} has shape {value.shape} for {rows} rows")
    return outputs


def _engine_error(error: Exception) -> MeuseError:
    if isinstance(error, MeuseError):
        return error
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return MeuseError(Code.ENGINE_ERROR, f"the model failed: {lines[0][:500]}")
