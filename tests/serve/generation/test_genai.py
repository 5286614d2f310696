"""The engine behind its port, as a real process with the real model."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import numpy as np
import pytest

from meuse.serve.generation.messages import Format
from serve.generation.rig import Process, Worker, chat, raw

pytestmark = pytest.mark.timeout(500)  # the model is loaded within the first test

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def shaped(schema: Any, **sampling: Any) -> Any:
    ask = chat("Describe a person as JSON.", **sampling)
    body = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
    return msgspec.structs.replace(ask, format=Format("json_schema", body))


def bare_answer(bare: Any, prompt: str, tokens: int) -> tuple[int, list[int]]:
    """(tokens of the prompt, those of the answer), by the engine's own documentation."""
    import openvino
    import openvino_genai

    config = openvino_genai.GenerationConfig(max_new_tokens=tokens, do_sample=False)
    ids = np.array(bare.get_tokenizer().encode([prompt]).input_ids.data)
    handle = bare.add_request(0, openvino.Tensor(ids), config)
    while bare.has_non_finished_requests():
        bare.step()
    return ids.shape[1], handle.read_all()[0].generated_ids


@pytest.mark.parametrize(
    "question",
    [
        "Name the four seasons.", "What is the capital of France?", "Say hello and nothing else.",
        "Write a line of Python that prints the squares of 1 to 5.",
        "Tell me a story about a river.",
    ],
)  # fmt: skip
def test_greedy_text_and_counts_are_the_engines_own(
    worker: Worker, bare: Any, question: str
) -> None:
    """Token for token at one stream; the token that ends an answer is not text, nor counted."""
    tokenizer = bare.get_tokenizer()
    text = tokenizer.apply_chat_template([{"role": "user", "content": question}], True)
    count, ids = bare_answer(bare, text, 32)
    ends = ids[-1] == tokenizer.get_eos_token_id()
    answer = worker.ask(chat(question, max_tokens=32))
    assert answer.text() == tokenizer.decode(ids)
    assert answer.last.prompt_tokens == count
    assert answer.last.completion_tokens == len(ids) - ends
    assert answer.last.reasons == ("stop" if ends else "length",)
    for stop in (ids[3:5], ids[6:8]):
        word = tokenizer.decode(stop)
        cut = worker.ask(chat(question, max_tokens=32, stop=("never said", word)))
        assert cut.text() == answer.text().partition(word)[0]
        assert cut.last.reasons == ("stop",)


def test_characters_of_several_tokens_come_whole(worker: Worker) -> None:
    """Asked to repeat signs that are several tokens each; every part of the text is whole."""
    answer = worker.ask(raw("🙂🎉🙂🎉🙂🎉🙂🎉🙂🎉", max_tokens=24, ignore_eos=True))
    assert "\ufffd" not in "".join(part.text for part in answer.parts)
    assert answer.last.completion_tokens == 24
    assert [part.tokens for part in answer.parts] == sorted({p.tokens for p in answer.parts})


def test_several_choices_are_ended_and_counted_apart(worker: Worker) -> None:
    """The prompt is counted once; each choice has its own text and reason."""
    ask = raw("Once upon a time", n=3, temperature=1.0, seed=5, max_tokens=12, ignore_eos=True)
    answer = worker.ask(ask)
    assert answer.last.reasons == ("length",) * 3
    assert answer.last.prompt_tokens == 4
    assert answer.last.completion_tokens == 36 == answer.parts[-1].tokens
    assert len({answer.text(index) for index in range(3)}) > 1


def test_seeds_repeat_and_their_absence_varies(worker: Worker) -> None:
    """At one stream. The engine's own default would be the same for everybody."""
    told = [worker.ask(raw("A", temperature=1.0, seed=9)).text() for _ in range(2)]
    assert told[0] == told[1]
    assert len({worker.ask(raw("A", temperature=1.0)).text() for _ in range(3)}) > 1


def test_bounds_that_leave_one_token_are_greedy(worker: Worker) -> None:
    """At their ends, which the engine refuses, and where its own numbers would overflow."""
    wanted = worker.ask(raw("Once upon a", max_tokens=4)).text()
    for ends in ({"top_k": 1}, {"top_p": 0.0}, {"min_p": 1.0}, {"temperature": 1e-40}):
        told = {"temperature": 2.0, "seed": 1, "max_tokens": 4, **ends}
        assert worker.ask(raw("Once upon a", **told)).text() == wanted, ends


def test_log_probabilities_are_those_of_the_model(worker: Worker) -> None:
    """One for each token, whose bytes join to the text; greedy ones are the likeliest."""
    answer = worker.ask(raw("The capital of France is", max_tokens=4, logprobs=0))
    rows = [row for p in answer.parts if p.logprobs for row in msgspec.json.decode(p.logprobs)]
    assert len(rows) == answer.last.completion_tokens
    assert b"".join(bytes(row["bytes"]) for row in rows).decode() == answer.text()
    assert all(-20 < row["logprob"] < 0 for row in rows)
    assert not any(p.logprobs for p in worker.ask(raw("A", max_tokens=2)).parts)


