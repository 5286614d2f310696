"""deploy.served: where replicas that are servers are asked"""

from __future__ import annotations

import json
from pathlib import Path

from meuse.access.sealing import Sealer
from meuse.core.nouns import GENERATION, Artifact, Lineage, ModelVersion, Signature
from meuse.deploy.served import Served
from meuse.serve.snapshot import UpstreamEntry

SEALER = Sealer(b"k" * 32)


def version(layout: str) -> ModelVersion:
    return ModelVersion(
        "m", 1, GENERATION, (Artifact("a", "llm", "d" * 64, 9),), Signature((), ()), {},
        Lineage("job", "", "", "", 0, ""), 0, {"generation": {"layout": layout}},
    )  # fmt: skip


def test_the_one_that_is_ready(tmp_path: Path) -> None:
    served = Served(tmp_path, SEALER)
    checkpoint = version("hf")
    (tmp_path / "r1.upstream").write_text(json.dumps({"port": 4711, "key": "secret"}))
    found = served.entry(checkpoint, ("r1", "r2"))
    assert found is not None
    assert (found.url, found.model, found.own) == ("http://127.0.0.1:4711/v1", "m:1", True)
    assert SEALER.open(found.sealed, found.url) == "secret"
    # The same bytes: otherwise each turn would publish a snapshot.
    assert served.entry(checkpoint, ("r1",)) == found


def test_where_none_is_requests_wait(tmp_path: Path) -> None:
    served = Served(tmp_path, SEALER)
    waiting = UpstreamEntry("", "m:1", own=True)
    assert served.entry(version("hf"), ()) == waiting
    assert served.entry(version("hf"), ("gone",)) == waiting
    (tmp_path / "odd.upstream").write_text("[]")
    assert served.entry(version("hf"), ("odd",)) == waiting


def test_other_replicas_are_no_servers(tmp_path: Path) -> None:
    assert Served(tmp_path, SEALER).entry(version("ir"), ("r1",)) is None
