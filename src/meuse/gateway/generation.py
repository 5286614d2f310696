"""One call that produces text, from admission to its last usage record.

Tokens are reserved from above at admission (bytes bound tokens), from below once the replica
has told how many there are, and counted as used while they come: a checkpoint record every 64
tokens or 250 ms, with the same id and a rising number, each with what it came to so far. So a
killed worker costs at most what came since the last one. Knows no protocol.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError, invalid
from meuse.core.ids import uuid7_bytes
from meuse.gateway import batches
from meuse.gateway.counters import clock_ms
from meuse.gateway.link import AbandonedError, Answer
from meuse.gateway.links import MovedError
from meuse.gateway.routes import Caller, Headers, Target
from meuse.gateway.streams import Stream
from meuse.gateway.usage import Status
from meuse.meter.cells import BusyError
from meuse.meter.checks import Grant
from meuse.serve.frames import HIGH, NORMAL, Finished, Part
from meuse.serve.generation import messages
from meuse.serve.generation.messages import Ask
from meuse.serve.snapshot import GenerationEntry

if TYPE_CHECKING:
    from meuse.gateway.dataplane import DataPlane
    from meuse.gateway.observe import Observation

logger = logging.getLogger(__name__)

CHECKPOINT_TOKENS = 64
CHECKPOINT_MS = 250
LONGEST_MS = 3600 * 1000
"""How long an answer may take where the caller sets no time of its own."""
MAX_HELD = 256 * 1024
"""Characters of one answer that wait for a client which does not take them."""
_BUSY_S = (0.002, 0.01, 0.05, 0.2)


@dataclass(slots=True)
class TextCall:
    """`size` is what bounds the tokens of the prompt: bytes, or tokens where it `is_tokens`."""

    caller: Caller
    model: str
    protocol: str  # openai-chat | openai-completions
    ask: Ask
    size: int
    is_tokens: bool = False
    timeout_ms: int | None = None
    priority: int = NORMAL
    headers: Headers = ()
    number: int = 0
    """Of the texts that one request asks for."""


class Generation:
    """Parts are taken by `more` until there are none; `leave` when nobody wants them."""

    def __init__(self, plane: DataPlane, call: TextCall) -> None:
        self._plane = plane
        self.call = call
        self.id = uuid7_bytes()
        self.caller = call.caller
        self._record_id = batches.record_id(call.caller, call.headers, self.id, call.number)
        self.finished: Finished | None = None
        self._error: MeuseError | None = None
        self._grant: Grant | None = None
        self._bound = self._most = 0
        self._counted: dict[str, int] = {}
        self._seq = 0
        self._has_begun = False
        self._recorded_tokens = self._recorded_ms = 0
        self._parts: list[Part] = []
        self._held = 0
        self._wake = asyncio.Event()
        self._is_awaited = False
        self.tap: Callable[[Part], bool] | None = None
        """Takes a part as it comes, while `more` is waited for: a task that is woken for each costs
        several times what a part does. False: not now. Must not raise."""
        self._is_over = True  # nothing runs
        self._is_ending = False  # its last record waits for the disk
        self._seen: Observation | None = None
        self.target: Target
        self._stream: Stream
        self._began = 0.0
        self.created = now_ms() // 1000

    async def begin(self) -> None:
        """Admit it and send it on its way. Raises `MeuseError`, and then nothing is held."""
        if self._plane.observer is not None:
            self._seen = self._plane.observer.current()
        for pause in (*_BUSY_S, None):
            try:
                self._admit()
            except BusyError:
                # Another worker was taken off its core while it held the limits.
                if pause is None:
                    raise
                await asyncio.sleep(pause)
            else:
                return

    async def more(self) -> list[Part]:
        """What has come since; empty when that was all. Raises `MeuseError` when it failed."""
        while not self._parts:
            if self._is_over:
                if self._error is not None:
                    raise self._error
                return []
            self._wake.clear()
            self._is_awaited = True
            try:
                await self._wake.wait()
            finally:
                self._is_awaited = False
        parts, self._parts, self._held = self._parts, [], 0
        return parts

    def leave(self, error: MeuseError | None = None) -> None:
        """Stop the engine; what it produced until it stops is charged."""
        if not self._is_over and not self._is_ending and self._error is None:
            self._error = error or MeuseError(Code.CANCELLED, "the caller has gone")
            self._stream.leave()

    # Admission.

    def _admit(self) -> None:
        call, plane = self.call, self._plane
        caller = self.caller = plane.current(call.caller, "infer")
        name, adapter = plane.adapted(caller, call.model)
        route = plane.route(caller, name)
        try:
            target = route.choose(None, caller.key, call.headers)
            if adapter:
                target = route.adapted(target, adapter)
            entry = target.entry.generation
            if entry is None:
                raise invalid(
                    "model", f"{call.model!r} produces no text", "Name a language model's."
                )
            if call.ask.tools and not entry.family:
                raise invalid("tools", f"{call.model!r} was not taught to call tools")
            self.target = target
            self._reserve(entry)
            self._stream = self._made(entry)
            try:
                target.pool.submit(self._stream)
            except MeuseError:
                self._release()
                raise
        except BusyError:
            raise
        except MeuseError as error:
            plane.counters.refused(error, route.stats)
            if self._seen is not None:
                self._seen.refused(route.full_name, error.code)
            raise
        self._began = plane.counters.begin(route.stats)
        self._is_over = False
        plane.texts.add(self)

    def _made(self, entry: GenerationEntry) -> Stream:
        call, caller, target = self.call, self.caller, self.target
        patience_ms = target.route.deployment.timeout_ms
        longest_ms = LONGEST_MS if call.timeout_ms is None else call.timeout_ms
        ask, sampling = call.ask, call.ask.sampling
        if sampling.max_tokens is None and self._most < entry.context * sampling.n:
            sampling = msgspec.structs.replace(sampling, max_tokens=self._most // sampling.n or 1)
            ask = msgspec.structs.replace(ask, sampling=sampling)
        if target.adapter:
            ask = msgspec.structs.replace(ask, adapter=target.adapter)
        own = caller.tenant == target.route.deployment.tenant
        return Stream(
            self.id,
            messages.encode(ask),
            now_ms() + longest_ms,
            patience_ms,
            self._started,
            self._came,
            self._answered,
            NORMAL if call.priority == HIGH and not own else call.priority,
            caller.tenant,
        )

    def _reserve(self, entry: GenerationEntry) -> None:
        """Room for the most that it can come to; where the caller set no bound on the answer,
        for what the budgets leave."""
        call, sampling = self.call, self.call.ask.sampling
        bound = call.size
        if not call.is_tokens:
            bound = math.ceil(bound * entry.tokens_per_byte) + entry.template_tokens
        self._bound = min(bound, entry.context)
        most = entry.context if sampling.max_tokens is None else sampling.max_tokens
        self._most = min(most, entry.context) * sampling.n
        plan = self._plane.plan(self.caller, self.target.route)
        self._plane.usage.durability.check(plan)
        if plan is None:
            return
        needs = {"requests": 1, "prompt_tokens": self._bound, "completion_tokens": self._most}
        if plan.counts_time:  # the engine's time for it is within its own
            needs["compute_ms"] = 1 + (LONGEST_MS if call.timeout_ms is None else call.timeout_ms)
        elastic = "completion_tokens" if sampling.max_tokens is None else ""
        least = sampling.n  # each choice has a token at least
        self._grant = self._plane.limits.admit(plan, needs, elastic=elastic, least=least)
        self._most = self._grant.held_of("completion_tokens") or self._most

    def _release(self) -> None:
        if self._grant is not None:
            self._plane.limits.release(self._grant)
            self._grant = None

    # What the replica says.

    def _started(self) -> None:
        """The prompt is counted: what was reserved above that is free again."""
        stream = self._stream
        cached = max(stream.cached_tokens, 0)
        self._bound = stream.prompt_tokens - cached
        self._recorded_ms = now_ms()
        if self._grant is not None:
            left = {"prompt_tokens": self._bound, "cached_tokens": cached}
            self._plane.limits.progress(self._grant, {}, left)

    def _came(self, part: Part) -> None:
        if not self._has_begun:
            self._has_begun = True
            self.target.stats.first.add(max(clock_ms() - self._began, 0.0))
        if self._error is None and not self._tapped(part):
            self._parts.append(part)
            self._held += len(part.text) + len(part.calls) + len(part.logprobs)
            if self._held > MAX_HELD:
                self._parts = []
                self.leave(_too_slow())
            self._wake.set()
        now = now_ms()
        if (
            part.tokens - self._recorded_tokens >= CHECKPOINT_TOKENS
            or now - self._recorded_ms >= CHECKPOINT_MS
        ):
            self._recorded_tokens, self._recorded_ms = part.tokens, now
            try:
                self._record(self._so_far(), None)
            except MeuseError as error:
                self.leave(error)

    def _tapped(self, part: Part) -> bool:
        """Whether it was taken at once: those before it were, so that it comes in its turn."""
        tap = self.tap
        return tap is not None and self._is_awaited and not self._parts and tap(part)

    def _so_far(self) -> dict[str, int]:
        stream = self._stream
        return quantities(stream.prompt_tokens, stream.cached_tokens, stream.tokens)

    def _record(self, quantities: dict[str, int], status: Status | None) -> None:
        """Count what is new, then write it: a death in between must not give back what a
        record says was used."""
        before, self._counted = self._counted, quantities
        if self._grant is not None:
            more = {meter: n - before.get(meter, 0) for meter, n in quantities.items()}
            if status is None:
                left = {
                    "requests": 0,
                    "prompt_tokens": 0,
                    "cached_tokens": 0,
                    "completion_tokens": max(self._most - quantities["completion_tokens"], 0),
                }
                self._plane.limits.progress(self._grant, more, left)
            else:
                self._plane.limits.settle(self._grant, more)
        seq, self._seq = self._seq, self._seq + 1
        self._plane.usage.stream(
            self.caller, self.target, self.call.protocol, self._record_id, seq, status, quantities
        )

    def _answered(self, outcome: Answer | Exception) -> None:
        if isinstance(outcome, MovedError):
            self._move()
            return
        paid = None
        counts = self._so_far()
        error = self._error
        finished = self._stream.finished
        if isinstance(outcome, Answer) and finished is not None:
            paid = outcome
            counts = quantities(
                finished.prompt_tokens, finished.cached_tokens, finished.completion_tokens
            )
            # A stream of records never falls, whatever a replica says at last.
            counts = {m: max(n, self._counted.get(m, 0)) for m, n in counts.items()}
            counts["compute_ms"] = -(-finished.compute_us // 1000)
            if error is None and finished.error is not None:
                error = MeuseError.from_dict(msgspec.structs.asdict(finished.error))
                error.retry_after_s = finished.error.retry_after_s
        elif isinstance(outcome, AbandonedError):
            error = error or MeuseError(Code.CANCELLED, "the caller has gone")
        elif isinstance(outcome, MeuseError):
            error = error or outcome
        else:
            logger.error("a text ended as %r", outcome)
            error = MeuseError(Code.INTERNAL, "something went wrong on our side")
        self._end(counts, paid, error)

    def _end(self, counts: dict[str, int], paid: Answer | None, error: MeuseError | None) -> None:
        target, plane = self.target, self._plane
        plane.texts.discard(self)
        try:
            self._record(counts, "ok" if error is None else "error")
        except MeuseError as failure:
            # Without a record there is no answer; the first error tells more.
            error = error or failure
        if error is not None:
            error.is_counted = True
        self._error = error
        self.finished = self._stream.finished
        code = None if error is None else error.code
        target.stats.prompt_tokens += counts["prompt_tokens"]
        target.stats.completion_tokens += counts["completion_tokens"]
        if self.finished is not None:
            target.stats.switches += self.finished.switches
        plane.counters.end(target.route.stats, target.stats, self._began, 0, paid, code)
        if self._seen is not None:
            self._seen.ran(target.route.full_name, target.entry.version, 0, paid, code)
        if plane.commits is None:
            self._close(None)
        else:
            self._is_ending = True
            plane.commits.after(self._close)

    def _close(self, failure: MeuseError | None) -> None:
        """What remains may be told; without a record on the disk there is no answer."""
        self._error = self._error or failure
        self._is_over = True
        self._wake.set()

    def _move(self) -> None:
        """The target left while this waited for it: to another one, under the routes of now."""
        plane = self._plane
        plane.counters.leave(self.target.route.stats, self._began)
        self._release()
        self._is_over = True
        plane.texts.discard(self)
        try:
            self._admit()
        except MeuseError as error:
            self._error = error
            self._wake.set()


def quantities(prompt: int, cached: int, completion: int) -> dict[str, int]:
    """By meter; the prompt without what the engine says it had cached."""
    counted = {
        "requests": 1,
        "prompt_tokens": max(prompt - max(cached, 0), 0),
        "completion_tokens": completion,
    }
    if cached >= 0:
        counted["cached_tokens"] = cached
    return counted


def _too_slow() -> MeuseError:
    return MeuseError(
        Code.CANCELLED, "the client takes the answer too slowly", hint="Read faster, or ask anew."
    )
