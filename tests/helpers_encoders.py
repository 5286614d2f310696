"""Small encoders with a real tokenizer, trained by the package `tokenizers` on real texts."""

from __future__ import annotations

import json
from functools import cache
from importlib.metadata import distributions
from typing import Any

import torch

from meuse.train.encoder import Architecture, Encoder
from meuse.train.prepare.steps import Pieces
from meuse.train.recipes.bert import Bert

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


@cache
def real_texts() -> tuple[str, ...]:
    """Paragraphs of the descriptions of packages that are installed here."""
    found: list[str] = []
    for package in sorted(distributions(), key=lambda d: str(d.metadata["Name"])):
        text = str(package.metadata.get_payload() or "")
        found += [part.strip() for part in text.split("\n\n") if part.strip()]
        if len(found) > 1500:
            break
    return tuple(found[:1500])


@cache
def tokenizer(lowercase: bool = True, size: int = 1500) -> Any:
    """BERT's tokenizer, with a vocabulary of these texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
    from tokenizers.processors import TemplateProcessing

    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), show_progress=False
    )
    made.train_from_iterator(real_texts(), trainer)
    made.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def vocabulary(made: Any) -> tuple[str, ...]:
    known: dict[str, int] = json.loads(made.to_str())["model"]["vocab"]
    return tuple(sorted(known, key=known.__getitem__))


def pieces(made: Any, length: int, lowercase: bool = True) -> Pieces:
    return Pieces(
        "text", vocabulary(made), length, first=2, last=3, unknown=1, lowercase=lowercase,
        accents=not lowercase, clean=True, chinese=True,
    )  # fmt: skip


def encoder(positions: int = 64) -> Encoder:
    """Two layers with weights of no meaning."""
    cut = pieces(tokenizer(), 32)
    architecture = Architecture(len(cut.vocabulary), positions, 32, 2, 2, 48)
    torch.manual_seed(3)
    return Encoder(architecture, cut, Bert(architecture).state_dict())
