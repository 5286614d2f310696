"""generation.turns: one adapter at a time, in turn, and nobody for ever."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from meuse.serve.frames import HIGH, LOW, NORMAL
from meuse.serve.generation.turns import Turns

TURN = 10.0


def turns() -> Turns:
    return Turns(TURN)


def test_alone_one_goes_on_for_as_long_as_it_likes() -> None:
    mine = turns()
    for now in (0.0, 5.0, 1000.0):
        assert mine.look(now, {"": NORMAL}, busy=True) == ""


def test_nothing_starts_where_nothing_waits() -> None:
    assert turns().look(0.0, {}, busy=False) is None


def test_an_idle_engine_is_given_to_who_waits_at_once() -> None:
    assert turns().look(0.0, {"a": NORMAL}, busy=False) == "a"


def test_what_runs_ends_before_another_begins() -> None:
    mine = turns()
    assert mine.look(0.0, {"a": NORMAL}, busy=False) == "a"
    assert mine.look(1.0, {"b": NORMAL}, busy=True) is None
    assert mine.look(2.0, {"b": NORMAL}, busy=False) == "b"


def test_a_turn_starts_more_until_it_is_over() -> None:
    mine = turns()
    assert mine.look(0.0, {"a": NORMAL}, busy=False) == "a"
    both = {"a": NORMAL, "b": NORMAL}
    assert mine.look(TURN - 1, both, busy=True) == "a"
    assert mine.look(TURN - 1, both, busy=False) == "a"
    assert mine.look(TURN, both, busy=True) is None
    assert mine.look(TURN + 3, both, busy=False) == "b"
    assert mine.look(TURN + 4, both, busy=False) == "b"


def test_they_come_in_the_order_in_which_they_began_to_wait() -> None:
    mine = turns()
    assert mine.look(0.0, {"a": NORMAL}, busy=False) == "a"
    assert mine.look(1.0, {"c": NORMAL}, busy=True) is None
    # Wherever it stands among those that wait now: c was there before b.
    everybody = {"b": NORMAL, "c": NORMAL, "a": NORMAL}
    mine.look(2.0, everybody, busy=True)
    given = [mine.look(now * TURN, everybody, busy=False) for now in range(1, 7)]
    assert given == ["c", "b", "a", "c", "b", "a"]


def test_a_better_class_ends_a_turn_and_is_ended_by_none_below() -> None:
    mine = turns()
    assert mine.look(0.0, {"a": LOW}, busy=False) == "a"
    assert mine.look(1.0, {"a": LOW, "b": NORMAL}, busy=True) is None
    assert mine.look(2.0, {"a": LOW, "b": NORMAL}, busy=False) == "b"
    assert mine.look(2 + 3 * TURN, {"a": LOW, "b": HIGH}, busy=True) == "b"


@dataclass
class Engine:
    """What runs until when, and with which adapter."""

    ends: list[float] = field(default_factory=list)
    adapter: str = ""


@given(
    arrivals=st.lists(
        st.tuples(st.floats(0, 60), st.sampled_from(["", "a", "b", "c", "d"]), st.floats(0.1, 15)),
        min_size=1,
        max_size=60,
    ),
    slots=st.integers(1, 4),
)
def test_nobody_starves_nothing_is_mixed_and_waits_are_bounded(
    arrivals: list[tuple[float, str, float]], slots: int
) -> None:
    """A replica in miniature: everybody is served; what runs together is of one adapter; from
    the time that one begins to wait until its turn each other has at most one turn more."""
    mine, engine, now = turns(), Engine(), 0.0
    coming = sorted(arrivals)
    waiting: dict[str, list[float]] = {}
    turns_since: dict[str, dict[str, int]] = {}
    served = 0
    while coming or waiting or engine.ends:
        while coming and coming[0][0] <= now:
            _, adapter, takes = coming.pop(0)
            if adapter not in waiting and adapter != mine.current:
                turns_since[adapter] = defaultdict(int)
            waiting.setdefault(adapter, []).append(takes)
        engine.ends = [end for end in engine.ends if end > now]
        while True:
            before = mine.current
            classes = dict.fromkeys(waiting, NORMAL)
            adapter = mine.look(now, classes, bool(engine.ends))
            if adapter is None:
                break
            if adapter != before:
                assert not engine.ends, "another adapter's requests are in the batch"
                turns_since.pop(adapter, None)
                for others in turns_since.values():
                    others[adapter] += 1
                    assert others[adapter] <= 1
                if before in waiting:
                    turns_since[before] = defaultdict(int)
            if len(engine.ends) == slots:
                break
            engine.ends.append(now + waiting[adapter].pop(0))
            served += 1
            if not waiting[adapter]:
                del waiting[adapter]
        moments = [*engine.ends, *(at for at, _, _ in coming[:1])]
        assert moments or not waiting, "they wait, and nothing runs"
        now = min(moments, default=now)
    assert served == len(arrivals)
