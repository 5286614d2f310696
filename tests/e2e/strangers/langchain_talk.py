"""What LangChain's own way of calling OpenAI gets here, as JSON. Runs where LangChain is.

`langchain_talk.py URL KEY MODEL TOOLS_MODEL ENCODER`
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Weather(BaseModel):
    """The weather of a place."""

    degrees: int
    rain: bool


@tool
def look_up(city: str) -> str:
    """The weather of a city."""
    return f"It rains in {city}."


TEXTS = ["A cat sits on the mat.", "A kitten is sitting on a rug.", "Stock markets fell."]


def main(url: str, key: str, model: str, tools_model: str, encoder: str) -> dict[str, Any]:
    given: dict[str, Any] = {"base_url": url, "api_key": key, "temperature": 0, "max_retries": 0}
    talker = ChatOpenAI(model=model, max_tokens=24, **given)
    asked = [SystemMessage("Be short."), HumanMessage("What is the capital of France?")]
    whole = talker.invoke(asked)
    parts = list(talker.stream(asked, stream_usage=True))
    many = talker.batch([asked, asked])
    shape = talker.model_copy(update={"max_tokens": 64}).with_structured_output(
        Weather, method="json_schema"
    )
    caller = ChatOpenAI(model=tools_model, max_tokens=96, **given).bind_tools(
        [look_up], tool_choice="required"
    )
    question = HumanMessage("How is the weather in Liege?")
    called = caller.invoke([question])
    streamed: Any = None
    for part in caller.stream([question]):
        streamed = part if streamed is None else streamed + part
    done = [ToolMessage(look_up.invoke(call["args"]), tool_call_id=call["id"])
            for call in called.tool_calls]  # fmt: skip
    last = (
        ChatOpenAI(model=tools_model, max_tokens=8, **given)
        .bind_tools([look_up])
        .invoke([question, called, *done], tool_choice="none")
    )

    async def later() -> AIMessage:
        return await talker.ainvoke(asked)

    refused = ""
    try:
        talker.invoke([HumanMessage([{"type": "image_url", "image_url": {"url": "data:,"}}])])
    except Exception as error:
        refused = f"{type(error).__name__}: {error}"
    return {
        "whole": whole.content,
        "usage": whole.usage_metadata,
        "finish": whole.response_metadata["finish_reason"],
        "parts": [part.content for part in parts],
        "streamed_usage": next(p.usage_metadata for p in parts if p.usage_metadata),
        "many": [answer.content for answer in many],
        "shape": shape.invoke("How is the weather in Liege? Answer as JSON.").model_dump(),
        "called": called.tool_calls,
        "streamed_call": streamed.tool_calls,
        "last": last.content,
        "later": asyncio.run(later()).content,
        "refused": refused,
        **embedded(encoder, base_url=url, api_key=key),
    }


def embedded(model: str, **given: Any) -> dict[str, Any]:
    """Texts go as texts with this option; without it, as tokens of a vocabulary of OpenAI's, which
    is fetched from the web."""
    encoder = OpenAIEmbeddings(
        model=model, max_retries=0, check_embedding_ctx_length=False, **given
    )
    refused = ""
    try:
        encoder.client.create(model=model, input=[[32, 8415, 23011]])
    except Exception as error:
        refused = str(error)
    return {
        "vectors": encoder.embed_documents(TEXTS),
        "vector": encoder.embed_query(TEXTS[0]),
        "tokens_refused": refused,
    }


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
