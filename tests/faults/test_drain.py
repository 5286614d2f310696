"""An orderly end under load: whatever was accepted is answered, and all of it is metered."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing

from faults.load import BROKEN, FULL, REFUSED, Load
from faults.rig import Platform, until


def test_drain(platform: Platform) -> None:
    """`meuse drain` cuts no answer and fails no request, and usage equals the answers."""
    client = platform.client()
    client.deploy("points", "reference:1")
    keys = [client.make_key(f"client-{i}", ["infer"]) for i in range(12)]
    client.wait_ready("points")
    with Load(
        platform.port, [k["key"] for k in keys], "points", most_rows=19, until_refused=True
    ) as load:
        until(lambda: load.answered() > 500)
        done = platform.meuse("drain", "--json")
        assert platform.supervisor.wait(1.0) == 0
    assert done.returncode == 0, done.stderr
    assert {"control", "ledger", "worker-0", "worker-1"} <= {*json.loads(done.stdout)["stopped"]}
    assert "drains" in done.stderr
    counts = load.counts()
    # broken: the connection was closed between two requests, the second was never accepted.
    assert counts.keys() <= {(FULL, 200), (BROKEN, 0), (REFUSED, 0)}, counts
    assert counts[REFUSED, 0] == len(keys)
    until(lambda: not platform.pids(), 5.0)

    with closing(sqlite3.connect(f"file:{platform.home / 'money.db'}?mode=ro", uri=True)) as money:
        records = money.execute("SELECT key_id, status, quantities FROM usage_record").fetchall()
    for key, outcomes in zip(keys, load.outcomes, strict=True):
        answered = Counter(("ok", o.rows) for o in outcomes if o.kind == FULL)
        mine = Counter((s, json.loads(q)["rows"]) for k, s, q in records if k == key["id"])
        assert mine == answered
