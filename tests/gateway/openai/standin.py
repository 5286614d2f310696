"""A stand-in for a replica that produces text: `standin.py <json>`; see `gateway.rig`.

Speaks the frames, has a word per token, and does what the first words of the last message, or
of the prompt, say:

    say N          N words, one in each step        hold      starts, and says nothing more
    pace MS N      as say, a step each MS           silent    does not even start
    die N          N words, then it kills itself    fail N    N words, then an error
    refuse         an error at once                 tool      one call of a tool, in three parts
    big N KB       N words of so many KB each       echo      what it was asked, as JSON
    late MS N      as say, but starts after MS

Prompt tokens are the words of all messages. What it was told to cancel, and how far it was, is
written to `<id>.cancelled`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from meuse.serve import frames
from meuse.serve.frames import Cancel, Failure, Finished, Generate, Hello, Part, Started, Tokens
from meuse.serve.generation import messages
from meuse.serve.generation.messages import Ask

CALLS = (
    [
        {
            "index": 0,
            "id": "call_1",
            "type": "function",
            "function": {"name": "look", "arguments": ""},
        }
    ],
    [{"index": 0, "function": {"arguments": '{"at": '}}],
    [{"index": 0, "function": {"arguments": '"Liège"}'}}],
)


def words_of(ask: Ask) -> list[str]:
    if ask.messages:
        return " ".join(m["content"] or "" for m in json.loads(ask.messages)).split()
    return ask.prompt.split() or [str(i) for i in ask.prompt_ids]


def told(ask: Ask) -> list[str]:
    if ask.messages:
        return str(json.loads(ask.messages)[-1]["content"]).split()
    return ask.prompt.split() or ["say", "2"]


class Replica(asyncio.Protocol):
    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.decoder = frames.Decoder()
        self.running: dict[int, asyncio.Task[None]] = {}
        self.count: dict[int, int] = {}

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        hello = Hello(self.given["id"], self.given["version"], self.given.get("credits", 64))
        self.write(hello)

    def connection_lost(self, exc: Exception | None) -> None:
        for task in self.running.values():
            task.cancel()

    def data_received(self, data: bytes) -> None:
        for header, _ in self.decoder.feed(data):
            if isinstance(header, Generate):
                ask = messages.decode(header.ask)
                task = asyncio.get_running_loop().create_task(self.run(header, ask))
                self.running[header.number] = task
            elif isinstance(header, Cancel):
                self.cancel(header.number)

    def cancel(self, number: int) -> None:
        task = self.running.pop(number, None)
        if task is None:
            return
        task.cancel()
        done = self.count.get(number, 0) + 1  # one step was under way
        path = Path(self.given["socket"]).with_suffix(".cancelled")
        path.write_text(str(done))
        self.finish(number, ["stop"], 3, done)

    def write(self, header: frames.Header) -> None:
        self.transport.writelines(frames.encode(header))

    def finish(
        self, number: int, reasons: list[str], prompt: int, done: int, error: Failure | None = None
    ) -> None:
        self.running.pop(number, None)
        self.write(Finished(number, tuple(reasons), prompt, done, 0, 10, 2000, 0, error))

    async def run(self, header: Generate, ask: Ask) -> None:
        number, (verb, *numbers) = header.number, told(ask)
        args = [int(n) for n in numbers if n.isdigit()]
        prompt, n = len(words_of(ask)), ask.sampling.n
        if verb == "silent":
            return
        if verb == "refuse":
            said = "the prompt has 9000 tokens, the model's context window 8192"
            error = Failure("context_length_exceeded", said, "messages", "Shorten it.")
            self.finish(number, [], prompt, 0, error)
            return
        if verb == "late":
            await asyncio.sleep(args.pop(0) / 1000)
        self.write(Started(number, prompt, 0))
        if verb == "hold":
            return
        if verb == "tool":
            for i, calls in enumerate(CALLS):
                self.step(number, [Part(number, 0, i + 1, "", msgspec.json.encode(calls))])
            self.finish(number, ["tool_calls"], prompt, 3)
            return
        texts, pace = self.texts(verb, args, ask)
        most = ask.sampling.max_tokens
        reason = "stop" if most is None or len(texts) <= most else "length"
        for i, text in enumerate(texts[:most]):
            first = self.count.get(number, 0)
            parts = [
                Part(number, c, first + c + 1, text, b"", self.logprobs(ask, text))
                for c in range(n)
            ]
            self.count[number] = first + n
            self.step(number, parts)
            if i or verb == "pace":
                await asyncio.sleep(pace)
        if verb == "die":
            await asyncio.sleep(0.05)
            os.kill(os.getpid(), signal.SIGKILL)
        error = Failure("engine_error", "the engine gave up") if verb == "fail" else None
        self.finish(number, [reason] * n, prompt, self.count.get(number, 0), error)

    def texts(self, verb: str, args: list[int], ask: Ask) -> tuple[list[str], float]:
        if verb == "echo":
            return [msgspec.json.encode(msgspec.to_builtins(ask)).decode()], 0
        if verb == "pace":
            return [f"w{i} " for i in range(args[1])], args[0] / 1000
        if verb == "big":
            return [f"{i} ".ljust(1024 * args[1], "x") for i in range(args[0])], 0.002
        return [f"w{i} " for i in range(args[0] if args else 2)], 0

    def logprobs(self, ask: Ask, text: str) -> bytes:
        if ask.sampling.logprobs is None:
            return b""
        top = [{"token": text, "logprob": -0.5, "bytes": list(text.encode())}]
        return msgspec.json.encode([{**top[0], "top_logprobs": top[: ask.sampling.logprobs]}])

    def step(self, number: int, parts: list[Part]) -> None:
        self.write(Tokens(tuple(parts)))


async def main() -> None:
    given = json.loads(sys.argv[1])
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(lambda: Replica(given), given["socket"])
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
