"""Adapters in a replica with the real engine: no answer ever comes from another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec
import pytest

import helpers_lora as made
from meuse.serve.generation import manifest as manifests
from serve.generation.rig import Process, Worker, raw

pytest.importorskip("openvino_genai")
pytest.importorskip("transformers")
pytestmark = pytest.mark.timeout(600)

PROMPTS = ["hello", "a quick brown fox", "Name the seasons.", "12 + 30 =", "zzzz", "Liège"]
A, B = ("q_proj", "v_proj", "down_proj"), ("q_proj", "k_proj", "v_proj", "o_proj")


class Served(Process):
    """A replica of the tiny decoder, and adapters in its store by name."""

    def __init__(self, base: Path, **options: int | str) -> None:
        files = sorted(path for path in base.iterdir() if path.is_file())
        super().__init__(made.manifest("ir", files), files, **{"max-adapters": 8, **options})
        self.digests: dict[str, str] = {"": ""}

    def add(self, name: str, folder: Path) -> str:
        paths = sorted(folder.iterdir())
        for path in paths:
            self.blobs.put("acme", BytesIO(path.read_bytes()))
        body = manifests.encode(made.manifest("adapter", paths))
        self.digests[name] = self.blobs.put("acme", BytesIO(body))[0]
        return self.digests[name]

    def ask(self, name: str, prompt: str, **sampling: Any) -> Any:
        ask = raw(prompt, **{"max_tokens": 12, "ignore_eos": True, "logprobs": 0, **sampling})
        return msgspec.structs.replace(ask, adapter=self.digests[name])


Told = dict[str, list[list[int]]]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made.tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {
        "a": made.write(root / "a", made.matrices(made.layers_of(*A), 1)),
        "b": made.write(root / "b", made.matrices(made.layers_of(*B), 2, rank=8), r=8),
        "c": made.write(root / "c", made.matrices(made.layers_of(*A), 3)),
    }


@pytest.fixture(scope="module")
def served(base: Path, folders: dict[str, Path]) -> Iterator[Served]:
    process = Served(base, **{"adapter-turn-ms": 20})
    for name, folder in folders.items():
        process.add(name, folder)
    yield process
    process.close()


@pytest.fixture
def worker(served: Served) -> Iterator[Worker]:
    worker = served.connect()
    yield worker
    worker.close()


def alone(base: Path, folder: Path | None) -> Told:
    """What a process says that never had another adapter, one prompt after the other."""
    process = Served(base)
    try:
        if folder is not None:
            process.add("own", folder)
        worker = process.connect()
        name = "" if folder is None else "own"
        return {prompt: worker.ask(process.ask(name, prompt)).pieces() for prompt in PROMPTS}
    finally:
        process.close()


@pytest.fixture(scope="module")
def truth(base: Path, folders: dict[str, Path]) -> dict[str, Told]:
    """Of a process each."""
    return {name: alone(base, folders.get(name)) for name in ("a", "b", "")}


def test_the_adapters_are_told_apart_by_every_prompt(truth: dict[str, Told]) -> None:
    """Otherwise the tests below could not fail."""
    for prompt in PROMPTS:
        assert len({str(answers[prompt]) for answers in truth.values()}) == len(truth)


def test_in_turn_they_answer_as_in_processes_of_their_own(
    served: Served, worker: Worker, truth: dict[str, Told]
) -> None:
    """The same prompts on A, B, A and the base: nothing is left of the one before."""
    for name in ("a", "b", "a", ""):
        for prompt in PROMPTS:
            assert worker.ask(served.ask(name, prompt)).pieces() == truth[name][prompt]


def test_asked_together_they_answer_as_in_processes_of_their_own(
    served: Served, worker: Worker, truth: dict[str, Told]
) -> None:
    """Interleaved and all at once, in more work than a turn of 20 ms takes on.

    Prompts and answers share steps, and layers gain and lose adapters: where the engine computed
    in bfloat16, this ended the process."""
    order = [(name, prompt) for prompt in PROMPTS for name in ("a", "", "b", "a")]
    sent = [(name, prompt, worker.send(served.ask(name, prompt))) for name, prompt in order * 2]
    switches = 0
    for name, prompt, number in sent:
        answer = worker.wait(number)
        assert answer.pieces() == truth[name][prompt], (name, prompt)
        switches += answer.last.switches
    assert switches >= 3


def test_the_engine_alone_would_mix_them(
    base: Path, folders: dict[str, Path], truth: dict[str, Told]
) -> None:
    """Why there are turns: what is added while another adapter is on is answered by that."""
    from meuse.serve.generation import lora
    from meuse.serve.generation.engine import Work
    from meuse.serve.generation.genai import GenaiGenerator, linear_layers
    from meuse.serve.generation.messages import Sampling

    layers = linear_layers(base)
    assert set(layers) == set(made.layers_of(""))
    engine = GenaiGenerator(base, context=made.CONTEXT, layers=layers, cache_mb=16,
                            kv_bytes_per_token=made.KV_BYTES_PER_TOKEN)  # fmt: skip
    read = lora.read(*[(folders["a"] / f).read_bytes() for f in (lora.CONFIG, lora.WEIGHTS)])
    prompt = PROMPTS[1]
    greedy = Sampling(temperature=0.0, ignore_eos=True)
    ids = engine.tokenizer.encode(prompt, whole=True)
    engine.use(engine.adapter(lora.for_engine(read, layers), read.config.scale))
    handle = engine.add(Work(ids=ids, max_tokens=12, sampling=greedy, seed=1))
    with pytest.raises(RuntimeError):  # it refuses while anything is open
        engine.use(None)
    told: list[int] = []
    while engine.busy:
        told += [i for each in engine.step() if each.handle == handle for i in each.ids]
    pieces = engine.tokenizer.pieces
    assert pieces is not None
    assert [list(pieces[i]) for i in told] == truth["a"][prompt]


def test_one_that_is_broken_disturbs_nobody(
    served: Served, worker: Worker, truth: dict[str, Told], tmp_path: Path
) -> None:
    """Refused before the engine sees it, at once and again; those beside it go on."""
    wrong = {
        "cut": made.write(tmp_path / "cut", made.matrices(made.layers_of(*A), 1)),
        "wide": made.write(tmp_path / "wide", made.matrices({"layers.0.mlp.up_proj": (9, 9)}, 1)),
        "other": made.write(tmp_path / "other", made.matrices({"layers.7.mlp.up_proj": (9, 9)}, 1)),
    }
    weights = wrong["cut"] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    sent = [(n, worker.send(served.ask(n, PROMPTS[0], max_tokens=12))) for n in ("a", "", "b")]
    for name, folder in wrong.items():
        served.add(name, folder)
        for _ in range(2):
            answer = worker.ask(served.ask(name, "x"))
            assert (answer.error.code, answer.started) == ("invalid_data", None)
            assert answer.last.completion_tokens == 0
    served.digests["gone"] = "0" * 64
    assert worker.ask(served.ask("gone", "x")).error.code == "unavailable"
    for name, number in sent:
        assert worker.wait(number).pieces() == truth[name][PROMPTS[0]]


def test_few_in_memory_are_enough_for_many(base: Path, folders: dict[str, Path]) -> None:
    """With room for one, three take turns and each is brought again."""
    process = Served(base, **{"max-adapters": 1, "adapter-turn-ms": 1})
    try:
        for name, folder in folders.items():
            process.add(name, folder)
        worker = process.connect()
        first = {n: worker.ask(process.ask(n, PROMPTS[1])).pieces() for n in folders}
        assert len({str(told) for told in first.values()}) == len(folders)
        again = {n: worker.ask(process.ask(n, PROMPTS[1])).pieces() for n in reversed(folders)}
        assert again == first
    finally:
        process.close()


def test_a_replica_made_for_some_layers_answers_the_same(
    base: Path, folders: dict[str, Path], truth: dict[str, Told]
) -> None:
    """And takes no adapter on others, of which the engine would leave out a part without a word."""
    process = Served(base, **{"adapter-layers": ",".join(A)})
    try:
        for name in ("a", "b"):
            process.add(name, folders[name])
        worker = process.connect()
        for prompt in PROMPTS:
            assert worker.ask(process.ask("a", prompt)).pieces() == truth["a"][prompt]
            assert worker.ask(process.ask("b", prompt)).error.code == "unavailable"
            assert worker.ask(process.ask("", prompt)).pieces() == truth[""][prompt]
    finally:
        process.close()


def test_a_replica_that_was_made_for_none_takes_none(base: Path, folders: dict[str, Path]) -> None:
    process = Served(base, **{"max-adapters": 0})
    try:
        process.add("a", folders["a"])
        worker = process.connect()
        assert worker.ask(process.ask("a", "x")).error.code == "not_found"
        assert worker.ask(process.ask("", "x")).last.error is None
    finally:
        process.close()


def test_the_configuration_is_that_of_peft(tmp_path: Path) -> None:
    """What these adapters are written as, peft itself writes and reads."""
    peft = pytest.importorskip("peft")
    folder = made.write(tmp_path / "p", made.matrices(made.layers_of(*A), 1))
    read = peft.LoraConfig.from_pretrained(str(folder))
    assert (read.r, read.lora_alpha) == (4, 8)
    assert json.loads((folder / "adapter_config.json").read_text())["peft_type"] == "LORA"
