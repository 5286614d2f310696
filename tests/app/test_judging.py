"""Evaluate jobs of language models in their child: a small model with every part real."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers_llm import CHATML
from helpers_tiny_llm import CONTEXT, HEADS, HIDDEN, KV_HEADS, LAYERS, PIECES, write_gguf
from meuse.app.work import judging
from meuse.app.work.subjects import Subject, opened
from meuse.core.errors import Code, MeuseError
from meuse.core.ports import Paused
from meuse.evaluate.language.judge import normalised
from meuse.serve.generation import manifest as manifests
from meuse.serve.generation.manifest import File, Manifest
from meuse.serve.generation.messages import Ask, Sampling
from meuse.store.blobs import FolderBlobs

TENANT = "t"
USER = {"role": "user", "content": "Say a word."}


class Context:
    """A `JobContext` that keeps what it is told."""

    def __init__(self, folder: Path, paused: bool = False) -> None:
        self.folder = folder
        self.checkpoint = folder / "checkpoint"
        self.fractions: list[float] = []
        self.notes: set[str] = set()
        self.figures: dict[str, dict[str, float]] = {}
        self._paused = paused

    def paused(self) -> bool:
        return self._paused

    def progress(self, fraction: float, *_: Any, note: str | None = None, **__: Any) -> None:
        self.fractions.append(fraction)
        self.notes.add(note or "")

    def metrics(self, figures: dict[str, float], **labels: Any) -> None:
        self.figures[labels["model"]] = figures

    def log(self, message: str, level: str = "info") -> None: ...


class Platform:
    """Blobs with two versions of a model in them."""

    def __init__(self, folder: Path) -> None:
        self.blobs = FolderBlobs(folder / "blobs")
        self.files = FolderBlobs(folder / "files")
        self.folder = folder
        self.versions = [self._version(folder, seed) for seed in (0, 1)]

    def _version(self, folder: Path, seed: int) -> dict[str, Any]:
        path = write_gguf(folder / f"tiny{seed}.gguf", seed, CHATML)
        with path.open("rb") as file:
            digest, size = self.blobs.put(TENANT, file)
        made = Manifest(
            layout="gguf", files=(File(path.name, digest, size),), architecture="llama",
            context=CONTEXT, vocabulary=len(PIECES), parameters=1, chat_template=CHATML,
            kv_bytes_per_token=2 * LAYERS * KV_HEADS * (HIDDEN // HEADS) * 2,
        )  # fmt: skip
        body = io.BytesIO(manifests.encode(made))
        return {
            "ref": f"tiny:{seed + 1}", "layout": "gguf", "context": CONTEXT,
            "manifest": self.blobs.put(TENANT, body)[0], "base": None,
        }  # fmt: skip

    def judge(self, context: Context, content: bytes, count: int = 1, **spec: Any) -> Any:
        digest, _ = self.files.put(TENANT, io.BytesIO(content))
        versions = self.versions[:count]
        job = {
            "spec": {
                "models": [v["ref"] for v in versions], "data": "file-" + "0" * 32, **spec
            },
            "inputs": {
                "language": True, "tenant": TENANT, "data": "file-" + "0" * 32,
                "digest": digest, "versions": versions,
            },
        }  # fmt: skip
        return judging.work(self.blobs, self.files, context, job)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return Platform(tmp_path_factory.mktemp("judging"))


@pytest.fixture(scope="module")
def subject(platform: Platform) -> Subject:
    return opened(platform.blobs, TENANT, platform.versions[0], platform.folder / "subject")


def jsonl(*bodies: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(body).encode() + b"\n" for body in bodies)


def test_two_versions_on_choices(platform: Platform, subject: Subject, tmp_path: Path) -> None:
    """The first version's own order of the choices is the truth: it is always right."""
    choices = [" red", " tan", " sky"]
    bodies = []
    for index in range(12):
        prompt = f"Number {index} is"
        start = len(subject.tokenizer.encode(prompt, whole=True))
        scores = []
        for choice in choices:
            ids = subject.tokenizer.encode(prompt + choice, whole=True)
            scores.append(subject.model.log_probabilities(ids)[start - 1 :].sum())
        bodies.append({"prompt": prompt, "choices": choices, "answer": int(np.argmax(scores))})
    context = Context(tmp_path)
    told = platform.judge(context, jsonl(*bodies), count=2)
    first, second = told["models"]
    assert first["figures"]["accuracy"] == 1
    assert second["figures"]["accuracy"] < 1  # other weights
    assert second["wrong"]["choice"][0].keys() == {"line", "chosen", "right"}
    lost = second["differences"]["accuracy"]
    assert lost["difference"] == pytest.approx(second["figures"]["accuracy"] - 1)
    assert lost["interval"][0] <= lost["difference"] <= lost["interval"][1]
    assert told["measured"] == ["choice"]
    assert set(told["evaluations"]) == set(context.figures) == {"tiny:1", "tiny:2"}
    assert context.fractions == sorted(context.fractions)
    assert context.fractions[-1] == 1
    assert not (tmp_path / "model").exists()


