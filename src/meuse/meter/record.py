"""The usage record: its fields, its bytes and what makes it acceptable.

Knows nothing of files, databases or prices. A record that `encode` accepts can be decoded;
one bad record would otherwise put the rest of its segment into quarantine.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from meuse.core.nouns import METERS

MAX_QUANTITY = 2**53 - 1
"""Largest quantity of one record: sums of a thousand still fit a 64-bit column."""

_Quantity = Annotated[int, msgspec.Meta(ge=0, le=MAX_QUANTITY)]
_METERS = frozenset(METERS)


class RecordError(ValueError):
    """Bytes or values that are not an acceptable usage record."""


class UsageRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One admitted request, as it is billed.

    `id` is 16 bytes of UUIDv7, made at admission and kept by a retry. `ts` is when the record
    was made, right before it is journaled, in Unix milliseconds (not the admission: a period
    counts as complete once all journaled before its end is in). `deployment` is "owner/name",
    `version` "model:number", `plan_version` "plan:number" of the payer, `quantities` are
    integers by meter in the unit that the meter's name says.
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


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(UsageRecord)


def encode(record: UsageRecord) -> bytes:
    """The bytes of a record. Raises `RecordError` for what `decode` would refuse."""
    try:
        payload = _encoder.encode(record)
    except (TypeError, ValueError, OverflowError) as error:
        raise RecordError(f"not a usage record: {error}") from error
    # Structs do not check types when made; reading back costs a microsecond and does.
    decode(payload)
    return payload


class Template:
    """Records that differ in id, status, time and quantities alone, as those of one caller at one
    target do: what they have in common is checked once. Raises `RecordError`."""

    def __init__(self, **common: str | None) -> None:
        self._common = common
        encode(self._record(bytes(16), "ok", 0, {}))

    def payload(
        self, id: bytes, status: Literal["ok", "error"], ts: int, quantities: dict[str, int]
    ) -> bytes:
        """The bytes of one record, as `encode` would give. Raises `RecordError`."""
        for meter, quantity in quantities.items():
            if meter not in _METERS or not 0 <= quantity <= MAX_QUANTITY:
                raise RecordError(f"{quantity} of the meter {meter!r}")
        if len(id) != 16 or ts < 0:
            raise RecordError("an id has 16 bytes and a time is not negative")
        return _encoder.encode(self._record(id, status, ts, quantities))

    def _record(
        self, id: bytes, status: Literal["ok", "error"], ts: int, quantities: dict[str, int]
    ) -> UsageRecord:
        return UsageRecord(
            id=id, seq=0, final=True, status=status, ts=ts, quantities=quantities,
            **self._common,  # type: ignore[arg-type]  # checked at the start
        )  # fmt: skip


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
    texts = (
        record.source, record.tenant, record.owner, record.project, record.key,
        record.deployment, record.version, record.plan_version or "", record.tier,
        record.protocol, record.lease or "",
    )  # fmt: skip
    if "\0" in "".join(texts):
        raise RecordError("a text holds a NUL character")
    return record
