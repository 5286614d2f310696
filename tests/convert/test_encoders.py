"""Encoders without a head: small checkpoints made by transformers, with real tokenizers."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from helpers_encoders import real_texts, tokenizer, vocabulary
from meuse.convert import outside
from meuse.convert.inside import encoders, huggingface, worker
from meuse.convert.outside import Converted, convert
from meuse.convert.spec import ImportSpec
from meuse.core.errors import MeuseError
from meuse.core.nouns import TensorSpec
from meuse.runtime import sandbox
from meuse.serve import engines
from meuse.train.encoder import load

pytest.importorskip("transformers")
pytestmark = pytest.mark.skipif(sandbox.survey().tier < 1, reason=sandbox.survey().text)

SIZES: dict[str, dict[str, int]] = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 48},
    "distilbert": {"dim": 32, "n_layers": 1, "n_heads": 2, "hidden_dim": 48},
}  # fmt: skip
NAMES = {"bert": "Bert", "distilbert": "DistilBert"}
TOKENS = np.array([[2, 5, 7, 9, 3], [2, 8, 3, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What transformers saves of both families, without a head and as classifiers, with its own
    answers. One has its tokenizer as a file of `tokenizers`, the other as a list of words."""
    folder, made = tmp_path_factory.mktemp("checkpoints"), tokenizer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        for family, name in NAMES.items():
            (folder / family).mkdir()
            (folder / family / "vocab.txt").write_text("\n".join(vocabulary(made)) + "\n")
            if family == "bert":
                (folder / family / "tokenizer.json").write_text(made.to_str())
                told = '{"tokenizer_class": "BertTokenizer"}'
                (folder / family / "tokenizer_config.json").write_text(told)
            config = getattr(transformers, f"{name}Config")(
                vocab_size=len(vocabulary(made)), max_position_embeddings=40, num_labels=3,
                **SIZES[family],
            )  # fmt: skip
            config.id2label = {0: "bad", 1: "fair", 2: "good"}
            torch.manual_seed(0)
            # As pre-training leaves BERT: with a head that is none of a classifier.
            head = "ForMaskedLM" if family == "bert" else "Model"
            model = getattr(transformers, f"{name}{head}")(config).eval()
            model.save_pretrained(folder / family)
            np.save(folder / f"{family}.npy", embedded(transformers, folder / family, model))
            model = getattr(transformers, f"{name}ForSequenceClassification")(config).eval()
            model.save_pretrained(folder / f"{family}-classifier")
            given = {"input_ids": torch.tensor(TOKENS), "attention_mask": torch.tensor(MASK)}
            with torch.no_grad():
                shares = model(**given).logits.softmax(1).numpy()
            np.save(folder / f"{family}-classifier.npy", shares)
    return folder


def embedded(transformers: Any, folder: Path, model: Any) -> Any:
    """The means of the last states of six texts, by the checkpoint's own tokenizer."""
    given = transformers.AutoTokenizer.from_pretrained(folder)(
        list(real_texts()[:6]), truncation=True, max_length=40, padding=True,
        return_tensors="pt", return_token_type_ids=False,
    )  # fmt: skip
    with torch.no_grad():
        states = getattr(model, "bert", model)(**given).last_hidden_state
    mask = given["attention_mask"][..., None].float()
    return ((states * mask).sum(1) / mask.sum(1)).numpy()