def test_perplexity_of_each_kind_of_line(
    platform: Platform, subject: Subject, tmp_path: Path
) -> None:
    """Texts count from their second token on, answers alone; the digest of the file is kept."""
    prompt = subject.reader.read(Ask(messages=json.dumps([USER]).encode(), sampling=Sampling())).ids
    encode = subject.tokenizer.encode
    expected = [
        subject.model.log_probabilities(encode("The quick brown fox", whole=True)),
        subject.model.log_probabilities(encode("One two", whole=True))[-4:],
        subject.model.log_probabilities(np.concatenate([prompt, encode("Maas")]))[-4:],
    ]
    content = jsonl(
        {"text": "The quick brown fox"},
        {"prompt": "One ", "completion": "two"},  # the white space is the answer's
        {"messages": [USER, {"role": "assistant", "content": "Maas"}]},
    )
    told = platform.judge(Context(tmp_path), content)
    (one,) = told["models"]
    every = np.concatenate(expected)
    assert one["tokens"] == len(every) == 17 + 4 + 4  # "he" is one token
    assert one["figures"]["nats_per_token"] == pytest.approx(-every.mean(), rel=1e-3)
    assert one["engine"] == "openvino"
    rows = told["evaluations"]["tiny:1"]["rows"]
    assert rows["dataset_digest"] == hashlib.sha256(content).hexdigest()
    assert rows["target"] == f"perplexity (window {CONTEXT}, stride {CONTEXT // 2})"


def test_what_is_written_is_matched(platform: Platform, subject: Subject, tmp_path: Path) -> None:
    """The engine writes the same as the text was made from; `stop` ends it early."""
    asks = [
        Ask(prompt=f"Word {i}:", sampling=Sampling(temperature=0, max_tokens=6)) for i in (1, 2)
    ]
    written = subject.write([subject.reader.read(ask) for ask in asks], lambda _: False, print)
    assert all(normalised(text) for text in written)
    bodies = [
        {"prompt": ask.prompt, "completion": text or "?"}
        for ask, text in zip(asks, [written[0], "no such word"], strict=True)
    ]
    spec = {"metrics": ["exact_match"], "max_tokens": 6}
    told = platform.judge(Context(tmp_path), jsonl(*bodies), **spec)
    (one,) = told["models"]
    assert one["figures"] == {"exact_match": 0.5}
    assert one["wrong"]["exact_match"] == [
        {"line": 2, "written": written[1], "right": "no such word"}
    ]
    stopped = platform.judge(Context(tmp_path), jsonl(*bodies), **spec, stop=[written[0][:1]])
    assert stopped["models"][0]["figures"] == {"exact_match": 0.0}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"prompt": "word " * 60, "completion": "x"}, "tokens, the model's context window 128"),
        ({"prompt": "word " * 60, "choices": ["x", "y"], "answer": 0}, "context window 128"),
    ],
)
def test_a_prompt_over_the_context_names_its_line(
    platform: Platform, tmp_path: Path, body: dict[str, Any], said: str
) -> None:
    good = {key: "ok" if key == "prompt" else value for key, value in body.items()}
    with pytest.raises(MeuseError) as caught:
        platform.judge(Context(tmp_path), jsonl(*[good] * 3, body))
    assert (caught.value.code, caught.value.field) == (Code.INVALID_DATA, "data")
    assert caught.value.message.startswith("line 4: ")
    assert said in caught.value.message


def test_a_broken_line_is_told_before_anything_is_opened(
    platform: Platform, tmp_path: Path
) -> None:
    context = Context(tmp_path)
    with pytest.raises(MeuseError, match="line 17: it is not JSON"):
        platform.judge(context, jsonl(*[{"text": "a b"}] * 16) + b'{"text": \n')
    assert context.fractions == []


def test_a_pause_ends_it(platform: Platform, tmp_path: Path) -> None:
    with pytest.raises(Paused):
        platform.judge(Context(tmp_path, paused=True), jsonl({"text": "One two three"}))
