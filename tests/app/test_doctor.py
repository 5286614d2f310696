"""What the doctor says of a home that nobody has started in."""

from __future__ import annotations

from pathlib import Path

from billing.make_usage import usage_record
from meuse.app.doctor import examine
from meuse.billing.ingest import Ingester
from meuse.meter.journal import JournalWriter
from meuse.meter.segments import JournalReader
from meuse.runtime import sandbox
from meuse.runtime.toolchains import KNOWN, MARK
from meuse.settings import load
from meuse.store.database import Database
from meuse.store.money import MoneyStore


def test_toolchains_and_sandbox_are_told(tmp_path: Path) -> None:
    """What is absent with the command that installs it, what is there with its place."""

    def told() -> dict[str, str]:
        return {f.check: f.finding for f in examine(load(tmp_path))}

    before = told()
    assert f"tier {sandbox.survey().tier}: " in before["sandbox"]
    assert "meuse toolchains install tensorflow" in before["toolchain tensorflow"]
    place = KNOWN["tensorflow"].place(load(tmp_path).toolchains)
    place.mkdir(parents=True)
    (place / MARK).write_text("{}")
    assert told()["toolchain tensorflow"] == f"installed in {place}"


def test_the_journal_is_told(tmp_path: Path) -> None:
    """Its mode and policy, what waits in it, and what is quarantined until it is mended."""
    settings = load(tmp_path, {"MEUSE_JOURNAL_MODE": "strict"})

    def told() -> tuple[bool, str]:
        (found,) = [f for f in examine(settings) if f.check == "journal"]
        return found.ok, found.finding

    assert told() == (True, "strict, on a full disk refuse; 0 segments (0 written now), 0 bytes")
    writer = JournalWriter(settings.journal, "h", 0, 1)
    for _ in range(3):
        writer.append(usage_record())
    ok, finding = told()
    assert ok
    assert "1 segments (1 written now)" in finding
    data = bytearray(writer.path.read_bytes())
    data[len(data) // 2] ^= 1
    writer.path.write_bytes(data)
    writer.close()
    money = Database(settings.database("money"))
    money.migrate("money")
    Ingester(MoneyStore(money), JournalReader(settings.journal)).run_once()
    money.close()
    ok, finding = told()
    assert not ok
    assert "quarantined: h-0-1-0" in finding
    writer.path.unlink()
    assert told()[0]
