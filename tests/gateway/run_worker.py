"""A gateway worker as a process: `run_worker.py <json>`; see `gateway.rig`."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from meuse.gateway.worker import WorkerConfig, serve


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    given = json.loads(sys.argv[1])
    for name in ("sockets", "snapshot", "journal"):
        given[name] = Path(given[name])
    given["pepper"] = bytes.fromhex(given["pepper"])
    serve(WorkerConfig(**given))


if __name__ == "__main__":
    main()
