"""What the official client makes of answers: retries, exceptions, helpers, threads and loops.

Between its socket and the replica's everything is the real thing; the replica is a stand-in.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from typing import Any

import httpx
import openai
import pydantic
import pytest

from gateway.openai.conftest import Chat, stand_in
from gateway.openai.test_metering import cancelled, words
from meuse.core.nouns import Limit

USER: Any = [{"role": "user", "content": "say 2"}]
_numbers = itertools.count()


@pytest.fixture
def listening(chat: Chat) -> Chat:
    """One whose worker hears of new limits."""
    chat.rig.listen()
    return chat


def limited(chat: Chat, kind: str, amount: int, **more: Any) -> None:
    """From now on this is the only limit."""
    limit = Limit(f"limit-{next(_numbers)}", kind, amount, more.pop("period", "minute"), **more)
    chat.rig.limit(limit)
    chat.rig.publish()


def test_a_rate_limit_is_waited_out(listening: Chat) -> None:
    """429 says when to come again, the client does, and is answered; each answer counts once."""
    chat = listening
    limited(chat, "rate", 60, burst=1, tenant="acme")  # one a second
    client = chat.openai(chat.key, retries=3)
    began = time.monotonic()
    for _ in range(3):
        assert client.chat.completions.create(model="chat", messages=USER)
    assert 1.5 < time.monotonic() - began < 20
    assert len(chat.records(3)) == 3
    limited(chat, "rate", 1, burst=1, tenant="acme")  # one a minute
    chat.say("say 1")
    with pytest.raises(openai.RateLimitError) as caught:
        chat.say("say 1")
    assert caught.value.code == "rate_limit_exceeded"
    assert caught.value.type == "requests"
    assert int(caught.value.response.headers["retry-after"]) >= 1


def test_a_replica_that_is_away_is_waited_for(chat: Chat) -> None:
    """503 while there is none; the client's second or third try finds the new one."""
    chat.replica.kill()
    chat.replica.wait()
    with pytest.raises(openai.InternalServerError) as caught:
        chat.say("say 1")
    assert (caught.value.status_code, caught.value.code) == (503, "unavailable")
    later = threading.Timer(0.3, lambda: stand_in(chat.rig, "c1", "smol:1"))
    later.start()
    client = chat.openai(chat.key, retries=8)
    answer = client.chat.completions.create(model="chat", messages=USER)
    later.join()
    assert answer.choices[0].message.content == "w0 w1 "
    assert [r.status for r in chat.records() if r.status == "ok"] == ["ok"]


