"""The one function beneath all inference protocols: who, where, what, run, record, answer.

Works on memory and one local append: no database, no lock, no wait but for the replica. A
request is admitted when its key, its target and its inputs are good and there is room for it;
from then on exactly one usage record is written, before the first byte of the answer. Knows
no protocol.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from meuse.core.clock import now_ms
from meuse.core.errors import Code, MeuseError
from meuse.core.ids import uuid7_bytes
from meuse.gateway.link import Answer, FailedError, Flight
from meuse.gateway.links import Links, MovedError
from meuse.gateway.routes import Caller, Routes, Target
from meuse.meter.record import RecordError, UsageRecord
from meuse.serve.frames import DATATYPES
from meuse.serve.snapshot import EMPTY, Snapshot, TensorEntry

logger = logging.getLogger(__name__)

Inputs = Sequence[tuple[str, NDArray[Any]]]
"""Tensors by name, in the order of the request."""


class Journal(Protocol):
    """Where usage goes (`meter.journal.JournalWriter`)."""

    def append(self, record: UsageRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class Call:
    """One inference call. `read` makes the inputs once the target, so their types, is known."""

    caller: Caller
    model: str | None
    version: str | None
    protocol: str  # predict | oip-rest | oip-grpc
    read: Callable[[Target], Inputs]


@dataclass(frozen=True, slots=True)
class Result:
    """What came out, in the order of the target's outputs."""

    target: Target
    outputs: list[tuple[str, NDArray[Any]]]
    rows: int


