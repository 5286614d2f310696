"""A gateway worker: the data plane. Stays lean: no FastAPI, SQLAlchemy, torch or engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meuse.app import commands
from meuse.gateway.worker import WorkerConfig, serve
from meuse.settings import load


def main(argv: Sequence[str]) -> int:
    options = commands.parse(
        "worker", argv, "sockets host", "lifeline ready slot epoch http-fd grpc-port workers"
    )
    commands.log_to_stderr(f"worker-{options.slot}")
    settings = load(options.home)
    host = f"[{options.host}]" if ":" in options.host else options.host
    serve(
        WorkerConfig(
            slot=options.slot,
            epoch=options.epoch,
            host=commands.host_name(),
            http_fd=options.http_fd,
            grpc_address=f"{host}:{options.grpc_port}",
            sockets=Path(options.sockets),
            snapshot=settings.snapshot,
            journal=settings.journal,
            limits=settings.limits,
            pepper=settings.pepper.read_bytes(),
            max_body_bytes=settings.max_body_bytes,
            max_upload_bytes=settings.max_upload_bytes,
            max_model_bytes=settings.max_model_bytes,
            lifeline_fd=options.lifeline,
            workers=options.workers,
            log_requests=settings.log_requests,
            otlp_endpoint=settings.otlp_endpoint,
            trace_ratio=settings.trace_ratio,
            external_hosts=settings.external_hosts,
            sealing_key=settings.sealing_key.read_bytes(),
            journal_mode=settings.journal_mode,
            journal_full=settings.journal_full,
            ready_fd=options.ready,
        )
    )
    return 0
