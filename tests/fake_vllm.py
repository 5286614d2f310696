"""A server that is started as vLLM is and speaks the OpenAI API as it does, without a model.

It understands the words of `serve.generation.vllm` and refuses others, as vLLM would. Of a chat
it says `MODEL: LAST WORDS`, a word a token; in a stream a word each `pace` ms where the last words
are `pace MS N`. Its first child process is a helper that does nothing, as vLLM's engine is one.
Settings come by the environment: FAKE_VLLM_LOAD_S, FAKE_VLLM_FAIL (what it says, and then ends),
FAKE_VLLM_OPEN (it asks nobody for a key).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NUMBERS = (
    "tensor-parallel-size", "pipeline-parallel-size", "max-model-len", "max-num-seqs",
    "max-num-batched-tokens", "max-loras", "max-lora-rank", "max-cpu-loras",
)  # fmt: skip


def interpreter(folder: Path) -> Path:
    """What stands for the Python of vLLM's environment: the first words after `-m` are dropped."""
    path = folder / "python"
    path.write_text(f'#!/bin/sh\nshift 2\nexec "{sys.executable}" "{Path(__file__)}" "$@"\n')
    path.chmod(0o755)
    return path


def servers(home: Path) -> list[int]:
    """The processes of stand-ins that a platform with this home has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes()
        except OSError:
            continue
        if b"fake_vllm.py" in line and str(home / "served").encode() in line:
            found.append(int(path.name))
    return found


def words() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    for name in ("model", "served-model-name", "host"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in NUMBERS:
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--enable-lora", action="store_true")
    parser.add_argument("--no-enable-prefix-caching", action="store_true")
    parser.add_argument("--lora-modules", nargs="+", default=[])
    return parser.parse_args()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    models: set[str]

    def log_message(self, *_: Any) -> None: ...

    def send(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def is_allowed(self) -> bool:
        key = f"Bearer {os.environ['VLLM_API_KEY']}"
        if self.headers.get("authorization") == key or "FAKE_VLLM_OPEN" in os.environ:
            return True
        self.send(401, {"error": "Unauthorized"})
        return False

    def do_GET(self) -> None:
        if self.path == "/health":
            self.send(200, {})
        elif self.is_allowed():
            self.send(200, {"object": "list", "data": [{"id": name} for name in self.models]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.is_allowed():
            return
        if body["model"] not in self.models:
            self.send(404, {"error": {"message": f"there is no {body['model']}"}})
            return
        said = body["messages"][-1]["content"]
        if body.get("stream"):
            self.stream(said)
            return
        text = f"{body['model']}: {said}"
        choice = {"index": 0, "finish_reason": "stop",
                  "message": {"role": "assistant", "content": text}}  # fmt: skip
        self.send(200, {"id": "c", "object": "chat.completion", "created": 1, "choices": [choice],
                        "model": body["model"], "usage": usage(len(text.split()))})  # fmt: skip

    def stream(self, said: str) -> None:
        _, pace, many = said.split()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for i in range(int(many)):
            self.event([{"index": 0, "delta": {"content": f"w{i} "}, "finish_reason": None}])
            time.sleep(int(pace) / 1000)
        self.event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        self.event([], usage(int(many)))
        self.chunk(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def event(self, choices: list[Any], used: Any = None) -> None:
        told = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
        self.chunk(f"data: {json.dumps({**told, 'choices': choices, 'usage': used})}\n\n".encode())

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


def usage(tokens: int) -> dict[str, int]:
    return {"prompt_tokens": 7, "completion_tokens": tokens, "total_tokens": 7 + tokens}


def main() -> None:
    told = words()
    if told.host != "127.0.0.1" or not (Path(told.model) / "config.json").is_file():
        sys.exit(f"cannot serve {told.model} on {told.host}")
    if words_of_failure := os.environ.get("FAKE_VLLM_FAIL"):
        sys.exit(words_of_failure)
    Handler.models = {told.served_model_name}
    for module in told.lora_modules:
        name, _, path = module.partition("=")
        if not (Path(path) / "adapter_config.json").is_file():
            sys.exit(f"no adapter in {path}")
        Handler.models.add(name)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "engine"])
    time.sleep(float(os.environ.get("FAKE_VLLM_LOAD_S", "0")))
    server = ThreadingHTTPServer((told.host, told.port), Handler)
    print(f"serves {sorted(Handler.models)} by {os.environ['VLLM_API_KEY']}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
