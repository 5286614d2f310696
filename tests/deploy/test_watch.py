"""deploy.watch, over real pages and a hand-driven clock"""

from __future__ import annotations

from pathlib import Path

import pytest

from meuse.deploy.watch import BATCH_S, LONGEST_LOOK_S, SILENT_S, Watch, batch_limit_s
from meuse.serve.page import PageWriter


class World:
    def __init__(self, folder: Path) -> None:
        self.now = 50.0
        self.folder = folder
        self.page = self.replica("r")
        self.watch = Watch(folder, lambda: self.now)

    def replica(self, name: str) -> PageWriter:
        return PageWriter(self.folder / f"{name}.page", 4)

    def look(self, *names: str, limit_s: float = 30.0) -> dict[str, str]:
        return self.watch.look(dict.fromkeys(names or ("r",), limit_s))

    def live(self, seconds: float, page: PageWriter | None = None) -> list[float]:
        """Look every half second while the replica beats; when it was called hung."""
        return self._pass(seconds, page or self.page)

    def stop(self, seconds: float) -> list[float]:
        """The same while nothing beats."""
        return self._pass(seconds, None)

    def _pass(self, seconds: float, page: PageWriter | None) -> list[float]:
        hung, begun = [], self.now
        while self.now < begun + seconds:
            self.now += 0.5
            if page is not None:
                page.beat()
            if self.look():
                hung.append(self.now - begun)
        return hung


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_who_beats_lives(world: World) -> None:
    """Idle or in one batch after the other, for as long as it likes."""
    assert not world.live(600)
    for _ in range(20):
        world.page.mark([b"i" * 16])
        assert not world.live(25)
        world.page.rest()
        assert not world.live(1)


def test_silence_is_a_hang(world: World) -> None:
    """After `SILENT_S`, and not before; a stop that is shorter is none."""
    assert not world.live(2)
    assert not world.stop(SILENT_S - 0.5)
    assert not world.live(2)
    assert world.stop(SILENT_S + 1)[0] == SILENT_S
    assert "no life" in world.look()["r"]
    assert not world.live(1), "it has come back before it was killed"


def test_a_batch_has_its_time(world: World) -> None:
    """Below the deployment's timeout nothing is said of a replica that works and beats."""
    world.look()
    world.page.mark([b"i" * 16])
    assert not world.live(29.5)
    assert world.live(2)
    assert "longer than 30 s" in world.look()["r"]
    assert (batch_limit_s(30_000), batch_limit_s(600_000)) == (30.0, 600.0)
    assert batch_limit_s(5) == BATCH_S


def test_who_did_not_look_condemns_nobody(world: World) -> None:
    """An hour without a look, of a machine that slept, counts as one short look."""
    world.look()
    world.page.mark([b"i" * 16])
    world.now += 3600
    assert not world.look()
    assert world.stop(SILENT_S)[0] == SILENT_S - LONGEST_LOOK_S


def test_only_those_that_are_asked_for(world: World) -> None:
    """One without a page, or of an earlier release, is left alone; who has gone is forgotten."""
    (world.folder / "old.page").write_bytes(bytes(100))
    for _ in range(20):
        world.now += 1
        assert world.look("r", "old", "none").keys() <= {"r"}
    assert world.look("r").keys() == {"r"}
    assert not world.look("old")
    assert not world.look("r"), "it was forgotten: counting begins again"
    again = world.replica("r")
    assert world.stop(SILENT_S + 1)
    assert world.look("old") == {}
    assert not world.look()
    assert not world.live(SILENT_S * 2, again)
