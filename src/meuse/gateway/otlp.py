"""Spans of observed requests, sent to an OpenTelemetry collector in the background.

Needs the extra `meuse[otel]`; imported by workers that were given an endpoint only. A span per
request, with spans for the replica's queue and the engine made from what the replica measured.
The queue of spans is bounded: when the collector is slow or away they are dropped, and no
request waits. Attributes have the names of OpenTelemetry's semantic conventions where those
have one, else the prefix `meuse.`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    format_trace_id,
    set_span_in_context,
)

from meuse.core.version import __version__

if TYPE_CHECKING:
    from opentelemetry.util.types import AttributeValue

    from meuse.gateway.observe import Observation, Run
    from meuse.gateway.tracecontext import Trace

MAX_QUEUE = 4096
"""Spans that wait to be sent."""
_SEND_S = 5.0  # how long the collector may take for one batch, repetitions and all
_EVERY_MS = 1000
_CLOSE_S = 2.0
_OUR_FAULT = frozenset(
    {"UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"}
)


class Spans:
    """`endpoint` is the collector's base URL; `ratio` of the requests that come without a trace
    are recorded, the others as their trace says."""

    def __init__(self, endpoint: str, ratio: float, instance: str) -> None:
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces", timeout=_SEND_S)
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=Resource.create(
                {
                    "service.name": "meuse",
                    "service.version": __version__,
                    "service.instance.id": instance,
                }
            ),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUE, schedule_delay_millis=_EVERY_MS)
        )
        self._tracer = self._provider.get_tracer("meuse.gateway", __version__)
        for name in ("opentelemetry.exporter", "opentelemetry.sdk"):
            logging.getLogger(name).setLevel(logging.ERROR)

    def record(self, seen: Observation) -> str:
        """Queue the request's spans, if it is sampled; the id of its trace either way."""
        span = self._tracer.start_span(
            seen.route if seen.protocol == "grpc" else f"{seen.method} {seen.route}",
            _parent(seen.trace),
            SpanKind.SERVER,
            start_time=seen.began_ns,
        )
        context = span.get_span_context()
        if span.is_recording():
            span.set_attributes(_attributes(seen))
            if _is_our_fault(seen.status):
                span.set_status(Status(StatusCode.ERROR))
            inside = set_span_in_context(span, Context())
            for run in seen.runs:
                self._children(inside, run, seen.began_ns)
        span.end(seen.ended_ns)
        return format_trace_id(context.trace_id)

    async def close(self) -> None:
        """Send what waits, for a moment; then it is lost."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, _CLOSE_S)

    def _children(self, inside: Context, run: Run, began_ns: int) -> None:
        """The replica measures durations; where they lie is reckoned back from the answer."""
        started = max(run.ended_ns - run.compute_us * 1000, began_ns)
        queued = max(started - run.queue_us * 1000, began_ns)
        self._tracer.start_span("queue", inside, start_time=queued).end(started)
        rows: dict[str, AttributeValue] = {}
        if run.batch_rows:
            rows["meuse.batch.rows"] = run.batch_rows
        compute = self._tracer.start_span("compute", inside, attributes=rows, start_time=started)
        compute.end(run.ended_ns)


def _parent(trace: Trace | None) -> Context:
    if trace is None:
        return Context()
    return set_span_in_context(
        NonRecordingSpan(
            SpanContext(
                int(trace.trace_id, 16),
                int(trace.parent_id, 16),
                is_remote=True,
                trace_flags=TraceFlags(TraceFlags.SAMPLED if trace.sampled else 0),
                trace_state=TraceState.from_header([trace.state] if trace.state else []),
            )
        ),
        Context(),
    )


def _attributes(seen: Observation) -> dict[str, AttributeValue]:
    if seen.protocol == "grpc":
        found: dict[str, AttributeValue | None] = {
            "rpc.system.name": "grpc",
            "rpc.method": seen.method,
            "rpc.response.status_code": seen.status,
        }
    else:
        found = {
            "http.request.method": seen.method,
            "http.route": seen.route,
            "http.response.status_code": seen.status,
            "url.path": seen.path,
            "url.scheme": "http",
        }
    found |= {
        "error.type": str(seen.code) if seen.code is not None else None,
        "meuse.request_id": seen.request_id,
        "meuse.deployment": seen.deployment,
        "meuse.version": seen.version,
        "meuse.rows": seen.rows,
    }
    return {name: value for name, value in found.items() if value is not None}


def _is_our_fault(status: int | str | None) -> bool:
    return status >= 500 if isinstance(status, int) else status in _OUR_FAULT
