"""openvino-genai alone: waves of requests read from standard input, figures written to the output.

`genai_bare.py OPTIONS` with OPTIONS in JSON: `model` (a path), `threads`, `kind` (`batching`:
ContinuousBatchingPipeline, or `single`: LLMPipeline), `scheduler` (fields of SchedulerConfig),
`properties` and `generation` (fields of GenerationConfig). Each line of the input is a list of
waves, each a list of {messages, max_tokens}; each line of the output has the form of llm_load.py's.
Prompts are made and tokenized before a wave begins, and texts decoded after it has ended.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import openvino
import openvino_genai as genai


class Bare:
    def __init__(self, options):
        self.generation = options.get("generation") or {}
        self.single = options["kind"] == "single"
        properties = {"INFERENCE_NUM_THREADS": options["threads"], **options["properties"]}
        if self.single:
            self.pipeline = genai.LLMPipeline(options["model"], "CPU", **properties)
        else:
            scheduler = genai.SchedulerConfig()
            for name, value in options["scheduler"].items():
                setattr(scheduler, name, value)
            self.pipeline = genai.ContinuousBatchingPipeline(
                options["model"], scheduler, "CPU", properties
            )
        self.tokenizer = self.pipeline.get_tokenizer()

    def config(self, max_tokens):
        config = genai.GenerationConfig()
        config.max_new_tokens = max_tokens
        config.ignore_eos = True
        for name, value in self.generation.items():
            setattr(config, name, value)
        return config

    def wave(self, asks):
        ids = [self.encode(ask["messages"]) for ask in asks]
        configs = [self.config(ask["max_tokens"]) for ask in asks]
        run = self.run_single if self.single else self.run_together
        began, firsts, ends, produced = run(ids, configs)
        return {
            "seconds": max(ends) - began,
            "streams": [
                {
                    "first_s": first - began,
                    "end_s": end - began,
                    "tokens": len(made),
                    "prompt_tokens": prompt.shape[1],
                    "text": self.tokenizer.decode(made),
                }
                for prompt, first, end, made in zip(ids, firsts, ends, produced, strict=True)
            ],
        }

    def encode(self, messages):
        text = self.tokenizer.apply_chat_template(messages, True)
        return np.array(self.tokenizer.encode([text], add_special_tokens=False).input_ids.data)

    def run_together(self, prompts, configs):
        tensors = [openvino.Tensor(ids) for ids in prompts]
        firsts, ends, produced = [0.0] * len(prompts), [0.0] * len(prompts), [[] for _ in prompts]
        began = time.perf_counter()
        handles = [
            self.pipeline.add_request(number, ids, config)
            for number, (ids, config) in enumerate(zip(tensors, configs, strict=True))
        ]
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()
            now = time.perf_counter()
            for number, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        produced[number] += output.generated_ids
                        firsts[number] = firsts[number] or now
                        ends[number] = now
        return began, firsts, ends, produced

    def run_single(self, prompts, configs):
        """One after the other: it has no batching of its own."""
        firsts, ends, produced = [], [], []
        began = time.perf_counter()
        for ids, config in zip(prompts, configs, strict=True):
            seen = []

            def put(_text, seen=seen):
                if not seen:
                    seen.append(time.perf_counter())
                return genai.StreamingStatus.RUNNING

            result = self.pipeline.generate(openvino.Tensor(ids), config, put)
            produced.append(list(result.tokens[0]))
            ends.append(time.perf_counter())
            firsts.append(seen[0])
        return began, firsts, ends, produced


def main():
    bare = Bare(json.loads(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps([bare.wave(asks) for asks in json.loads(line)]), flush=True)


if __name__ == "__main__":
    main()
