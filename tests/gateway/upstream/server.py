"""A server of the OpenAI API that does what the first words of the last message say.

`server.py PORT FILE [CERT KEY]`: writes one JSON line per request to FILE. A word is a token.

    say N          N words                          none N     as say, and no usage
    pace MS N      as say, one each MS              hang       no answer at all
    part N         N words, then it cuts            stall N    N words, then nothing more
    garbage        no HTTP                          html       200, and no JSON
    status CODE    an error of that status          close N    as say, then it closes the connection
    drop           closes a connection that it has kept, at the next request on it
    big N KB       N words of so many KB            error N    N words, then an error event

Of inputs to embed the last text says it: a vector [number of words, 0.5] for each.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from pathlib import Path
from typing import Any

import httptools

THEIRS = "vendor/model-1"
USAGE = {"prompt_tokens": 7, "total_tokens": 0, "prompt_tokens_details": {"cached_tokens": 2}}


class Server(asyncio.Protocol):
    log: Path
    connections = 0

    def connection_made(self, transport: Any) -> None:
        Server.connections += 1
        self.transport = transport
        self.number = Server.connections
        self.parser = httptools.HttpRequestParser(self)
        self.url, self.body, self.headers = b"", b"", {}
        self.doomed = False
        self.task: asyncio.Task[None] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        if self.task is not None and not self.task.done():
            self.note(gone=True)
            self.task.cancel()

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self.url, self.body, self.headers = url, b"", {}

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        if self.doomed:
            self.transport.close()
            return
        self.task = asyncio.get_running_loop().create_task(self.answer())

    def note(self, **what: Any) -> None:
        with self.log.open("a") as file:
            file.write(json.dumps({"connection": self.number, **what}) + "\n")

    def send(self, status: int, body: bytes, *headers: str, kind: str = "application/json") -> None:
        lines = [f"HTTP/1.1 {status} X", f"content-type: {kind}", *headers]
        lines.append(f"content-length: {len(body)}")
        self.transport.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    async def answer(self) -> None:
        if self.url.endswith(b"/models"):
            self.send(200, json.dumps({"object": "list", "data": [{"id": THEIRS}]}).encode())
            return
        asked = json.loads(self.body)
        self.note(url=self.url.decode(), headers=self.headers, body=asked)
        text = asked["messages"][-1]["content"] if "messages" in asked else asked.get("prompt")
        if "input" in asked:
            text = asked["input"] if isinstance(asked["input"], str) else asked["input"][-1]
            text = text if isinstance(text, str) else "tokens"
        verb, *words = str(text).split()
        args = [int(n) for n in words if n.isdigit()]
        if verb == "hang":
            await asyncio.sleep(600)
        elif verb == "garbage":
            self.transport.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        elif verb == "html":
            self.send(200, b"<html>hello</html>", kind="text/html")
        elif verb == "status":
            told = {"message": f"no: {self.headers.get('authorization')}", "type": "odd"}
            body = json.dumps({"error": {**told, "param": "top_p", "code": "strange"}}).encode()
            self.send(args[0], body, "retry-after: 17")
        elif "input" in asked:
            self.embed(verb, asked)
        else:
            await self.say(verb, args, asked)

    def embed(self, verb: str, asked: dict[str, Any]) -> None:
        texts = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
        counts = [len(text.split()) if isinstance(text, str) else len(text) for text in texts]
        vectors = [{"object": "embedding", "index": i, "embedding": [float(n), 0.5]}
                   for i, n in enumerate(counts)]  # fmt: skip
        whole: dict[str, Any] = {"object": "list", "data": vectors, "model": THEIRS}
        usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
        whole |= {} if verb == "none" else {"usage": usage}
        self.send(200, json.dumps(whole).encode())

    async def say(self, verb: str, args: list[int], asked: dict[str, Any]) -> None:
        words = [f"w{i} " for i in range(args[-1] if args else 2)]
        if verb == "big":
            words = ["x" * 1024 * args[1]] * args[0]
        pace = args[0] / 1000 if verb == "pace" else 0
        usage = {**USAGE, "completion_tokens": len(words)}
        if not asked.get("stream"):
            await asyncio.sleep(pace * len(words))
            text = "".join(words)
            choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "text": text}
            choice["message"] = {"role": "assistant", "content": text}
            whole = {"id": "up-1", "object": "chat.completion", "created": 1, "model": THEIRS}
            whole |= {"choices": [choice], "extra": {"kept": True}}
            whole |= {} if verb == "none" else {"usage": usage}
            if verb == "part":
                self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n{")
                self.transport.close()
                return
            self.send(200, json.dumps(whole).encode())
        else:
            await self.stream(verb, words, pace, usage)
        self.doomed = verb == "drop"
        if verb == "close":
            self.transport.close()

    async def stream(self, verb: str, words: list[str], pace: float, usage: Any) -> None:
        head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked"
        self.transport.write(f"{head}\r\n\r\n".encode())
        common = {"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": THEIRS}
        self.event(common, {"role": "assistant", "content": ""})
        for word in words:
            self.event(common, {"content": word})
            await asyncio.sleep(pace)
        if verb == "part":
            self.transport.close()
            return
        if verb == "stall":
            await asyncio.sleep(600)
        if verb == "error":
            self.chunk(b'data: {"error": {"message": "out of memory"}}\n\n')
        self.event(common, {}, "stop")
        if verb != "none":
            self.chunk(b"data: " + json.dumps({**common, "choices": [], "usage": usage}).encode())
            self.chunk(b"\n\n")
        self.chunk(b"data: [DO")
        await asyncio.sleep(0)
        self.chunk(b"NE]\n\n")
        self.transport.write(b"0\r\n\r\n")

    def event(self, common: Any, delta: Any, reason: str | None = None) -> None:
        choice = {"index": 0, "delta": delta, "finish_reason": reason, "text": ""}
        choice["text"] = delta.get("content", "")
        body = {**common, "choices": [choice], "usage": None}
        self.chunk(b"data: " + json.dumps(body).encode() + b"\n\n")

    def chunk(self, data: bytes) -> None:
        self.transport.write(b"%x\r\n%b\r\n" % (len(data), data))


async def main() -> None:
    Server.log = Path(sys.argv[2])
    secure = None
    if len(sys.argv) > 3:
        secure = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        secure.load_cert_chain(sys.argv[3], sys.argv[4])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", int(sys.argv[1]), ssl=secure)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
