"""transformers' `generate` behind a small HTTP server: `transformers_llm.py GGUF PORT THREADS`.

POST /v1/chat/completions with `messages`, `max_tokens`, `stream: true`. What waits when a
generation ends is answered together as one batch, padded on the left, greedily; each token leaves
when it is there. GET /health answers once the model is loaded.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

MOST = 16
GATHER_S = 0.01
"""What arrives together is answered together."""


class Streamer:
    """`generate` puts the prompts first, then one token of each at a time."""

    def __init__(self, tokenizer, asks):
        self.tokenizer, self.asks, self.prompts = tokenizer, asks, True

    def put(self, tokens):
        if self.prompts:
            self.prompts = False
            return
        for token, ask in zip(tokens.flatten().tolist(), self.asks, strict=True):
            if ask["left"] > 0:
                ask["left"] -= 1
                ask["queue"].put(self.tokenizer.decode([token]))

    def end(self):
        for ask in self.asks:
            ask["queue"].put(None)


class Model:
    def __init__(self, path):
        where = {"gguf_file": path.name}
        self.tokenizer = AutoTokenizer.from_pretrained(path.parent, **where, padding_side="left")
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = AutoModelForCausalLM.from_pretrained(path.parent, **where).eval()
        self.waiting = queue.SimpleQueue()
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            asks = [self.waiting.get()]
            time.sleep(GATHER_S)
            while len(asks) < MOST and not self.waiting.empty():
                asks.append(self.waiting.get())
            self.answer(asks)

    @torch.inference_mode()
    def answer(self, asks):
        inputs = self.tokenizer(
            [ask["text"] for ask in asks],
            return_tensors="pt",
            padding=True,
            add_special_tokens=False,
        )
        for ask, mask in zip(asks, inputs["attention_mask"], strict=True):
            ask["prompt_tokens"] = int(mask.sum())
        most = max(ask["left"] for ask in asks)
        self.model.generate(
            **inputs,
            max_new_tokens=most,
            min_new_tokens=most,
            do_sample=False,
            pad_token_id=self.tokenizer.pad_token_id,
            streamer=Streamer(self.tokenizer, asks),
        )

    def ask(self, body):
        text = self.tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=True
        )
        made = {"text": text, "left": body["max_tokens"], "queue": queue.SimpleQueue()}
        self.waiting.put(made)
        return made


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    model: Model

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        ask = self.model.ask(body)
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        count = 0
        while (piece := ask["queue"].get()) is not None:
            count += 1
            self.event({"choices": [{"index": 0, "delta": {"content": piece}}]})
        usage = {"prompt_tokens": ask["prompt_tokens"], "completion_tokens": count}
        self.event({"choices": [], "usage": usage})
        self.chunk(b"data: [DONE]\n\n")
        self.chunk(b"")

    def event(self, event):
        self.chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()


def main():
    torch.set_num_threads(int(sys.argv[3]))
    Handler.model = Model(Path(sys.argv[1]))
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()


if __name__ == "__main__":
    main()
