"""`deployment:adapter`: the deployment's replica, the adapter's version on the record."""

from __future__ import annotations

import json

import msgspec
import openai
import pytest

from gateway.openai.conftest import Chat, text_target


def say(client: openai.OpenAI, model: str, text: str = "say 2") -> str:
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}]
    )
    return answer.choices[0].message.content or ""


def adapter_asked(client: openai.OpenAI, model: str) -> str:
    """What the replica was told to answer with."""
    found: str = json.loads(say(client, model, "echo"))["adapter"]
    return found


def test_the_record_is_of_the_adapters_version(served: Chat) -> None:
    """Under the deployment, so its price and limits hold; the base's stays the base's."""
    say(served.client, "chat:law")
    (record, *_) = reversed([r for r in served.rig.records() if r.final])
    assert (record.deployment, record.version) == ("acme/chat", "law:1")
    say(served.client, "chat")
    (record, *_) = reversed([r for r in served.rig.records() if r.final])
    assert (record.deployment, record.version) == ("acme/chat", "smol:1")


def test_others_call_it_by_its_owner(chat: Chat) -> None:
    """Where they have access, and only then; an adapter taken away is a 404."""
    chat.rig.listen()
    blue = chat.openai(chat.blue)
    with pytest.raises(openai.NotFoundError):
        say(blue, "acme/chat:law")
    target = text_target("smol:1", ["c1"], adapters=("law", "new"))
    chat.rig.deploy("acme/chat", target, access=("blue",))
    chat.rig.publish()
    for adapter in ("law", "new"):
        assert adapter_asked(blue, f"acme/chat:{adapter}") == adapter
    assert {m.id for m in blue.models.list()} == {
        "acme/chat", "acme/chat:law", "acme/chat:new",
    }  # fmt: skip
    chat.rig.deploy("acme/chat", text_target("smol:1", ["c1"], adapters=("law",)))
    chat.rig.publish()
    with pytest.raises(openai.NotFoundError) as caught:
        say(chat.client, "chat:new")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


def test_a_version_that_cannot_have_it_is_passed_over(chat: Chat) -> None:
    """While a new base takes over, the adapter's requests go where it is."""
    chat.rig.listen()
    new = text_target("smol:2", ["c1"])
    old = msgspec.structs.replace(text_target("smol:1", ["c1"], adapters=("law",)), weight=0)
    chat.rig.deploy("acme/chat", old, new)
    chat.rig.publish()
    assert adapter_asked(chat.client, "chat:law") == "law"
