"""Chats by the official client against a stand-in replica: whole and streamed."""

from __future__ import annotations

import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import pytest

from gateway.openai.conftest import Chat
from gateway.rig import Rig
from meuse.serve.generation.messages import Ask

TOOL: Any = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {}}}},
}


def asked(answer: Any) -> Ask:
    """What the replica was asked, from the answer to `echo`."""
    return msgspec.convert(json.loads(answer.choices[0].message.content), Ask)


def test_an_answer_in_one(served: Chat) -> None:
    """Text, reason and usage; the record says the same."""
    before = len(served.rig.records())
    answer = served.say("say 3")
    assert answer.choices[0].message.content == "w0 w1 w2 "
    assert answer.choices[0].message.role == "assistant"
    assert (answer.choices[0].finish_reason, answer.object) == ("stop", "chat.completion")
    assert answer.model == "chat"
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (2, 3, 5)
    (record,) = served.rig.records()[before:]
    assert record.quantities == {
        "requests": 1, "prompt_tokens": 2, "completion_tokens": 3, "cached_tokens": 0,
        "compute_ms": 2,
    }  # fmt: skip
    assert (record.protocol, record.status, record.final) == ("openai-chat", "ok", True)
    assert (record.version, record.deployment) == ("smol:1", "acme/chat")
    assert answer.id == f"chatcmpl-{record.id.hex()}"


def test_an_answer_in_parts(served: Chat) -> None:
    """The role first, then words, then the reason; usage only where it is asked for."""
    chunks = list(served.say("say 3", stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "w0 w1 w2 "
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert len({c.id for c in chunks}) == 1
    *chunks, last = served.say("say 3", stream=True, stream_options={"include_usage": True})
    assert all(c.usage is None for c in chunks)
    assert last.choices == []
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 3)


def test_what_is_on_the_wire(served: Chat) -> None:
    """Server-sent events of JSON, and [DONE] as the last; each word is there as it came."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "say 2"}], "stream": True}
    with served.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["x-request-id"]
        events = "".join(answer.iter_text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(event.removeprefix("data: ")) for event in events[:-2]]
    assert [c["choices"][0]["delta"] for c in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "w0 "}, {"content": "w1 "}, {},
    ]  # fmt: skip
    assert all("usage" not in c for c in chunks)


@pytest.mark.parametrize("stream", [False, True])
def test_several_choices(served: Chat, stream: bool) -> None:
    """Each has its text and its end; the tokens of all are counted."""
    if not stream:
        answer = served.say("say 4", n=3)
        assert [c.index for c in answer.choices] == [0, 1, 2]
        assert {c.message.content for c in answer.choices} == {"w0 w1 w2 w3 "}
        assert answer.usage.completion_tokens == 12
        return
    texts, ends = ["", "", ""], []
    for chunk in served.say("say 4", n=3, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            ends.append(choice.index)
    assert (texts, ends) == (["w0 w1 w2 w3 "] * 3, [0, 1, 2])


def test_calls_of_tools(served: Chat) -> None:
    """In one they are whole, in parts they are added up by the client."""
    answer = served.say("tool", tools=[TOOL])
    (choice,) = answer.choices
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (call,) = choice.message.tool_calls
    assert (call.id, call.function.name) == ("call_1", "look")
    assert json.loads(call.function.arguments) == {"at": "Liège"}
    parts = [
        call
        for chunk in served.say("tool", tools=[TOOL], stream=True)
        for call in chunk.choices[0].delta.tool_calls or ()
    ]
    assert (parts[0].id, parts[0].function.name) == ("call_1", "look")
    assert json.loads("".join(p.function.arguments for p in parts)) == {"at": "Liège"}


def test_logprobs_are_passed_on(served: Chat) -> None:
    """As the replica gives them, with each part and in one."""
    whole = served.say("say 2", logprobs=True, top_logprobs=1).choices[0].logprobs.content
    parts = [
        token
        for chunk in served.say("say 2", logprobs=True, top_logprobs=1, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content
    ]
    assert [t.token for t in whole] == [t.token for t in parts] == ["w0 ", "w1 "]
    assert whole[0].top_logprobs[0].logprob == -0.5


def test_what_the_replica_is_asked(served: Chat) -> None:
    """Sampling, format, tools and conversation come to the replica as they were sent."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    answer = served.client.chat.completions.create(
        model="chat:law",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [
                {"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "42"},
            {"role": "user", "content": "echo"},
        ],
        temperature=0.5, top_p=0.9, max_completion_tokens=77, max_tokens=5, seed=7, stop=["x", "y"],
        presence_penalty=0.25, frequency_penalty=-0.5, tools=[TOOL], tool_choice="auto",
        parallel_tool_calls=False,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema}},
        extra_body={"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "no_such_field": [1]},
    )  # fmt: skip
    ask = asked(answer)
    sampling = msgspec.structs.asdict(ask.sampling)
    assert sampling == {
        "max_tokens": 77, "temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1,
        "frequency_penalty": -0.5, "presence_penalty": 0.25, "repetition_penalty": 1.1,
        "stop": ("x", "y"), "seed": 7, "n": 1, "logprobs": None, "ignore_eos": False,
    }  # fmt: skip
    assert (ask.adapter, ask.format.kind, json.loads(ask.format.schema)) == (
        "law", "json_schema", schema,
    )  # fmt: skip
    assert json.loads(ask.tools) == [TOOL]
    assert json.loads(ask.tool_choice) == "auto"
    assert not ask.parallel_tool_calls
    conversation = json.loads(ask.messages)
    assert [m["role"] for m in conversation] == ["system", "user", "assistant", "tool", "user"]
    assert conversation[1]["content"] == "a\nb"
    assert conversation[2]["content"] is None
    assert conversation[3]["tool_call_id"] == "c1"
    assert base64.b64encode(ask.messages)  # the bytes came as JSON has them