@pytest.mark.parametrize(
    ("more", "kind", "code", "param"),
    [
        ({"temperature": 9}, openai.BadRequestError, "invalid_field", "temperature"),
        ({"messages": []}, openai.BadRequestError, "invalid_field", "messages"),
        ({"model": "none"}, openai.NotFoundError, "model_not_found", "model"),
        ({"messages": [{"role": "user", "content": "refuse"}]}, openai.BadRequestError,
         "context_length_exceeded", "messages"),
        ({"messages": [{"role": "user", "content": "silent"}],
          "extra_headers": {"x-timeout-ms": "200"}}, openai.InternalServerError,
         "deadline_exceeded", None),
        ({"extra_headers": {"authorization": "Bearer no"}}, openai.AuthenticationError,
         "invalid_api_key", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_each_error_is_the_exception_that_it_should_be(
    served: Chat, more: dict[str, Any], kind: type[openai.APIStatusError], code: str,
    param: str | None, *, stream: bool,
) -> None:  # fmt: skip
    """By its status, before the first word of a stream too; with the id to ask for."""
    given = {"model": "chat", "messages": USER, **more}
    with pytest.raises(kind) as caught:
        served.client.chat.completions.create(**given, stream=stream)
    assert caught.value.code == code
    if param is not None:
        assert caught.value.param == param
    assert caught.value.request_id


def test_a_key_without_the_scope_is_denied(served: Chat) -> None:
    client = served.openai(served.usage)
    with pytest.raises(openai.PermissionDeniedError) as caught:
        client.chat.completions.create(model="chat", messages=USER)
    assert caught.value.code == "insufficient_permissions"


def test_a_spent_quota_is_not_tried_again(listening: Chat) -> None:
    """402 with OpenAI's code; more tries would change nothing, and none is made."""
    chat = listening
    limited(chat, "budget", 1, meter="requests", period="day", tenant="acme")
    assert chat.say("say 1")
    seen: list[int] = []
    client = chat.openai(chat.key, retries=5)
    client._client.event_hooks["response"].append(lambda answer: seen.append(answer.status_code))
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="chat", messages=USER)
    assert (caught.value.status_code, caught.value.code) == (402, "insufficient_quota")
    assert seen == [402]


class Place(pydantic.BaseModel):
    at: str


def test_helpers_parse_answers_and_calls(served: Chat) -> None:
    """`parse` sends a schema and reads the answer by it; tools come as typed calls."""
    with pytest.raises(pydantic.ValidationError):  # the stand-in says words: they were parsed
        served.client.chat.completions.parse(model="chat", messages=USER, response_format=Place)
    tools = [openai.pydantic_function_tool(Place, name="look")]
    answer = served.client.chat.completions.parse(
        model="chat", messages=[{"role": "user", "content": "tool"}], tools=tools
    )
    [call] = answer.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Place(at="Liège")
    with served.client.chat.completions.stream(
        model="chat", messages=[{"role": "user", "content": "tool"}], tools=tools
    ) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    assert kinds.count("tool_calls.function.arguments.delta") >= 2
    assert kinds.count("tool_calls.function.arguments.done") == 1
    [call] = final.choices[0].message.tool_calls or []
    assert call.function.parsed_arguments == Place(at="Liège")
    assert final.choices[0].finish_reason == "tool_calls"


def test_a_client_that_gives_up_stops_the_engine(chat: Chat) -> None:
    """Its timeout is its own exception; nothing is tried again by itself, nothing runs on."""
    client = chat.client.with_options(timeout=0.5)
    with pytest.raises(openai.APITimeoutError):
        client.chat.completions.create(
            model="chat", messages=[{"role": "user", "content": "pace 50 500"}]
        )
    assert cancelled(chat) < 100
    (record,) = chat.records()
    assert record.quantities["completion_tokens"] == cancelled(chat)


def test_a_client_that_leaves_at_the_third_token_pays_for_three_to_five(chat: Chat) -> None:
    """Three, and up to two steps of the engine that were under way."""
    stream = chat.say("pace 150 500", stream=True)
    tokens = words(stream)
    for _ in range(3):
        next(tokens)
    stream.close()
    assert 3 <= cancelled(chat) <= 5
    (record,) = chat.records()
    assert record.quantities["completion_tokens"] == cancelled(chat)
    assert (record.status, record.quantities["prompt_tokens"]) == ("error", 3)


def test_many_at_once_in_one_loop(served: Chat) -> None:
    """The asynchronous client: whole, streamed, and cancelled in between."""

    async def talk() -> list[str]:
        async with openai.AsyncOpenAI(
            base_url=f"{served.worker.url}/v1", api_key=served.key, max_retries=0, timeout=60,
            http_client=httpx.AsyncClient(trust_env=False),
        ) as client:  # fmt: skip
            create = client.chat.completions.create

            async def whole(n: int) -> str:
                said: Any = [{"role": "user", "content": f"say {n}"}]
                answer = await create(model="chat", messages=said)
                return answer.choices[0].message.content or ""

            async def streamed(n: int) -> str:
                said: Any = [{"role": "user", "content": f"pace 5 {n}"}]
                parts = await create(model="chat", messages=said, stream=True)
                return "".join([p.choices[0].delta.content or "" async for p in parts])

            task = asyncio.create_task(streamed(5000))
            found = await asyncio.gather(*(whole(n) for n in range(1, 9)), streamed(9))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return found

    wanted = ["".join(f"w{i} " for i in range(n)) for n in range(1, 10)]
    assert asyncio.run(talk()) == wanted


def test_raw_answers_carry_their_headers(served: Chat) -> None:
    raw = served.client.chat.completions.with_raw_response.create(model="chat", messages=USER)
    assert raw.headers["content-type"].startswith("application/json")
    assert raw.headers["x-request-id"]
    assert raw.parse().choices[0].message.content == "w0 w1 "
    with served.client.chat.completions.with_streaming_response.create(
        model="chat", messages=USER, stream=True
    ) as streamed:
        assert streamed.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in streamed.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
