"""gateway.tracecontext"""

from __future__ import annotations

import pytest

from meuse.gateway import tracecontext
from meuse.gateway.tracecontext import Trace

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def read(traceparent: str, *states: str) -> Trace | None:
    headers = [(b"host", b"x"), (b"traceparent", traceparent.encode("latin-1"))]
    return tracecontext.read([*headers, *((b"tracestate", s.encode("latin-1")) for s in states)])


@pytest.mark.parametrize(
    ("given", "sampled"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f" 00-{TRACE}-{PARENT}-01\t", True),
        (f"cc-{TRACE}-{PARENT}-01", True),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", True),
    ],
)
def test_what_is_well_formed_is_taken(given: str, sampled: bool) -> None:
    """Also of a later version, whatever it appends."""
    assert read(given) == Trace(TRACE, PARENT, sampled)


@pytest.mark.parametrize(
    "given",
    [
        "",
        "00",
        f"00-{TRACE}-{PARENT}",
        f"00-{TRACE}-{PARENT}-1",
        f"00-{TRACE}-{PARENT}-01-",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01 ,x",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE[:-1]}-{PARENT}-01",
        f"00-{TRACE}0-{PARENT}-01",
        f"00-{TRACE}-{PARENT[:-1]}g-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{PARENT}-01",
        f"0-{TRACE}-{PARENT}-01",
        f"cc-{TRACE}-{PARENT}-01.what",
        f"00_{TRACE}_{PARENT}_01",
        f"00-{TRACE}-{PARENT}-é1",
        f"00-{TRACE}-{PARENT}-01\n",
    ],
)
def test_what_is_malformed_is_absent(given: str) -> None:
    """Nothing is guessed."""
    assert read(given, "a=1") is None


def test_two_parents_are_none() -> None:
    """A request has one parent; without any it is of no trace."""
    parent = (b"traceparent", f"00-{TRACE}-{PARENT}-01".encode())
    assert tracecontext.read([parent, parent]) is None
    assert tracecontext.read([(b"tracestate", b"a=1")]) is None


@pytest.mark.parametrize(
    ("states", "kept"),
    [
        (["rojo=1,congo=2"], "rojo=1,congo=2"),
        (["rojo=1", "congo=2"], "rojo=1,congo=2"),
        ([" rojo=1 ,, \tcongo=a b"], "rojo=1,congo=a b"),
        (["fw529a3039@dt=x,0x@y=1"], "fw529a3039@dt=x,0x@y=1"),
        ([",".join(f"k{i}=1" for i in range(32))], ",".join(f"k{i}=1" for i in range(32))),
        ([",".join(f"k{i}=1" for i in range(33))], ""),
        (["a=1,a=2"], ""),
        (["a=1,B=2"], ""),
        (["0a=1"], ""),
        (["a"], ""),
        (["a="], ""),
        (["a=1=2"], ""),
        (["a=é"], ""),
        ([f"{'a' * 257}=1"], ""),
        ([f"a={'1' * 257}"], ""),
        ([""], ""),
    ],
)
def test_a_malformed_state_is_dropped_whole(states: list[str], kept: str) -> None:
    """The parent stands all the same."""
    assert read(f"00-{TRACE}-{PARENT}-01", *states) == Trace(TRACE, PARENT, True, kept)
