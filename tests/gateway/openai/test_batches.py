"""What a batch's pass may do, and how its requests are recorded."""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from gateway.openai.conftest import Chat
from gateway.rig import PEPPER, Rig, until
from meuse.access import keys
from meuse.core.clock import now_ms

HOUR_MS = 3_600_000


def passed(chat: Chat, key: str, until_ms: int | None = None) -> dict[str, str]:
    """Headers with a pass for this key."""
    key_id = keys.key_id(key)
    assert key_id is not None
    made = keys.mint_pass(PEPPER, key_id, until_ms or now_ms() + HOUR_MS)
    return {"authorization": f"Bearer {made}"}


def ask(chat: Chat, text: str, headers: dict[str, str], **more: Any) -> httpx.Response:
    body = {"model": "chat", "messages": [{"role": "user", "content": text}], **more}
    return chat.http.post("/v1/chat/completions", json=body, headers=headers)


def test_a_line_is_recorded_once_it_is_answered_at_the_batch_tier(served: Chat) -> None:
    """A failure before it leaves nothing, each answer has the line's own id, in the key's name;
    without a pass that header means nothing."""
    line = uuid.uuid4()
    named = {**passed(served, served.key), "x-meuse-record": line.hex, "x-priority": "low"}
    assert ask(served, "fail 3", named).status_code == 500
    assert ask(served, "say 3", named).status_code == 200
    assert ask(served, "say 4", named).status_code == 200
    own = {"authorization": f"Bearer {served.key}", "x-meuse-record": line.hex}
    assert ask(served, "say 5", own).status_code == 200

    def found() -> Any:
        records = [r for r in served.rig.records() if r.final]
        return records if any(r.quantities["completion_tokens"] == 5 for r in records) else None

    records = until(found)
    batch = [r for r in records if r.tier == "batch"]
    assert [(r.id, r.seq, r.status) for r in batch] == [(line.bytes, 0, "ok")] * 2
    assert [r.quantities["completion_tokens"] for r in batch] == [3, 4]
    assert {(r.tenant, r.key) for r in batch} == {("acme", keys.key_id(served.key))}
    assert not [r for r in served.rig.records() if r.tier == "batch" and not r.final]
    assert [r.tier for r in records if r.quantities["completion_tokens"] == 5] == ["standard"]
    assert all(r.id != line.bytes for r in records if r.tier == "standard")


def test_prompts_of_one_line_have_records_of_their_own(served: Chat) -> None:
    line = uuid.uuid4()
    headers = {**passed(served, served.key), "x-meuse-record": line.hex}
    body = {"model": "chat", "prompt": ["say 6", "say 7"]}

    def ids() -> set[bytes]:
        answer = served.http.post("/v1/completions", json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        records = [r for r in served.rig.records() if r.tier == "batch" and r.final]
        return {r.id for r in records if r.quantities["completion_tokens"] in (6, 7)}

    first = ids()
    assert len(first) == 2
    assert line.bytes in first
    assert ids() == first


def test_one_that_a_replica_holds_back_is_not_late_for_that(rig: Rig) -> None:
    """The deployment's time counts from the start. If its own time ends before that, it was busy,
    and is to come again."""
    chat = Chat(rig, timeout_ms=400)
    low = {**passed(chat, chat.key), "x-priority": "low"}
    answer = ask(chat, "late 1500 3", low)
    assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 3)
    assert ask(chat, "late 1500 3", passed(chat, chat.key)).status_code == 504
    assert ask(chat, "hold", low).status_code == 504
    busy = ask(chat, "silent", {**low, "x-timeout-ms": "600"})
    assert (busy.status_code, busy.headers["retry-after"]) == (429, "1")
    chat.close()


def test_one_that_was_held_back_waits_for_another_replica_no_longer_than_others(rig: Rig) -> None:
    """Where its own has died, and nobody else is there."""
    chat = Chat(rig, timeout_ms=400)
    low = {**passed(chat, chat.key), "x-priority": "low"}
    with ThreadPoolExecutor() as pool:
        held = pool.submit(ask, chat, "silent", low)
        time.sleep(1)
        assert not held.done()
        chat.replica.kill()
        assert held.result(30).status_code == 503
    chat.close()


def test_a_pass_is_no_better_than_its_key(rig: Rig) -> None:
    """It infers, and nothing else; not after its time, nor for a key that is not there."""
    weak = rig.key("acme", scopes=("data", "usage"))
    boss = rig.key("acme", scopes=("admin",))
    chat = Chat(rig)
    forged = passed(chat, chat.key)["authorization"]
    forged = forged[:-1] + ("0" if forged[-1] != "0" else "1")
    for headers, status in (
        (passed(chat, chat.key), 200),
        (passed(chat, boss), 200),
        (passed(chat, weak), 403),
        (passed(chat, chat.key, now_ms() - 1), 401),
        (passed(chat, keys.mint()[1]), 401),
        ({"authorization": forged}, 401),
    ):
        assert ask(chat, "say 1", headers).status_code == status
    assert chat.http.get("/metrics", headers=passed(chat, boss)).status_code == 403
    chat.close()
