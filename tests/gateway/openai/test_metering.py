"""Tokens: what is reserved, counted, recorded and charged, whatever ends a stream."""

from __future__ import annotations

import errno
import itertools
import json
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from gateway.openai.conftest import Chat, stand_in, text_target
from gateway.rig import Rig, until
from gateway.test_admission import used
from meuse.billing.ingest import Ingester
from meuse.core.clock import BUCKET_MS
from meuse.core.nouns import Limit, PriceTable
from meuse.core.prices import ATOMS
from meuse.meter.segments import JournalReader
from meuse.store.database import Database
from meuse.store.money import MoneyStore

_numbers = itertools.count()


def limited(chat: Chat, **budgets: int) -> list[Limit]:
    """From now on these budgets by meter, fresh ones, are the only limits."""
    limits = [
        Limit(f"budget-{next(_numbers)}", "budget", amount, "day", meter, tenant="acme")
        for meter, amount in budgets.items()
    ]
    chat.rig.limit(*limits)
    chat.rig.publish()
    return limits


@pytest.fixture(scope="module")
def listening() -> Iterator[Chat]:
    """A worker that hears of new snapshots. Limits are those of the test that ran last."""
    rig = Rig()
    try:
        chat = Chat(rig)
        rig.listen()
        yield chat
        chat.close()
    finally:
        rig.close()


def words(stream: Any) -> Iterator[str]:
    for chunk in stream:
        for choice in chunk.choices:
            if choice.delta.content:
                yield choice.delta.content


def post(chat: Chat, text: str, **more: Any) -> socket.socket:
    """A connection on which this was asked, and nothing is read yet."""
    messages = [{"role": "user", "content": text}]
    body = json.dumps({"model": "chat", "messages": messages, **more})
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.settimeout(30)
    connection.connect(("127.0.0.1", chat.worker.port))
    connection.sendall(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {chat.key}\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}".encode()
    )
    return connection


def cancelled(chat: Chat, replica: str = "c1") -> int:
    """How far the engine was when it was told to stop, once it was."""
    path = chat.rig.sockets / f"{replica}.cancelled"
    return int(until(lambda: path.exists() and path.read_text()))


def test_a_long_answer_is_recorded_on_the_way(listening: Chat) -> None:
    """Every 64 tokens, with rising numbers and cumulative counts; the last record is final."""
    chat = listening
    limited(chat)
    before = len(chat.rig.records())
    assert len("".join(words(chat.say("say 200", stream=True))).split()) == 200
    records = chat.rig.records()[before:]
    assert len({r.id for r in records}) == 1
    assert [r.seq for r in records] == list(range(len(records)))
    assert [r.final for r in records] == [False] * (len(records) - 1) + [True]
    counts = [r.quantities["completion_tokens"] for r in records]
    assert counts[-1] == 200
    assert all(b - a <= 64 for a, b in zip([0, *counts], counts, strict=False))


def test_what_is_billed_is_what_was_told(listening: Chat, tmp_path: Path) -> None:
    """The ledger's sums over the journal are the usage of the answers."""
    limited(listening)
    told = [listening.say(f"say {n}").usage for n in (3, 200)]
    money = Database(f"sqlite:///{tmp_path / 'money.db'}")
    money.migrate("money")
    store = MoneyStore(money)
    Ingester(store, JournalReader(listening.rig.journal)).run_once()
    records = [r for r in listening.rig.records() if r.final]
    rows = store.usage(0, BUCKET_MS * 10_000_000, ["meter"])
    sums = {row["meter"]: row["quantity"] for row in rows}
    for meter in ("prompt_tokens", "completion_tokens", "requests"):
        assert sums[meter] == sum(r.quantities[meter] for r in records)
    assert [r.quantities["completion_tokens"] for r in records[-2:]] == [3, 200]
    assert [usage.completion_tokens for usage in told] == [3, 200]
    assert store.alarms() == []
    money.close()


