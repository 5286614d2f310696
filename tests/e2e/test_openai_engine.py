"""OpenAI's API is true on the real engine: what is honoured acts, tools are called, batches end.

By the official client, on real weights (`chat`) where the text matters and on a model of random
weights that knows how tools are called (`tools`) where a grammar holds it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from e2e.conftest import Platform
from e2e.helpers import ready, start, succeeded, until
from e2e.llm import SLOW_S
from helpers_tiny_llm import write_gguf

pytestmark = pytest.mark.timeout(900)

PROMPT = "Once upon a time, the river flows past the old town. The river flows past the old town."
TOKENS = 24
HERMES = (
    "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    "{% for call in m.tool_calls or [] %}<tool_call>{{ call.function | tojson }}{% endfor %}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def client(platform: Platform) -> Iterator[openai.OpenAI]:
    """Of the deployments' owner."""
    with openai.OpenAI(
        api_key=platform.admin_key, base_url=f"{platform.url}/v1", max_retries=0, timeout=SLOW_S
    ) as made:
        yield made


def said(client: openai.OpenAI, temperature: float = 1.0, tokens: int = TOKENS, **more: Any) -> str:
    """What follows the prompt; fields that the client does not know go into `extra_body`."""
    own = {"frequency_penalty", "presence_penalty", "top_p", "seed", "logit_bias", "prompt"}
    known = {name: more.pop(name) for name in own & set(more)}
    given: Any = {"prompt": PROMPT, **known}
    answer = client.completions.create(
        model="e2e-chat", temperature=temperature, max_tokens=tokens,
        extra_body={"ignore_eos": True, **more}, **given,
    )  # fmt: skip
    assert answer.usage is not None
    assert answer.usage.completion_tokens == tokens
    return answer.choices[0].text


@pytest.fixture(scope="module")
def likeliest(client: openai.OpenAI, chat: str) -> str:
    """What the model says at temperature 0: it repeats itself."""
    text = said(client, 0)
    assert variety(text) < 0.6, text
    return text


def variety(text: str) -> float:
    """The share of words that are not there before."""
    words = text.split()
    return len(set(words)) / len(words)


def test_one_token_to_choose_from_is_the_likeliest(client: openai.OpenAI, likeliest: str) -> None:
    """However hot: by count, by share, by what the likeliest has. And next to no heat."""
    hot: Any = {"temperature": 2.0, "tokens": 8, "seed": 1}
    assert not likeliest.startswith(said(client, **hot))
    for bound in ({"top_k": 1}, {"min_p": 0.999}, {"min_p": 1}, {"top_p": 1e-5}, {"top_p": 0}):
        assert likeliest.startswith(said(client, **hot, **bound)), bound
    assert likeliest.startswith(said(client, **{**hot, "temperature": 1e-40}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("frequency_penalty", 2.0), ("presence_penalty", 2.0), ("repetition_penalty", 1.8)],
)
def test_penalties_lessen_repeats(
    client: openai.OpenAI, likeliest: str, name: str, value: float
) -> None:
    """Greedily, so that nothing else changes the text."""

    text = said(client, 0, **{name: value})
    assert text != likeliest
    assert variety(text) > variety(likeliest), text


def test_a_seed_says_which_text(client: openai.OpenAI, chat: str) -> None:
    """At one stream: the same twice, another one from another; without one, anything."""
    texts = [said(client, 1.5, 8, seed=seed) for seed in (7, 7, 8)]
    assert texts[0] == texts[1] != texts[2]
    assert len({said(client, 1.5, 8) for _ in range(2)}) == 2


def test_what_no_engine_offers_is_refused_by_name(client: openai.OpenAI, chat: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        said(client, logit_bias={"50": 100})
    assert caught.value.param == "logit_bias"


# Tools.

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "How it is outside.",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Paris", "Oslo"]},
                "unit": {"type": "string", "pattern": "^[CF]$"},
                "days": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2},
            },
            "required": ["city", "unit", "days"],
            "additionalProperties": False,
        },
    },
}
OTHER: Any = {"type": "function", "function": {"name": "other", "parameters": {"type": "object"}}}
ASKED: Any = [{"role": "user", "content": "Is it cold in Oslo?"}]
FORCED: Any = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def tools(platform: Platform, admin: httpx.Client) -> Iterator[str]:
    """A deployment of a model whose template has a place for tools."""
    folder = platform.home / "import" / "hermes"
    folder.mkdir(parents=True, exist_ok=True)
    name = "e2e-calling"
    path = write_gguf(folder / f"{name}.gguf", template=HERMES, context=2048)
    made = succeeded(admin, start(admin, "import", source=f"file:{path}", model_name=name))
    body = {"model": made["model"], "engine": {"cache_mb": 64, "max_sequences": 4}}
    admin.put(f"/api/deployments/{name}", json=body).raise_for_status()
    ready(admin, name)
    yield name
    admin.delete(f"/api/deployments/{name}")


def fits(arguments: str) -> bool:
    """Whether these are arguments of WEATHER."""
    found = json.loads(arguments)
    return (
        set(found) == {"city", "unit", "days"}
        and found["city"] in ("Paris", "Oslo")
        and found["unit"] in ("C", "F")
        and len(found["days"]) <= 2
        and all(isinstance(day, bool) for day in found["days"])
    )


