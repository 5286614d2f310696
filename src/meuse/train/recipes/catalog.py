"""The platform's recipes and their configs. Knows no torch: control reads it."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meuse.core.errors import invalid
from meuse.core.nouns import GENERATION
from meuse.train.recipes import Recipe, keras_config
from meuse.train.recipes.code import Custom
from meuse.train.recipes.language import Full, Lora
from meuse.train.recipes.trees import Gbdt

MAX_PARAMETERS = 100_000_000

_ALL = frozenset({"classification", "multilabel", "regression"})

Width = Annotated[int, Meta(ge=1, le=8192)]
Dropout = Annotated[float, Meta(ge=0, le=0.9, description="share of units left out in training")]


class Linear(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing to choose."""


class Mlp(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Linear layers with ReLU between them."""

    hidden: Annotated[
        tuple[Width, ...],
        Meta(min_length=1, max_length=16, description="widths of the hidden layers"),
    ] = (256, 128)
    dropout: Dropout = 0.3

    def __post_init__(self) -> None:
        # The first and the last layer's sizes follow from the data, which is not known here.
        parameters = sum(a * b for a, b in pairwise(self.hidden))
        if parameters > MAX_PARAMETERS:
            raise ValueError(
                f"these hidden layers have {parameters:,} parameters; the limit is "
                f"{MAX_PARAMETERS:,}"
            )


class Lenet(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Two convolutions with pooling, and two or three linear layers."""

    channels: Annotated[
        tuple[Width, Width], Meta(description="channels of the two convolutions")
    ] = (6, 16)
    hidden: Annotated[
        tuple[Width, ...],
        Meta(min_length=1, max_length=2, description="widths of the hidden linear layers"),
    ] = (120, 84)
    dropout: Dropout = 0.0


class Cnn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A small residual network; every stage but the first halves the image."""

    widths: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=1024)], ...],
        Meta(min_length=1, max_length=5, description="channels of the stages"),
    ] = (32, 64, 128)
    blocks: Annotated[int, Meta(ge=1, le=8, description="residual blocks per stage")] = 1
    dropout: Dropout = 0.0


class Vit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A small vision transformer."""

    patch: Annotated[int, Meta(ge=1, le=64, description="side of a patch in pixels")] = 4
    width: Annotated[int, Meta(ge=8, le=1024)] = 64
    depth: Annotated[int, Meta(ge=1, le=24)] = 4
    heads: Annotated[int, Meta(ge=1, le=16)] = 4
    dropout: Dropout = 0.0

    def __post_init__(self) -> None:
        _check_heads(self.width, self.heads)


class TextClassifier(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A transformer encoder, trained from scratch or given.

    With `encoder` its sizes and its vocabulary are those of the version named; `frozen` trains
    the layer on top of it alone.
    """

    vocabulary: Annotated[
        int, Meta(ge=2, le=200_000, description="token ids are below; 0 is padding")
    ] = 8192
    width: Annotated[int, Meta(ge=8, le=1024)] = 128
    depth: Annotated[int, Meta(ge=1, le=24)] = 2
    heads: Annotated[int, Meta(ge=1, le=16)] = 4
    dropout: Dropout = 0.1
    encoder: (
        Annotated[str, Meta(max_length=200, description="an imported encoder, such as minilm:1")]
        | None
    ) = None
    frozen: Annotated[bool, Meta(description="leave the given encoder as it is")] = False

    def __post_init__(self) -> None:
        _check_heads(self.width, self.heads)
        if self.encoder is None:
            if self.frozen:
                raise invalid("frozen", "there is no encoder to leave as it is", "Name one.")
            return
        for name in ("vocabulary", "width", "depth", "heads"):
            if getattr(self, name) != _default(type(self), name):
                raise invalid(name, f"the {name} is that of the encoder {self.encoder!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """What the job brings besides the data."""
        return () if self.encoder is None else ("encoder",)

    @property
    def defaults(self) -> dict[str, Any]:
        """Options of the loop that suit the encoder."""
        if self.encoder is None:
            return {}
        if self.frozen:
            return {"learning_rate": 0.005, "epochs": 20}
        return {"learning_rate": 5e-5, "epochs": 3}


class Keras(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model of Keras 3 layers, of an allow-list."""

    model: Annotated[
        dict[str, Any] | str,
        Meta(
            description="what `model.to_json()` gives, as text or as an object; a Sequential or "
            "functional model with one input and one output. Its weights start anew."
        ),
    ]

    def __post_init__(self) -> None:
        model = keras_config.parse(self.model)
        keras_config.read(model)
        msgspec.structs.force_setattr(self, "model", model)

    @property
    def graph(self) -> keras_config.Graph:
        """The model, checked."""
        assert isinstance(self.model, dict)
        return keras_config.read(self.model)

    @property
    def data(self) -> frozenset[str]:
        """Texts where the model embeds its input, else tables and images."""
        return frozenset({"table", "image"} if self.vocabulary is None else {"text"})

    @property
    def vocabulary(self) -> int | None:
        """Token ids are below this, where the model embeds them."""
        return keras_config.vocabulary(self.graph)


def _default(kind: type[msgspec.Struct], name: str) -> Any:
    return next(f.default for f in msgspec.structs.fields(kind) if f.name == name)


def _check_heads(width: int, heads: int) -> None:
    if width % heads:
        raise ValueError(f"the width {width} is not a multiple of the {heads} heads")


_TUNING: dict[str, Any] = {
    "optimizer": "adamw",
    "schedule": {"name": "cosine", "warmup_epochs": 0.1},
    "clip_norm": 1.0,
    "epochs": 3,
    "batch_size": 8,
}

RECIPES: tuple[Recipe, ...] = (
    Recipe(
        "linear",
        "Logistic or linear regression",
        frozenset({"table", "image"}),
        _ALL,
        Linear,
        "meuse.train.recipes.tables:linear",
        defaults={"optimizer": "adam", "learning_rate": 0.01, "epochs": 30},
        rates={"gd": 0.1, "sgd": 0.01},
    ),
    Recipe(
        "mlp",
        "A multi-layer perceptron",
        frozenset({"table", "image"}),
        _ALL,
        Mlp,
        "meuse.train.recipes.tables:mlp",
        defaults={"optimizer": "adam", "learning_rate": 0.002, "epochs": 30},
        rates={"gd": 0.3, "sgd": 0.01},
    ),
    Recipe(
        "lenet",
        "LeNet-5, for small images",
        frozenset({"image"}),
        _ALL,
        Lenet,
        "meuse.train.recipes.images:lenet",
        defaults={
            "optimizer": "adam",
            "learning_rate": 0.004,
            "schedule": "one_cycle",
            "epochs": 20,
            "batch_size": 128,
        },
        rates={"sgd": 0.05},
    ),
    Recipe(
        "cnn",
        "A small residual network, for images",
        frozenset({"image"}),
        _ALL,
        Cnn,
        "meuse.train.recipes.images:cnn",
        defaults={
            "optimizer": "sgd",
            "learning_rate": 0.2,
            "nesterov": True,
            "weight_decay": 5e-4,
            "schedule": "one_cycle",
            "epochs": 12,
            "batch_size": 128,
        },
        rates={"adam": 0.005, "adamw": 0.005},
    ),
    Recipe(
        "vit",
        "A small vision transformer, for images",
        frozenset({"image"}),
        _ALL,
        Vit,
        "meuse.train.recipes.images:vit",
        defaults={
            "optimizer": "adamw",
            "learning_rate": 0.001,
            "weight_decay": 0.05,
            "schedule": {"name": "cosine", "warmup_epochs": 1},
            "clip_norm": 1.0,
            "epochs": 20,
            "batch_size": 128,
        },
    ),
    Recipe(
        "text-classifier",
        "A transformer encoder, for texts",
        frozenset({"text"}),
        _ALL,
        TextClassifier,
        "meuse.train.recipes.texts:classifier",
        defaults={
            "optimizer": "adamw",
            "learning_rate": 0.001,
            "weight_decay": 0.01,
            "schedule": {"name": "cosine", "warmup_epochs": 0.5},
            "clip_norm": 1.0,
            "epochs": 10,
            "batch_size": 32,
        },
    ),
    Recipe(
        "gbdt",
        "Gradient-boosted trees (LightGBM), for tables",
        frozenset({"table"}),
        _ALL,
        Gbdt,
        fit="meuse.train.gbdt:fit",
    ),
    Recipe(
        "custom",
        "Code of your own, trained in the sandbox",
        frozenset({"table", "image", "text"}),
        _ALL,
        Custom,
        fit="meuse.train.custom:fit",
        needs=("code", "loop", "allowed"),
    ),
    Recipe(
        "keras",
        "A Keras model, by its JSON",
        frozenset({"table", "image", "text"}),
        _ALL,
        Keras,
        "meuse.train.recipes.keras_network:build",
        defaults={"optimizer": "adam", "learning_rate": 0.001, "epochs": 30},
        rates={"sgd": 0.01},
        notes="meuse.train.recipes.keras_config:notes",
    ),
    Recipe(
        "llm-lora",
        "A language model, fine-tuned by a LoRA or DoRA adapter",
        frozenset({"conversations"}),
        frozenset({GENERATION}),
        Lora,
        fit="meuse.train.llm.run:fit",
        defaults={**_TUNING, "learning_rate": 2e-4},
        needs=("base",),
    ),
    Recipe(
        "llm-full",
        "A language model, fine-tuned in all its weights",
        frozenset({"conversations"}),
        frozenset({GENERATION}),
        Full,
        fit="meuse.train.llm.run:fit",
        defaults={**_TUNING, "learning_rate": 2e-5},
        needs=("base",),
    ),
)