def test_a_slow_answer_is_recorded_by_time(listening: Chat) -> None:
    """Also where few tokens come."""
    limited(listening)
    before = len(listening.rig.records())
    list(words(listening.say("pace 100 10", stream=True)))
    assert len(listening.rig.records()) - before >= 3


def test_tokens_are_reserved_from_above_and_settled_exactly(listening: Chat) -> None:
    """Bytes bound the prompt, max_tokens the answer; the true count frees the rest at once."""
    chat = listening
    completion, prompt = limited(chat, completion_tokens=300, prompt_tokens=100)
    with chat.client.chat.completions.create(
        model="chat", messages=[{"role": "user", "content": "pace 50 20"}], max_tokens=250,
        stream=True,
    ) as stream:  # fmt: skip
        tokens = words(stream)
        next(tokens)
        used_now, reserved = used(chat.rig, completion)
        assert used_now + reserved == 250
        assert sum(used(chat.rig, prompt)) == 3  # its words; its bytes and the template are more
        list(tokens)
    assert used(chat.rig, completion) == (20, 0)
    assert used(chat.rig, prompt) == (3, 0)


def test_what_does_not_fit_is_refused(listening: Chat) -> None:
    """402 when it can never fit, 429 when only others in flight stand in the way."""
    chat = listening
    completion, _ = limited(chat, completion_tokens=300, prompt_tokens=100)
    with pytest.raises(openai.APIStatusError) as caught:
        chat.say("say 1", max_tokens=301)
    assert (caught.value.status_code, caught.value.code) == (402, "insufficient_quota")
    assert caught.value.response.headers["x-ratelimit-remaining-tokens"] == "100"
    with pytest.raises(openai.APIStatusError) as caught:
        chat.say("x" * 101, max_tokens=1)
    assert caught.value.status_code == 402
    with post(chat, "hold", max_tokens=200):
        until(lambda: used(chat.rig, completion)[1] == 200)
        with pytest.raises(openai.RateLimitError) as busy:
            chat.say("say 1", max_tokens=101)
        assert busy.value.code == "rate_limit_exceeded"
        assert busy.value.response.headers["retry-after"] == "1"
    until(lambda: used(chat.rig, completion)[1] == 0)  # its client has gone


def test_without_max_tokens_an_answer_gets_what_the_budget_leaves(listening: Chat) -> None:
    """It ends for its length, and the next one is refused."""
    chat = listening
    (completion,) = limited(chat, completion_tokens=300)
    first = chat.say("say 290")
    assert (first.choices[0].finish_reason, first.usage.completion_tokens) == ("stop", 290)
    second = chat.say("say 999")
    assert (second.choices[0].finish_reason, second.usage.completion_tokens) == ("length", 10)
    with pytest.raises(openai.APIStatusError) as caught:
        chat.say("say 1")
    assert caught.value.status_code == 402
    assert used(chat.rig, completion) == (300, 0)


def test_an_answer_gets_what_the_money_leaves(listening: Chat) -> None:
    """Prompt at its price, cut where the budget ends; then 402, and headers say what was left."""
    chat = listening
    money = Limit("money", "budget", 106, "month", "cost", tenant="acme", currency="EUR")
    meters = {"prompt_tokens": 2, "cached_tokens": 1, "completion_tokens": 1}
    prices = {meter: {"*": str(micros * ATOMS)} for meter, micros in meters.items()}
    chat.rig.limit(money)
    chat.rig.price("basic:3", PriceTable("EUR", prices))
    chat.rig.publish()
    with pytest.raises(openai.APIStatusError) as caught:
        chat.say("say 5", max_tokens=107)
    assert (caught.value.status_code, caught.value.code) == (402, "insufficient_quota")
    assert caught.value.response.headers["x-ratelimit-remaining-cost"] == "0.000106"
    # Until the prompt is counted its bytes and the template are held at its price.
    first = chat.say("s", max_tokens=2)
    assert used(chat.rig, money) == (2 + first.usage.completion_tokens, 0)
    chat.rig.limit()
    chat.rig.publish()