@pytest.fixture
def unboxed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The converter in this very process, which has transformers already."""

    def call(order: sandbox.Order, payload: dict[str, Any], **_: Any) -> tuple[Any, int]:
        with contextlib.chdir(order.folder), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return worker.work(payload), sandbox.survey().tier

    monkeypatch.setattr(outside, "call", call)


def imported(tmp_path: Path, source: Path) -> Converted:
    return convert(
        ImportSpec("m", "huggingface", {"path": str(source)}),
        source,
        tmp_path / "box",
        lambda model: engines.load("onnx", model),
        least=1,
        limits=sandbox.Limits(wall_s=600.0),
        log=print,
    )


MODULES = [
    {"type": "sentence_transformers.models.Transformer", "path": ""},
    {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    {"type": "sentence_transformers.models.Normalize", "path": "2_Normalize"},
]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_an_encoder_takes_raw_texts(
    tmp_path: Path, checkpoints: Path, family: str, request: pytest.FixtureRequest
) -> None:
    """As transformers answers by its own tokenizer, and with the file to start from beside it;
    one of them is converted in the sandbox. The other says that it is a sentence encoder, whose
    embeddings have length 1."""
    wanted = np.load(checkpoints / f"{family}.npy")
    is_unit = family == "distilbert"
    if is_unit:
        request.getfixturevalue("unboxed")
        (checkpoints / family / "modules.json").write_text(json.dumps(MODULES))
        wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    done = imported(tmp_path, checkpoints / family)
    assert done.task == "custom"
    assert done.signature.inputs == (TensorSpec("text", "BYTES", (-1,)),)
    assert done.signature.outputs == (
        TensorSpec("embedding", "FP32", (-1, 32)), TensorSpec("tokens", "INT64", (-1,)),
        TensorSpec("text_tokens", "INT64", (-1,)),
    )  # fmt: skip
    texts = np.array([text.encode() for text in real_texts()[:6]], object)
    answered = engines.load("onnx", done.model).run({"text": texts})
    found = answered["embedding"]
    own = tokenizer()
    own.no_padding()
    whole = [len(own.encode(text).ids) for text in real_texts()[:6]]
    assert max(whole) > done.report["imported"]["length"] == 40
    assert answered["tokens"].tolist() == [min(n, 40) for n in whole]
    assert answered["text_tokens"].tolist() == whole
    alone = engines.load("onnx", done.model).run({"text": np.array([b"one"], object)})
    beside = engines.load("onnx", done.model).run({"text": np.array([b"one", texts[0]], object)})
    assert np.abs(alone["embedding"][0] - beside["embedding"][0]).max() < 1e-5
    assert np.abs(found - wanted).max() < 1e-5
    assert done.report["imported"]["unit"] is is_unit
    assert done.report["parity"]["agreeing"] == 1.0
    assert done.report["imported"]["encoder"]["positions"] == 40
    assert done.encoder is not None
    given = load(done.encoder)
    assert given.architecture.depth == (2 if family == "bert" else 1)
    assert given.pieces is not None
    assert given.pieces.vocabulary == vocabulary(tokenizer())


@pytest.mark.parametrize(
    ("name", "said", "most", "length"),
    [
        (None, None, 512, 40),  # as many as it has positions
        (None, None, 32, 32),
        (None, None, 10**30, 40),
        ("sentence_bert_config.json", 24, 512, 24),
        ("sentence_bert_config.json", 36, 32, 36),  # the sentence encoder's word is the last
        ("sentence_bert_config.json", 900, 512, 40),
        ("sentence_bert_config.json", None, 16, 16),
        ("sentence_distilbert_config.json", 24, 512, 24),
    ],
)
def test_texts_are_cut_where_the_checkpoint_says(
    tmp_path: Path, name: str | None, said: int | None, most: int, length: int
) -> None:
    if name is not None:
        (tmp_path / name).write_text(json.dumps({"max_seq_length": said, "do_lower_case": False}))
    architecture = encoders._architecture(config_of())
    given = Tokenizer(model_max_length=most)
    assert encoders._length(tmp_path, given, architecture) == length


@pytest.mark.parametrize("said", [0, -1, "128", 12.5, True])
def test_a_limit_that_is_none_is_refused(tmp_path: Path, said: Any) -> None:
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": said}))
    with pytest.raises(MeuseError, match="max_seq_length of sentence_bert_config"):
        encoders._length(tmp_path, Tokenizer(), encoders._architecture(config_of()))


@pytest.mark.parametrize(
    ("modules", "pooling", "told"),
    [
        (MODULES, {"pooling_mode_cls_token": True}, "pools by pooling_mode_cls_token"),
        (MODULES, {"pooling_mode_mean_tokens": False}, "pools by nothing known"),
        ([*MODULES, {"type": "x.Dense"}], {}, "a Dense after its transformer"),
        ({"a": 1}, {}, "not a list of objects"),
    ],
)
def test_sentence_encoders_of_another_kind_are_refused(
    tmp_path: Path, modules: Any, pooling: dict[str, bool], told: str
) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(MeuseError, match=told):
        encoders._is_unit(tmp_path)


@pytest.mark.usefixtures("unboxed")
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_a_classifier_takes_token_ids(tmp_path: Path, checkpoints: Path, family: str) -> None:
    """Labels and probabilities, as transformers gives them."""
    name = f"{family}-classifier"
    done = imported(tmp_path, checkpoints / name)
    assert done.signature.classes == ("bad", "fair", "good")
    assert [spec.name for spec in done.signature.inputs] == ["input_ids", "attention_mask"]
    engine = engines.load("onnx", done.model)
    found = engine.run({"input_ids": TOKENS, "attention_mask": MASK})
    assert np.abs(found["probabilities"] - np.load(checkpoints / f"{name}.npy")).max() < 1e-5
    architecture = f"{NAMES[family]}ForSequenceClassification"
    assert done.report["imported"]["architecture"] == architecture


def config_of(**changes: Any) -> dict[str, Any]:
    sizes = {
        "vocab_size": 50, "max_position_embeddings": 40, "hidden_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 48, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    return {"model_type": "bert", "architectures": ["BertModel"], **sizes, **changes}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"hidden_act": "relu"}, "the activation 'relu'"),
        ({"position_embedding_type": "relative_key"}, "relative_key positions"),
        ({"is_decoder": True}, "absolute positions can be imported"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"num_hidden_layers": 0}, ">= 1"),
        ({"hidden_size": "wide"}, "does not describe"),
        ({"vocab_size": 1 << 20, "hidden_size": 4096}, "the limit is 400,000,000"),
        ({"vocab_size": None}, "does not describe"),
    ],
)
def test_configs_of_other_encoders_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(MeuseError, match=told) as caught:
        encoders._architecture(config_of(**changes))
    assert (caught.value.code, caught.value.field) == ("invalid_data", "model")


class Tokenizer:
    """What a tokenizer of transformers says of itself."""

    is_fast = True
    pad_token_id, cls_token_id, sep_token_id = 0, 2, 3

    def __init__(self, **changes: Any) -> None:
        self.told: dict[str, Any] = json.loads(tokenizer().to_str())
        for name, value in changes.items():
            if name in self.told:
                self.told[name] = {**self.told[name], **value}
            else:
                setattr(self, name, value)

    @property
    def backend_tokenizer(self) -> Tokenizer:
        return self

    def to_str(self) -> str:
        return json.dumps(self.told)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": {"type": "BPE"}}, "the tokenizer is BPE"),
        ({"normalizer": {"type": "Lowercase"}}, "WordPiece after Lowercase"),
        ({"model": {"max_input_chars_per_word": 9}}, "WordPiece, can be imported"),
        ({"model": {"vocab": {"a": 0, "b": 2}}}, "gaps"),
        ({"pad_token_id": 1}, "pads with 1"),
        ({"cls_token_id": None}, "lacks what BERT's has"),
        ({"model": {"unk_token": "[NONE]"}}, "lacks what BERT's has"),
        ({"is_fast": False}, "not one of the package"),
    ],
)
def test_other_tokenizers_are_refused(changes: dict[str, Any], told: str) -> None:
    architecture = encoders._architecture(config_of(vocab_size=1500))
    assert encoders._pieces(Tokenizer(), 12, architecture).lowercase
    with pytest.raises(MeuseError, match=told) as caught:
        encoders._pieces(Tokenizer(**changes), 12, architecture)
    assert (caught.value.code, caught.value.field) == ("invalid_data", "model")


def test_an_encoder_that_is_not_what_it_says_is_refused(tmp_path: Path) -> None:
    """What the sandbox leaves is not believed."""
    with pytest.raises(MeuseError, match="left no encoder"):
        outside._encoder(tmp_path)
    (tmp_path / "encoder.safetensors").write_bytes(b"nonsense")
    with pytest.raises(MeuseError, match="not an encoder") as caught:
        outside._encoder(tmp_path)
    assert (caught.value.code, caught.value.field) == ("invalid_data", "model")


def test_a_checkpoint_without_safetensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config_of()))
    (tmp_path / "pytorch_model.bin").write_bytes(pickle_like())
    with pytest.raises(MeuseError, match="no safetensors"):
        huggingface.convert(tmp_path)


def pickle_like() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return buffer.getvalue()
