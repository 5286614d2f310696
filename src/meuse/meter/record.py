"""The usage record: its fields, its bytes and what makes it acceptable.

Knows nothing of files, databases or prices. A record that `encode` accepts can be decoded;
one bad record would otherwise put the rest of its segment into quarantine.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from meuse.core.nouns import METERS

MAX_QUANTITY = 2**53 - 1
"""Largest quantity of one record: sums of a thousand still fit a 64-bit column."""

_Quantity = Annotated[int, msgspec.Meta(ge=0, le=MAX_QUANTITY)]
_METERS = frozenset(METERS)


class RecordError(ValueError):
    """Bytes or values that are not an acceptable usage record."""


# gc=False: texts, numbers and one flat dict are in no cycle, and the ledger holds thousands.
class UsageRecord(
    msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False
):
    """One admitted request, as it is billed.

    `id` is 16 bytes of UUIDv7, made at admission and kept by a retry. `ts` is when the record
    was made, right before it is journaled, in Unix milliseconds (not the admission: a period
    counts as complete once all journaled before its end is in). `deployment` is "owner/name",
    `version` "model:number", `plan_version` "plan:number" of the payer, `quantities` are
    integers by meter in the unit that the meter's name says. `estimated`: not all of them were
    counted, since the server that did the work did not tell.
    """

    id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    seq: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
    final: bool
    source: str
    tenant: str
    owner: str
    project: str
    key: str
    deployment: str
    version: str
    plan_version: str | None
    tier: str
    protocol: str
    status: Literal["ok", "error"]
    # The upper bound is the last moment that RFC 3339 can write.
    ts: Annotated[int, msgspec.Meta(ge=0, le=253_402_300_799_999)]
    lease: str | None
    quantities: dict[str, _Quantity]
    estimated: bool = False


_ID, _FINAL, _STATUS, _TS = (
    UsageRecord.__struct_fields__.index(name) for name in ("id", "final", "status", "ts")
)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(UsageRecord)


def encode(record: UsageRecord) -> bytes:
    """The bytes of a record. Raises `RecordError` for what `decode` would refuse."""
    try:
        payload = _encoder.encode(_fields(record))
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"not a usage record: {error}") from error
    # Structs do not check types when made; reading back costs a microsecond and does.
    decode(payload)
    return payload


def _fields(record: UsageRecord) -> tuple[Any, ...]:
    """All but the last, where that says nothing: so a ledger from before it reads most records."""
    fields = msgspec.structs.astuple(record)
    return fields if record.estimated else fields[:-1]


class Template:
    """Records that differ in id, status, time and quantities alone, as those of one caller at one
    target do: what they have in common is checked once. Raises `RecordError`."""

    def __init__(self, **common: str | None) -> None:
        heads: dict[bool, bytes] = {}
        for estimated in (True, False):
            record = UsageRecord(
                id=bytes(16), seq=0, final=True, status="ok", ts=0, quantities={},
                estimated=estimated,
                **common,  # type: ignore[arg-type]  # checked by the next line
            )  # fmt: skip
            whole = encode(record)
            # The bytes of a record are a head and those of its fields, one after the other.
            fields = [_encoder.encode(field) for field in _fields(record)]
            heads[estimated] = whole[: len(whole) - len(b"".join(fields))] + fields[_ID][:-16]
        self._heads = heads
        self._ends = {False: b"", True: _encoder.encode(True)}
        self._to_source = b"".join(fields[_FINAL + 1 : _STATUS])
        between = b"".join(fields[_ID + 1 : _FINAL + 1]) + self._to_source
        self._to_status = {s: between + _encoder.encode(s) for s in ("ok", "error")}
        self._lease = b"".join(fields[_TS + 1 : -1])

    def payload(
        self,
        id: bytes,
        status: Literal["ok", "error"],
        ts: int,
        quantities: dict[str, int],
        estimated: bool = False,
    ) -> bytes:
        """The bytes of one record, as `encode` would give. Raises `RecordError`."""
        _check(id, ts, quantities)
        pack = _encoder.encode
        return b"".join(
            (
                self._heads[estimated], id, self._to_status[status], pack(ts), self._lease,
                pack(quantities), self._ends[estimated],
            )
        )  # fmt: skip

    def checkpoint(
        self,
        id: bytes,
        seq: int,
        final: bool,
        status: Literal["ok", "error"],
        ts: int,
        quantities: dict[str, int],
        estimated: bool = False,
    ) -> bytes:
        """As `payload`, for one of several records of a request: what it came to so far."""
        _check(id, ts, quantities)
        pack = _encoder.encode
        return b"".join(
            (
                self._heads[estimated], id, pack(seq), pack(final), self._to_source, pack(status),
                pack(ts), self._lease, pack(quantities), self._ends[estimated],
            )
        )  # fmt: skip


def _check(id: bytes, ts: int, quantities: dict[str, int]) -> None:
    for meter, quantity in quantities.items():
        if meter not in _METERS or not 0 <= quantity <= MAX_QUANTITY:
            raise RecordError(f"{quantity} of the meter {meter!r}")
    if len(id) != 16 or ts < 0:
        raise RecordError("an id has 16 bytes and a time is not negative")


def decode(payload: bytes) -> UsageRecord:
    """The record of some bytes.

    Raises `RecordError` for other shapes, an unknown meter, a quantity that is negative or
    above `MAX_QUANTITY`, and NUL characters (Postgres cannot keep them in a text).
    """
    try:
        record = _decoder.decode(payload)
    except msgspec.MsgspecError as error:
        raise RecordError(f"not a usage record: {error}") from error
    if not _METERS.issuperset(record.quantities):
        unknown = sorted(set(record.quantities) - _METERS)
        raise RecordError(f"unknown meters: {', '.join(unknown)}")
    # No text starts before byte 22, and a NUL in one is a zero byte: most payloads have none.
    if payload.find(b"\0", 22) < 0:
        return record
    texts = (
        record.source, record.tenant, record.owner, record.project, record.key,
        record.deployment, record.version, record.plan_version or "", record.tier,
        record.protocol, record.lease or "",
    )  # fmt: skip
    if "\0" in "".join(texts):
        raise RecordError("a text holds a NUL character")
    return record