def test_a_tool_that_must_be_called_is_called_and_answered(
    client: openai.OpenAI, tools: str
) -> None:
    """With arguments of its schema, whatever the model would rather say; its result is a turn."""
    asked: Any = {"model": tools, "tools": [OTHER, WEATHER], "max_tokens": 400}
    first = client.chat.completions.create(messages=ASKED, tool_choice=FORCED, seed=3, **asked)
    choice = first.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert call.function.name == "weather"
    assert fits(call.function.arguments), call.function.arguments

    result = {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": -3}'}
    told: Any = [*ASKED, choice.message.model_dump(exclude_none=True), result]
    second = client.chat.completions.create(
        messages=told, tool_choice="none", **{**asked, "max_tokens": 8}
    )
    assert second.choices[0].message.tool_calls is None
    assert first.usage is not None
    assert second.usage is not None
    assert second.usage.completion_tokens <= 8
    without = client.chat.completions.create(
        messages=ASKED, tool_choice="none", **{**asked, "max_tokens": 1}
    )
    assert without.usage is not None
    # One token for each byte: the call and its result were read, tools that are none were not.
    read = second.usage.prompt_tokens - without.usage.prompt_tokens
    assert read > len(call.function.arguments) + len(result["content"])
    assert first.usage.prompt_tokens > without.usage.prompt_tokens + 200


def test_a_call_is_streamed(client: openai.OpenAI, tools: str) -> None:
    """Its parts join to the call; hot, where a model of random weights says anything."""
    for choice in (FORCED, "required"):
        stream = client.chat.completions.create(
            model=tools, messages=ASKED, tools=[WEATHER], tool_choice=choice, stream=True,
            temperature=2.0, max_tokens=400, stream_options={"include_usage": True},
        )  # fmt: skip
        name = arguments = ""
        ids, reasons = set(), []
        for part in stream:
            for each in part.choices:
                assert not each.delta.content
                reasons.append(each.finish_reason)
                for call in each.delta.tool_calls or []:
                    assert call.index == 0
                    assert call.function is not None
                    ids |= {call.id} - {None}
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
        assert (name, len(ids), reasons[-1]) == ("weather", 1, "tool_calls")
        assert fits(arguments), arguments


# Batches.


def test_a_batch_of_chats_is_answered_line_by_line(client: openai.OpenAI, chat: str) -> None:
    """Each once: answers in the output file, bad lines in the error file, and usage adds up."""
    good = {f"c{n}": f"Name {n} animals." for n in range(2, 10)}
    bad = {
        "hot": {"messages": [{"role": "user", "content": "Hi"}], "temperature": 9},
        "empty": {"messages": []},
        "long": {"messages": [{"role": "user", "content": "word " * 9000}]},
        "nowhere": {"messages": [{"role": "user", "content": "Hi"}], "model": "e2e-none"},
    }
    bodies: dict[str, Any] = {
        name: {"messages": [{"role": "user", "content": text}], "max_tokens": 5, "temperature": 0}
        for name, text in good.items()
    } | bad
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": chat, **body}}
        for name, body in bodies.items()
    ]  # fmt: skip
    content = "\n".join(map(json.dumps, lines)).encode()
    file = client.files.create(file=("chats.jsonl", content), purpose="batch")
    batch = client.batches.create(
        input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
    )

    def ended() -> Any:
        found = client.batches.retrieve(batch.id)
        return found if found.status in ("completed", "failed", "cancelled", "expired") else None

    done = until(ended, "the batch ends", SLOW_S)
    assert (done.status, done.errors) == ("completed", None)
    counts = done.request_counts
    assert (counts.total, counts.completed, counts.failed) == (len(lines), len(good), len(bad))

    def told(file_id: str | None) -> list[Any]:
        assert file_id is not None
        return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]

    answers, errors = told(done.output_file_id), told(done.error_file_id)
    assert sorted(line["custom_id"] for line in answers) == sorted(good)
    assert sorted(line["custom_id"] for line in errors) == sorted(bad)
    refusals = {line["custom_id"]: line["response"] for line in errors}
    assert {name: told["status_code"] for name, told in refusals.items()} == {
        "hot": 400, "empty": 400, "long": 400, "nowhere": 404,
    }  # fmt: skip
    assert refusals["hot"]["body"]["error"]["param"] == "temperature"
    assert refusals["long"]["body"]["error"]["code"] == "context_length_exceeded"
    usages = []
    for line in answers:
        body = line["response"]["body"]
        assert (line["response"]["status_code"], line["error"]) == (200, None)
        assert body["choices"][0]["message"]["content"]
        usages.append(body["usage"])
    assert all(0 < usage["completion_tokens"] <= 5 for usage in usages)
    assert done.usage.input_tokens == sum(usage["prompt_tokens"] for usage in usages)
    assert done.usage.output_tokens == sum(usage["completion_tokens"] for usage in usages)
    assert done.usage.total_tokens == done.usage.input_tokens + done.usage.output_tokens
