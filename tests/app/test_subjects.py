"""Each layout of a language model is opened and judged: the same weights come to the same."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest

import helpers_llama as llama
from meuse.app.work.subjects import AHEAD, Subject, _written, opened
from meuse.app.work.tokens import prompt_of, tokens_of
from meuse.core.errors import Code, MeuseError
from meuse.evaluate.language import lines
from meuse.evaluate.language.lines import Line
from meuse.gateway.openai.conversation import normal
from meuse.language.checkpoint import open_checkpoint
from meuse.language.graph import graph_of
from meuse.language.ir import write_ir
from meuse.serve.generation import manifest as manifests
from meuse.serve.generation.engine import Progress, Work
from meuse.serve.generation.manifest import File, Manifest
from meuse.serve.generation.prompt import Prompt
from meuse.store.blobs import FolderBlobs

TENANT = "t"
WEIGHTS = "adapter_model.safetensors"
TEXTS = [
    b'{"text": "The Meuse springs on the plateau of Langres."}',
    b'{"prompt": "It flows through ", "completion": "Li\xc3\xa8ge"}',
    b'{"messages": [{"role": "user", "content": "Where <|im_end|> does it end?"}, '
    b'{"role": "assistant", "content": "In Holland."}]}',
]


class Store:
    """Versions of one small model, by layout."""

    def __init__(self, folder: Path) -> None:
        self.blobs = FolderBlobs(folder / "blobs")
        self.folder = folder
        hf = llama.checkpoint(folder / "hf", width=64)
        read = open_checkpoint(hf)
        write_ir(read, graph_of(read.model), folder / "ir", half=False)
        config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        peft.get_peft_model(read.model, config).save_pretrained(str(folder / "lora"))
        self.hf = self._version("hf", hf)
        self.ir = self._version("ir", folder / "ir")
        self.adapter = self.config()

    def config(self, **changes: Any) -> dict[str, Any]:
        """The adapter, whose configuration says something else."""
        path = self.folder / "lora" / "adapter_config.json"
        told = path.read_text()
        path.write_text(json.dumps(json.loads(told) | changes))
        made = self._version("adapter", path.parent, [path, path.parent / WEIGHTS])
        path.write_text(told)
        return {**made, "base": self.hf}

    def _version(
        self, layout: str, folder: Path, paths: list[Path] | None = None
    ) -> dict[str, Any]:
        files = []
        for path in paths or sorted(folder.iterdir()):
            with path.open("rb") as file:
                files.append(File(path.name, *self.blobs.put(TENANT, file)))
        made = Manifest(
            layout=layout, files=tuple(files), architecture="llama", context=llama.CONTEXT,
            vocabulary=259, parameters=1, chat_template=llama.CHATML,
            kv_bytes_per_token=2 * 2 * 2 * 16 * 2,
        )  # fmt: skip
        digest, _ = self.blobs.put(TENANT, io.BytesIO(manifests.encode(made)))
        return {
            "ref": f"{layout}:1", "layout": layout, "context": llama.CONTEXT,
            "manifest": digest, "base": None,
        }  # fmt: skip

    def open(self, version: dict[str, Any]) -> Subject:
        return opened(self.blobs, TENANT, version, self.folder / f"open-{version['layout']}")


@pytest.fixture(scope="module")
def found() -> list[Line]:
    return lines.read(TEXTS, normal)


def told(subject: Subject, found: list[Line]) -> list[np.ndarray[Any, Any]]:
    """Tokens of each line, behind them their log-probabilities."""
    pairs = [
        pair
        for line in found
        for pair in tokens_of(line, subject.reader, subject.tokenizer, llama.CONTEXT)
    ]
    return [
        np.concatenate([ids, [first], subject.model.log_probabilities(ids)]) for ids, first in pairs
    ]


class Scripted:
    """An engine that writes so many letters for each prompt: its first token."""

    def __init__(self) -> None:
        self.tokenizer = self
        self.left: dict[int, int] = {}
        self.most = self.decoded = self.cancelled = self._number = 0

    def add(self, work: Work) -> int:
        self._number += 1
        self.left[self._number] = int(work.ids[0])
        self.most = max(self.most, len(self.left))
        return self._number

    def cancel(self, handle: int) -> None:
        self.cancelled += 1
        del self.left[handle]

    def step(self) -> list[Progress]:
        told = [Progress(n, [left], ended="" if left > 1 else "stop")
                for n, left in self.left.items()]  # fmt: skip
        self.left = {n: left - 1 for n, left in self.left.items() if left > 1}
        return told

    def decode(self, ids: list[int]) -> str:
        self.decoded += 1
        return "".join(chr(96 + number) for number in ids)


def test_many_prompts_are_given_to_the_engine_a_few_at_a_time() -> None:
    """In whatever order they end, each answer is its prompt's; without stops no text is decoded
    before it is whole."""
    counts = [1 + (n * 7) % 5 for n in range(10 * AHEAD)]
    prompts = [Prompt(np.array([count]), 8) for count in counts]
    engine, seen = Scripted(), list[int]()
    texts = _written(engine, prompts, None, seen.append)
    assert texts == ["edcba"[-count:] for count in counts]
    assert engine.most == AHEAD
    assert engine.decoded == len(prompts)
    assert seen[-1] == len(prompts)


def test_a_stop_ends_an_answer_and_lets_the_next_begin() -> None:
    engine, count = Scripted(), 2 * AHEAD
    prompts = [Prompt(np.array([4]), 8)] * count
    assert _written(engine, prompts, lambda text: "c" in text, lambda _: None) == ["dc"] * count
    assert (engine.most, engine.cancelled, engine.left) == (AHEAD, count, {})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("subjects"))


# Between peft 0.21 and transformers 5.24.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_every_layout_is_judged(store: Store, found: list[Line]) -> None:
    """The engine's tokens, prompts, likelihoods and words are those of transformers; an adapter
    changes likelihoods and no token."""
    checkpoint, graph, adapted = map(store.open, (store.hf, store.ir, store.adapter))
    assert (checkpoint.engine, graph.engine) == ("transformers", "openvino")
    expected = told(checkpoint, found)
    for mine, theirs in zip(told(graph, found), expected, strict=True):
        assert mine == pytest.approx(theirs, abs=5e-3)
    for mine, theirs in zip(told(adapted, found), expected, strict=True):
        count = (len(mine) - 1) // 2 + 1  # ids, first, one log-probability fewer than ids
        assert mine[: count + 1].tolist() == theirs[: count + 1].tolist()
        assert np.abs(mine[count + 1 :] - theirs[count + 1 :]).max() > 0.01
    prompts = [prompt_of(line, checkpoint.reader, 8) for line in found[1:]]
    written = [s.write(prompts, lambda _: False, lambda _: None) for s in (checkpoint, graph)]
    assert written[0] == written[1]
    assert all(written[0])
    assert adapted.write(prompts, lambda _: False, lambda _: None) != written[0]


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_of_an_adapters_configuration_peft_gets_what_was_judged(
    store: Store, found: list[Line]
) -> None:
    """Not what else a stranger's file says: a pattern to match, a way to change the base."""
    for changes in ({"target_modules": "(.*)+_proj"}, {"init_lora_weights": "pissa"},
                    {"use_bdlora": {"nblocks": 2}}, {"target_modules": None}):  # fmt: skip
        with pytest.raises(MeuseError) as caught:
            store.open(store.config(**changes))
        assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "adapter")
    other = store.open(store.config(exclude_modules="(.*)+_proj", lora_dropout=0.5))
    expected = told(store.open(store.adapter), found)
    for mine, theirs in zip(told(other, found), expected, strict=True):
        assert mine.tolist() == theirs.tolist()