def test_a_long_prompt(served: Chat) -> None:
    """Longer than what else a frame's header may have."""
    answer = served.say("say 1 " + "é" * 100_000)
    assert answer.choices[0].message.content == "w0 "


def test_tokens_are_in_the_metrics(served: Chat) -> None:
    """Those of prompts and those produced, and the time to the first."""

    def shown() -> dict[str, float]:
        text = served.http.get("/metrics", headers={"authorization": f"Bearer {served.usage}"}).text
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if "smol:1" in line]
        return {name: float(value) for name, value in lines}

    def name(family: str, more: str = "") -> str:
        return f'meuse_{family}{{deployment="chat",{more}version="smol:1"}}'

    before = shown()
    served.say("say 7 and no more")
    after = shown()
    new = {name: value - before.get(name, 0) for name, value in after.items()}
    assert new[name("tokens_total", 'kind="completion",')] == 7
    assert new[name("tokens_total", 'kind="prompt",')] == 5
    assert new[name("first_token_seconds_count")] == 1


def test_many_streams_at_once(served: Chat) -> None:
    """Each gets its own words, all of them."""

    def stream(n: int) -> str:
        chunks = served.say(f"pace 1 {n}", stream=True)
        return "".join(c.choices[0].delta.content or "" for c in chunks)

    with ThreadPoolExecutor(16) as pool:
        texts = list(pool.map(stream, range(20, 36)))
    assert texts == ["".join(f"w{i} " for i in range(n)) for n in range(20, 36)]


def test_a_client_that_takes_its_time_gets_all_in_order(rig: Rig) -> None:
    """What is written as it comes and what waited for the client meet: nothing is lost, doubled
    or out of its place, whichever way each part went."""
    chat = Chat(rig, worker={"send_buffer": 8192})
    body = json.dumps(
        {"model": "chat", "messages": [{"role": "user", "content": "big 60 8"}], "stream": True}
    ).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {chat.key}"
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.settimeout(30)
        link.connect(("127.0.0.1", chat.worker.port))
        link.sendall(f"{head}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
        got = link.recv(1024)
        time.sleep(0.06)  # some 200 KB have come: more than its connection takes, less than is held
        while not got.endswith(b"0\r\n\r\n"):
            more = link.recv(65536)
            assert more, got[-200:]
            got += more
    events = [line for line in got.split(b"\n") if line.startswith(b'data: {"id"')]
    deltas = [json.loads(event[6:])["choices"][0]["delta"] for event in events]
    assert deltas[0]["role"] == "assistant"
    texts = [delta["content"] for delta in deltas[1:-1]]
    assert texts == [f"{i} ".ljust(8192, "x") for i in range(60)]
    chat.close()
