"""deploy.memory: what may start within a budget"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meuse.deploy.memory import Held, admit


def held(name: str, size: int, used_at: float = 0.0, idle: bool = True) -> Held:
    return Held(name, size, used_at, idle)


def test_what_fits_starts() -> None:
    """Within the budget nothing is unloaded, and later starts see the earlier ones."""
    verdict = admit(100, [held("a", 40)], [("b", 30), ("c", 30), ("d", 30)])
    assert (verdict.start, verdict.unload) == ((0, 1), ("a",))


def test_the_least_recently_used_goes_first() -> None:
    """As many as it takes, the oldest first; what needs their room starts once they are gone."""
    running = [held("new", 40, 3.0), held("old", 40, 1.0), held("mid", 20, 2.0)]
    verdict = admit(100, running, [("b", 50)])
    assert (verdict.start, verdict.unload) == ((), ("old", "mid"))
    assert admit(100, running[:1], [("b", 50)]).start == (0,)


def test_what_is_in_use_stays() -> None:
    """When unloading would not do, nothing is unloaded and the missing bytes are told."""
    running = [held("busy", 70, idle=False), held("idle", 20)]
    verdict = admit(100, running, [("b", 50)])
    assert (verdict.start, verdict.unload, verdict.missing) == ((), (), {"b": 20})


def test_one_that_asks_goes_last() -> None:
    """An idle deployment that gets a new version makes room for it, after all others."""
    running = [held("a", 30, 1.0), held("b", 30, 2.0)]
    assert admit(70, running, [("a", 40)]).unload == ("b",)
    assert admit(70, running, [("a", 60)]).unload == ("b", "a")


def test_what_turned_out_larger_makes_room() -> None:
    """Over the budget without any start, what is idle goes until all is within it."""
    running = [held("a", 60, 1.0), held("b", 60, 2.0), held("c", 60, 3.0)]
    assert admit(130, running, []).unload == ("a",)
    assert admit(30, [held("busy", 60, idle=False)], []).unload == ()


def test_the_budget_holds_from_the_first_start() -> None:
    """What is larger than the budget never starts."""
    assert admit(100, [], [("a", 120)]).missing == {"a": 20}


@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 9), st.booleans()), max_size=6),
    st.lists(st.integers(1, 120), max_size=4),
)
def test_the_budget_holds(
    budget: int, running: list[tuple[int, int, bool]], sizes: list[int]
) -> None:
    """Starts never go over the budget; each ask starts, waits for room, or knows what lacks."""
    holding = [held(f"h{i}", *r) for i, r in enumerate(running)]
    asks = [(f"a{i}", size) for i, size in enumerate(sizes)]
    verdict = admit(budget, holding, asks)
    before = sum(h.bytes for h in holding)
    after = before + sum(sizes[i] for i in verdict.start)
    assert after <= budget or not verdict.start
    assert {h.name for h in holding if h.idle} >= set(verdict.unload)
    assert all(bytes_ > 0 for bytes_ in verdict.missing.values())
    if not verdict.unload:
        assert len(verdict.start) + len({*verdict.missing}) == len(asks)