class DataPlane:
    """Routes, links and the journal of one worker."""

    def __init__(self, links: Links, journal: Journal, pepper: bytes) -> None:
        self._links = links
        self._journal = journal
        self._pepper = pepper
        self._routes = Routes(EMPTY, pepper, links.pool)
        self.recorded = 0
        """How many records were appended: whether there is anything to sync."""

    @property
    def snapshot_number(self) -> int:
        return self._routes.snapshot.number

    @property
    def is_ready(self) -> bool:
        """Whether this worker takes requests: it has a snapshot.

        A worker that drains still does: while it is replaced the platform is ready.
        """
        return self._routes.snapshot.number > 0

    def swap(self, snapshot: Snapshot) -> None:
        """From now on everything follows this snapshot; what is in flight goes on."""
        self._links.update(snapshot)
        self._routes = Routes(snapshot, self._pepper, self._links.pool)
        self._links.leave_old()

    def authenticate(self, authorization: bytes | None, scope: str) -> Caller:
        """The caller. Raises `unauthenticated` or `forbidden`."""
        caller = self._routes.authenticate(authorization)
        caller.require(scope)
        return caller

    def describe(self, caller: Caller, model: str, version: str | None) -> Target:
        """The target that metadata and readiness are about."""
        return self._routes.find(caller, model).main(version)

    async def infer(self, call: Call) -> Result:
        """Answer one call. Raises `MeuseError`."""
        ids = uuid7_bytes()
        while True:
            # Again, not only at the door: reading a body takes time, and keys get revoked.
            caller = self.authenticate(call.caller.authorization, "infer")
            target = self._routes.find(caller, call.model).choose(call.version)
            inputs = call.read(target)
            rows = check(target.entry.inputs, target.input_at, inputs)
            flight = Flight(
                ids,
                now_ms() + target.route.deployment.timeout_ms,
                inputs,
                sum([array.nbytes for _, array in inputs]),
                asyncio.get_running_loop().create_future(),
            )
            target.pool.submit(flight)
            spent_us = 0
            try:
                answer = await flight.future
                spent_us = answer.compute_us
                outputs = _in_order(target, answer)
            except MovedError:
                continue  # not started: it is admitted anew under the routes of now
            except BaseException as error:
                if isinstance(error, FailedError):
                    spent_us = error.compute_us
                self._record_failure(caller, target, ids, call.protocol, spent_us, error)
                raise
            break
        # A model may merge rows, but what was asked is what is counted.
        self._record(caller, target, ids, call.protocol, "ok", rows, spent_us)
        return Result(target, outputs, rows)

    def _record_failure(
        self,
        caller: Caller,
        target: Target,
        ids: bytes,
        protocol: str,
        compute_us: int,
        error: BaseException,
    ) -> None:
        """No row was produced, but the engine may have worked."""
        try:
            self._record(caller, target, ids, protocol, "error", 0, compute_us)
        except MeuseError:
            # The caller gets an error either way; the first one tells more.
            logger.error("no usage record for a request that failed: %r", error)

    def _record(
        self,
        caller: Caller,
        target: Target,
        ids: bytes,
        protocol: str,
        status: str,
        rows: int,
        compute_us: int,
    ) -> None:
        record = UsageRecord(
            id=ids,
            seq=0,
            final=True,
            source="gateway",
            tenant=caller.tenant,
            owner=target.route.deployment.tenant,
            project=caller.project,
            key=caller.key,
            deployment=target.route.full_name,
            version=target.entry.version,
            plan_version=caller.plan_version,
            tier="standard",
            protocol=protocol,
            status=status,  # type: ignore[arg-type]  # one of two literals
            ts=now_ms(),
            lease=None,
            quantities={"requests": 1, "rows": rows, "compute_ms": -(-compute_us // 1000)},
        )
        try:
            self._journal.append(record)
            self.recorded += 1
        except (OSError, RecordError, ValueError) as error:
            logger.error("the usage journal refuses records: %s", error)
            raise MeuseError(
                Code.UNAVAILABLE, "usage cannot be recorded", hint="Try again later."
            ) from error


def _in_order(target: Target, answer: Answer) -> list[tuple[str, NDArray[Any]]]:
    """Outputs as the target declares them. A replica that gives others is at fault."""
    names = [name for name, _ in answer.outputs]
    if names == list(target.outputs):
        return answer.outputs
    given = dict(answer.outputs)
    try:
        return [(name, given[name]) for name in target.outputs]
    except KeyError as missing:
        raise MeuseError(Code.ENGINE_ERROR, f"the model gave no output {missing}") from None


def check(specs: tuple[TensorEntry, ...], by_name: dict[str, TensorEntry], inputs: Inputs) -> int:
    """The number of rows of inputs that fit the signature. Raises `invalid_input`."""
    rows: int | None = None
    seen = set()
    for i, (name, array) in enumerate(inputs):
        spec = by_name.get(name)
        if spec is None:
            expected = ", ".join(by_name)
            raise _bad(f"inputs[{i}].name", f"the model has no input {name!r}", expected)
        if name in seen:
            raise _bad(f"inputs[{i}].name", f"input {name!r} is given twice")
        seen.add(name)
        datatype, shape = DATATYPES[array.dtype], array.shape
        if datatype != spec.datatype:
            raise _bad(f"inputs[{i}].datatype", f"got {datatype} for {name!r}", spec.datatype)
        wanted = spec.shape
        if len(shape) != len(wanted) or any(
            w not in (-1, g) for w, g in zip(wanted, shape, strict=True)
        ):
            raise _bad(f"inputs[{i}].shape", f"got {list(shape)} for {name!r}", str(list(wanted)))
        if shape:
            if shape[0] < 1:
                raise _bad(f"inputs[{i}].shape", f"input {name!r} has no rows", "at least one row")
            if rows is not None and shape[0] != rows:
                raise _bad(
                    f"inputs[{i}].shape", f"{shape[0]} rows of {name!r}", f"{rows} as before it"
                )
            rows = shape[0]
    if len(seen) != len(specs):
        missing = [name for name in by_name if name not in seen]
        raise _bad("inputs", f"inputs are missing: {', '.join(missing)}")
    return rows or 1


def _bad(field: str, message: str, expected: str | None = None) -> MeuseError:
    hint = f"Expected: {expected}." if expected else None
    return MeuseError(Code.INVALID_INPUT, message, field=field, hint=hint)