def test_a_rate_of_tokens(listening: Chat) -> None:
    """Held from above, corrected when the answer is there; 429 says when there are more."""
    chat = listening
    limit = Limit(f"rate-{next(_numbers)}", "rate", 60, "hour", "tokens", burst=300, tenant="acme")
    chat.rig.limit(limit)
    chat.rig.publish()
    chat.say("say 100", max_tokens=150)
    raw = chat.client.chat.completions.with_raw_response.create(
        model="chat", messages=[{"role": "user", "content": "say 5"}], max_tokens=150
    )
    assert int(raw.headers["x-ratelimit-remaining-tokens"]) < 300 - 105
    with pytest.raises(openai.RateLimitError) as caught:
        chat.say("say 1", max_tokens=250)
    assert caught.value.code == "rate_limit_exceeded"
    assert 0 < int(caught.value.response.headers["retry-after"]) <= 7200
    with pytest.raises(openai.RateLimitError) as caught:
        chat.say("say 1", max_tokens=301)
    assert "retry-after" not in caught.value.response.headers


def test_what_is_left_stands_in_the_headers(listening: Chat) -> None:
    """As OpenAI names it: of requests and of tokens, the tightest limit each."""
    chat = listening
    limits = limited(chat, completion_tokens=300)
    chat.rig.limit(*limits, Limit("limit-r", "rate", 60, "minute", burst=60, tenant="acme"))
    chat.rig.publish()
    raw = chat.client.chat.completions.with_raw_response.create(
        model="chat", messages=[{"role": "user", "content": "say 5"}], max_tokens=100
    )
    assert raw.headers["x-ratelimit-limit-requests"] == "60"
    assert raw.headers["x-ratelimit-remaining-requests"] == "59"
    assert raw.headers["x-ratelimit-limit-tokens"] == "300"
    assert raw.headers["x-ratelimit-remaining-tokens"] in ("200", "295")
    assert raw.headers["x-ratelimit-reset-tokens"].endswith("s")


def test_a_client_that_leaves_stops_the_engine(chat: Chat) -> None:
    """And pays for what was counted when it had stopped, no more; others go on."""
    other = chat.say("pace 20 60", stream=True)
    stream = chat.say("pace 20 500", stream=True)
    tokens = words(stream)
    for _ in range(3):
        next(tokens)
    stream.close()
    stopped_at = cancelled(chat)
    assert 3 <= stopped_at < 100
    assert len(list(words(other))) == 60
    left, stayed = sorted(chat.records(2), key=lambda r: r.quantities["completion_tokens"])
    if left.status == "ok":
        left, stayed = stayed, left
    assert (left.status, left.quantities["completion_tokens"]) == ("error", stopped_at)
    assert (stayed.status, stayed.quantities["completion_tokens"]) == ("ok", 60)


