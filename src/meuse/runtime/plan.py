"""What a supervisor is told to run. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Commands may use {sockets} {lifeline} {ready} {epoch} {build} {http} (a listening socket)
    {http_port} {grpc_port}, the worker's {slot}, control {control} (its pipe), `again` {state}.

    `roles` maps a name (`control`, `ledger`) to its command; `worker` is run `workers` times,
    each as `worker-<slot>`. No two live workers share a slot: a successor takes a free one, so
    slots are below twice `workers`. `again` executes this program anew, after `check` has run
    well. What runs is written to `run_file` at every change.
    """

    home: Path
    host: str
    http_port: int
    grpc_port: int
    roles: dict[str, list[str]]
    worker: list[str]
    workers: int
    again: list[str]
    check: list[str]
    version: str
    run_file: Path
    logs: Path
