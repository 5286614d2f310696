"""What a call to an external server holds of its caller's limits, and what is recorded of it.

Reserved from above at admission; counted by the events that come, and at the end by what the
server tells, or by an estimate. Knows no connection.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meuse.core.clock import now_ms
from meuse.core.errors import MeuseError
from meuse.gateway.generation import CHECKPOINT_MS, CHECKPOINT_TOKENS, quantities
from meuse.gateway.routes import Caller, Target
from meuse.gateway.upstream import events
from meuse.gateway.upstream.asked import EMBEDDINGS, Sent
from meuse.gateway.upstream.events import Events, Usage
from meuse.gateway.usage import Status
from meuse.meter.checks import Grant

if TYPE_CHECKING:
    from meuse.gateway.dataplane import DataPlane

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Counted:
    """Quantities by meter; `estimated` where the server did not tell all of them."""

    quantities: dict[str, int]
    estimated: bool = False


class Account:
    """`reserve` it, then `release` it or `record` what it came to, the last time `final`."""

    def __init__(self, plane: DataPlane, sent: Sent, protocol: str, id: bytes) -> None:
        self._plane = plane
        self._sent = sent
        self._protocol = protocol
        self._id = id
        self._grant: Grant | None = None
        self._most = 0
        self._counted: dict[str, int] = {}
        self._seq = self._recorded_tokens = self._recorded_ms = 0
        self._caller: Caller
        self._target: Target

    def reserve(self, caller: Caller, target: Target) -> int | None:
        """Room for the most that it can come to; what one choice may come to where its caller
        said nothing and a budget leaves less than the context. Raises `MeuseError`."""
        self._caller, self._target = caller, target
        entry, sent = target.entry.generation, self._sent
        assert entry is not None
        bound = math.ceil(sent.size * entry.tokens_per_byte) + entry.template_tokens
        most = entry.context if sent.most is None else min(sent.most, entry.context)
        self._most = most * sent.choices
        plan = self._plane.plan(caller, target.route)
        self._plane.usage.durability.check(plan)
        if plan is None:
            return None
        needs = {
            "requests": 1,
            "prompt_tokens": min(bound, entry.context * sent.inputs),
            "completion_tokens": self._most,
        }
        if self._protocol == EMBEDDINGS:
            needs["rows"] = sent.inputs
        elastic = "completion_tokens" if sent.most is None else ""
        least = sent.choices  # each has a token at least
        self._grant = self._plane.limits.admit(plan, needs, elastic=elastic, least=least)
        self._most = self._grant.held_of("completion_tokens") or self._most
        if sent.most is not None or self._most >= entry.context * sent.choices:
            return None
        return self._most // sent.choices or 1

    def release(self) -> None:
        """As if it had never been."""
        if self._grant is not None:
            self._plane.limits.release(self._grant)
            self._grant = None

    def checkpoint(self, stream: Events) -> None:
        """Now and then: of the answer alone, and from below. What the prompt has is told at the
        end. Raises `unavailable` where it cannot be recorded."""
        # A choice has an event for its role and one for its end: of one `tokens` knows.
        now, tokens = now_ms(), max(stream.tokens - 2 * (self._sent.choices - 1), 0)
        self._recorded_ms = self._recorded_ms or now
        more = tokens - self._recorded_tokens
        if more >= CHECKPOINT_TOKENS or (more and now - self._recorded_ms >= CHECKPOINT_MS):
            self._recorded_tokens, self._recorded_ms = tokens, now
            self.record(Counted(quantities(0, -1, tokens), estimated=True), None)

    def counts(self, usage: Usage | None, tokens: int) -> Counted:
        """What the server told, else estimates, of the answer these tokens."""
        estimated = usage is None
        if usage is None:
            logger.info("the server of %s told no usage", self._target.entry.version)
            usage = Usage(events.estimate(self._sent.size), tokens)
        if self._protocol == EMBEDDINGS:
            tokens = usage.prompt_tokens
            counts = {"requests": 1, "rows": self._sent.inputs, "prompt_tokens": tokens}
        else:
            counts = quantities(usage.prompt_tokens, usage.cached_tokens, usage.completion_tokens)
        return Counted(counts, estimated)

    def record(self, counted: Counted, error: MeuseError | None, *, final: bool = False) -> None:
        """Count what is new, then write it. Raises `unavailable` where it cannot be written."""
        before = self._counted
        # What a server tells at the end may be less than the estimates before, which are written.
        counts = {meter: max(n, before.get(meter, 0)) for meter, n in counted.quantities.items()}
        estimated = counted.estimated or counts != counted.quantities
        self._counted = counts
        if self._grant is not None:
            more = {meter: n - before.get(meter, 0) for meter, n in counts.items()}
            if final:
                self._plane.limits.settle(self._grant, more)
            else:
                left = max(self._most - counts["completion_tokens"], 0)
                self._plane.limits.progress(
                    self._grant, more, {"requests": 0, "completion_tokens": left}
                )
        seq, self._seq = self._seq, self._seq + 1
        status: Status | None = None
        if final:
            status = "ok" if error is None else "error"
        self._plane.usage.stream(
            self._caller, self._target, self._protocol, self._id, seq, status, counts, estimated
        )