def test_json_is_what_the_schema_says(worker: Worker) -> None:
    """Whatever the model would rather say."""
    answer = worker.ask(shaped(PERSON, max_tokens=120))
    if answer.last.reasons == ("stop",):
        person = json.loads(answer.text())
        assert set(person) == {"name", "age"}
        assert isinstance(person["age"], int)
    assert answer.text().lstrip().startswith("{")


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "nonsense"}, "nonsense"),
        ({"$ref": "#/nowhere"}, "nowhere"),
        ({"type": "string", "pattern": "["}, "Unclosed"),
        (b"{not json", "no JSON"),
        (b"[]", "neither"),
        (b'{"a":' * 100 + b"1" + b"}" * 100, "deeper"),
        ({"type": "string", "maxLength": 10**6}, "maxLength"),
        ({"type": "string", "pattern": "((a{1,5000}){1,5000}){1,5000}"}, "a pattern comes to"),
        ({"patternProperties": {"^a{20000}$": {}}}, "a pattern comes to 20002 characters"),
        ({"enum": list(range(2000))}, "more than"),
        ({"description": "x" * 70_000}, "bytes"),
    ],
)
def test_a_bad_schema_harms_nobody(worker: Worker, schema: Any, says: str) -> None:
    """It is refused with the reason while another stream goes on to its end (compiled in the
    engine itself, it would have made the pipeline unusable)."""
    other = worker.send(raw("Once upon a time", max_tokens=5, ignore_eos=True))
    failure = worker.ask(shaped(schema)).error
    assert (failure.code, failure.field) == ("invalid_field", "response_format")
    assert says in failure.message
    assert worker.wait(other).last.completion_tokens == 5
    assert worker.answers[other].last.error is None


def test_a_bad_schema_of_a_tool_is_named_at_the_tool(worker: Worker) -> None:
    """Where a call is forced. With `auto` nothing is held to it."""
    good = {"type": "function", "function": {"name": "now"}}
    bad = {"name": "look", "parameters": {"type": "nonsense"}}
    tools = json.dumps([good, {"type": "function", "function": bad}]).encode()
    ask = msgspec.structs.replace(chat("Hi", max_tokens=1), tools=tools)
    failure = worker.ask(msgspec.structs.replace(ask, tool_choice=b'"required"')).error
    assert (failure.code, failure.field) == ("invalid_field", "tools[1].function.parameters")
    assert "nonsense" in failure.message
    assert worker.ask(ask).last.completion_tokens == 1


def test_cancel_ends_a_real_stream(worker: Worker) -> None:
    """At its third token; the engine is free for the next."""
    number = worker.send(raw("Once", max_tokens=900, ignore_eos=True))
    answer = worker.answers[number]
    while not answer.parts or answer.parts[-1].tokens < 3:
        worker.read()
    worker.cancel(number)
    assert worker.wait(number).error.code == "cancelled"
    assert answer.last.completion_tokens == answer.parts[-1].tokens < 900
    assert worker.ask(raw("A", max_tokens=1)).last.completion_tokens == 1


def test_many_streams_together_each_get_their_own(worker: Worker, replica: Process) -> None:
    """Eight at once over two connections: all whole, none mixed up."""
    second = replica.connect()
    numbers = [
        (w, w.send(raw(f"Number {i} is", max_tokens=8 + i, ignore_eos=True)), 8 + i)
        for i, w in enumerate([worker, second] * 4)
    ]
    for w, number, tokens in numbers:
        assert w.wait(number).last.completion_tokens == tokens
        assert w.answers[number].parts[-1].tokens == tokens


def test_a_tool_that_must_be_called_is_called(worker: Worker) -> None:
    """By a model that was never taught to: the answer is held to the tool's own schema."""
    parameters = {
        "type": "object",
        "properties": {"unit": {"enum": ["C", "F"]}, "hot": {"type": "boolean"}},
        "required": ["unit", "hot"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    ask = msgspec.structs.replace(
        chat("Is it hot in Paris?", max_tokens=100),
        tools=json.dumps([tool]).encode(),
        tool_choice=b'"required"',
    )
    answer = worker.ask(ask)
    assert answer.last.reasons == ("tool_calls",), answer.text()
    (call,) = answer.calls()
    assert call["function"]["name"] == "weather"
    arguments = json.loads(call["function"]["arguments"])
    assert arguments["unit"] in ("C", "F")
    assert isinstance(arguments["hot"], bool)
    assert answer.text() == ""
