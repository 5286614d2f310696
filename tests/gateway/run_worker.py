"""A gateway worker as a process: `run_worker.py <json>`; see `gateway.rig`.

`head_s`, `body_s`, `stall_s`, `drain_s`, `streams_s`, `max_connections`, `max_rpcs`,
`max_waiting`, `shown_s` and `kept_s` shrink bounds, so that a test can meet them. With
`failing_sync` the journal's disk never says that it has anything.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from meuse.gateway import cork, counters, events, links, metrics, rpc, worker


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    given = json.loads(sys.argv[1])
    for name in ("sockets", "snapshot", "journal", "limits"):
        given[name] = Path(given[name])
    for name in ("pepper", "sealing_key"):
        given[name] = bytes.fromhex(given.get(name, ""))
    cork.HEAD_S = given.pop("head_s", cork.HEAD_S)
    cork.BODY_S = given.pop("body_s", cork.BODY_S)
    worker._MAX_CONNECTIONS = given.pop("max_connections", worker._MAX_CONNECTIONS)
    links.MAX_WAITING = given.pop("max_waiting", links.MAX_WAITING)
    metrics.SHOWN_S = given.pop("shown_s", metrics.SHOWN_S)
    counters.KEPT_S = given.pop("kept_s", counters.KEPT_S)
    events.STALL_S = given.pop("stall_s", events.STALL_S)
    worker.DRAIN_S = given.pop("drain_s", worker.DRAIN_S)
    worker.STREAMS_S = given.pop("streams_s", worker.STREAMS_S)
    rpc._MAX_RPCS = given.pop("max_rpcs", rpc._MAX_RPCS)
    if given.pop("failing_sync", False):
        worker.JournalWriter.sync = _no_disk  # type: ignore[method-assign]
    worker.serve(worker.WorkerConfig(**given))


def _no_disk(self: object) -> None:
    raise OSError("the disk is gone")


if __name__ == "__main__":
    main()