def test_a_client_that_leaves_before_the_answer(chat: Chat) -> None:
    """One that asks for the whole, or waits for the first word, stops the engine too."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "pace 20 500"}]}
    with pytest.raises(httpx.ReadTimeout):
        chat.http.post("/v1/chat/completions", json=body, timeout=0.5)
    assert cancelled(chat) < 200
    (record,) = chat.records()
    assert (record.status, record.quantities["completion_tokens"]) == ("error", cancelled(chat))


def test_a_replica_that_dies_amid_a_stream(chat: Chat) -> None:
    """A clean error as the last event; what was read is charged exactly."""
    stream, got = chat.say("die 5", stream=True), []
    with pytest.raises(openai.APIError) as caught:
        got.extend(words(stream))
    assert "in the middle" in caught.value.message
    assert len(got) == 5
    (record,) = chat.records()
    assert (record.status, record.quantities["completion_tokens"]) == ("error", 5)
    assert record.quantities["prompt_tokens"] == 2


def test_a_replica_that_dies_before_the_first_word(chat: Chat) -> None:
    """Nothing was read: another one answers, under the same id, once."""
    stand_in(chat.rig, "c2", "smol:1")
    chat.rig.listen()
    before = {c: chat.rig.sockets / f"{c}.sock" for c in ("c1", "c2")}
    assert all(path.exists() for path in before.values())
    chat.replica.send_signal(signal.SIGSTOP)  # what it is sent stays unread
    connection = post(chat, "say 2")
    until(lambda: chat.rig.counted("acme/chat").ongoing == 1)
    chat.rig.deploy("acme/chat", text_target("smol:1", ["c1", "c2"]))
    chat.rig.publish()
    chat.replica.kill()
    with connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
    (record,) = chat.records()
    assert (record.status, record.quantities["completion_tokens"]) == ("ok", 2)


def test_a_worker_that_is_killed_loses_at_most_a_checkpoint(chat: Chat) -> None:
    """What it had recorded stays, as settled tokens and as records."""
    stream = words(chat.say("pace 5 900", stream=True))
    for _ in range(150):
        next(stream)
    chat.worker.process.kill()
    with pytest.raises(openai.APIConnectionError):
        list(stream)
    records = chat.rig.records()
    assert not any(r.final for r in records)
    assert records[-1].quantities["completion_tokens"] >= 64


def test_a_client_that_takes_nothing_costs_a_bounded_memory(rig: Rig) -> None:
    """The engine is stopped, the connection cut; another stream does not notice."""
    chat = Chat(rig, worker={"stall_s": 1.0})
    worker = chat.worker
    before = worker.rss_mb()
    with post(chat, "big 20000 8", stream=True) as slow:
        assert len(list(words(chat.say("pace 5 100", stream=True)))) == 100
        cancelled(chat)
        assert worker.rss_mb() - before < 20
        until(lambda: any(r.status == "error" for r in rig.records() if r.final))
        until(lambda: rig.counted("acme/chat").ongoing == 0)
        error = (socket.SOL_SOCKET, socket.SO_ERROR)
        until(lambda: slow.getsockopt(*error) == errno.ECONNRESET)
    chat.close()


def test_a_draining_worker_lets_streams_come_to_their_end(rig: Rig) -> None:
    """Longer than other requests have; and a second SIGTERM ends them, with an error."""
    chat = Chat(rig, worker={"drain_s": 0.2})
    worker = chat.worker
    tokens = words(chat.say("pace 20 150", stream=True))
    next(tokens)
    worker.process.send_signal(signal.SIGTERM)
    assert len(list(tokens)) == 149
    assert worker.process.wait(15) == 0
    worker = chat.worker = rig.worker(slot=1, drain_s=0.2)
    chat.client = chat.openai(chat.key)
    tokens = words(chat.say("pace 20 5000", stream=True))
    next(tokens)
    worker.process.send_signal(signal.SIGTERM)
    until(lambda: worker.status("/health/live") == 0)
    assert next(tokens)
    worker.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.APIError) as caught:
        list(tokens)
    assert "gateway ends" in caught.value.message
    assert worker.process.wait(15) == 0
    first, second = chat.records(2)
    assert (first.status, first.quantities["completion_tokens"]) == ("ok", 150)
    assert (second.status, second.quantities["completion_tokens"]) == ("error", cancelled(chat))
    chat.close()


def test_time_runs_out(chat: Chat) -> None:
    """X-Timeout-Ms bounds the whole, and what was produced is charged."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "pace 20 5000"}]}
    answer = chat.http.post("/v1/chat/completions", json=body, headers={"x-timeout-ms": "500"})
    assert answer.status_code == 504
    (record,) = chat.records()
    assert record.status == "error"
    assert 0 < record.quantities["completion_tokens"] < 100
