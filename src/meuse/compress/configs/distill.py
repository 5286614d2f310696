"""Options of distillation."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from meuse.compress.method import Method
from meuse.core.errors import MeuseError, invalid
from meuse.core.ids import check_name
from meuse.core.references import parse, parse_data
from meuse.train import recipes
from meuse.train.recipes import Recipe

DEPLOYMENT = "deployments/"
"""Before the name of a deployment, where a reference names a version otherwise."""
MAX_TEACHERS = 16

_SIMPLE = 'Name versions, such as "digits:2", "digits@champion" or "deployments/digits".'


class Student(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network to be built anew."""

    recipe: str
    config: Annotated[dict[str, Any], Meta(description="as in training with this recipe")] = {}
    options: Annotated[
        dict[str, Any],
        Meta(
            description="of the training loop, over the recipe's; augmentation and class weights "
            "are by default the parent's"
        ),
    ] = {}

    @property
    def found(self) -> Recipe:
        return recipes.find(self.recipe)


class Distill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Train the student to answer as the teacher does.

    The loss is alpha · T² · KL(teacher ‖ student), both softened by the temperature T, plus
    (1 - alpha) · the task's own loss on the labels, plus the terms of hidden states and of
    attention. A regression takes the squared distance of the values instead of the first term.
    """

    teacher: Annotated[
        str | tuple[str, ...] | None,
        Meta(
            description="a version, a deployment (deployments/NAME), or several, whose "
            "probabilities are averaged; by default the model that is compressed, as it was"
        ),
    ] = None
    student: Annotated[
        Student | None,
        Meta(description="by default the network as the steps before have left it"),
    ] = None
    temperature: Annotated[
        float, Meta(gt=0, le=100, description="higher: small probabilities count more")
    ] = 4.0
    alpha: Annotated[
        float, Meta(ge=0, le=1, description="weight of the teacher; the labels have the rest")
    ] = 0.9
    hidden: Annotated[
        float, Meta(ge=0, le=1e6, description="weight of the teacher's hidden states")
    ] = 0.0
    attention: Annotated[
        float, Meta(ge=0, le=1e6, description="weight of the teacher's attention maps")
    ] = 0.0
    layers: (
        Annotated[
            tuple[tuple[str, str], ...],
            Meta(
                min_length=1,
                max_length=64,
                description="pairs (module of the student, module of the teacher) for hidden and "
                "attention; by default by depth",
            ),
        ]
        | None
    ) = None
    unlabelled: Annotated[
        str | None,
        Meta(description="a dataset (name:version) whose rows are learned from as well"),
    ] = None
    labelled: Annotated[bool, Meta(description="false: learn from the unlabelled rows alone")] = (
        True
    )
    epochs: (
        Annotated[
            int,
            Meta(ge=1, le=10_000, description="by default those of the recipe, or of the parent"),
        ]
        | None
    ) = None
    learning_rate: Annotated[float, Meta(gt=0, le=1000)] | None = None
    batch_size: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    dropout: (
        Annotated[
            float,
            Meta(
                ge=0,
                lt=1,
                description="of the student while it is taught, by default its own; a pruned "
                "one learns better with none",
            ),
        ]
        | None
    ) = None

    def __post_init__(self) -> None:
        _check_teachers(self.teachers)
        if self.student is not None:
            _check_student(self.student)
            for name in ("epochs", "learning_rate", "batch_size"):
                if getattr(self, name) is not None and name in self.student.options:
                    raise invalid(name, f"{name} stands in student.options too", "Name it once.")
        if self.unlabelled is not None:
            parse_data(self.unlabelled, "unlabelled")
        elif not self.labelled:
            raise invalid("labelled", "there are no other rows", "Name them with unlabelled.")
        if self.layers is not None and not self.hidden and not self.attention:
            raise invalid("layers", "neither hidden nor attention has a weight", "Set one above 0.")

    @property
    def teachers(self) -> tuple[str, ...]:
        """References as given; empty: the parent."""
        if self.teacher is None:
            return ()
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher

    @property
    def looks_inside(self) -> bool:
        """Whether the teacher's network is needed, not its answers alone."""
        return bool(self.hidden or self.attention)


def _check_teachers(teachers: tuple[str, ...]) -> None:
    if not all(teachers):
        raise invalid("teacher", "a reference is empty", _SIMPLE)
    if len(teachers) > MAX_TEACHERS:
        raise invalid("teacher", f"{len(teachers)} teachers", f"The limit is {MAX_TEACHERS}.")
    for text in teachers:
        if text.startswith(DEPLOYMENT):
            check_name(text.removeprefix(DEPLOYMENT), "teacher")
        else:
            parse(text, "teacher")
    if len(set(teachers)) < len(teachers):
        raise invalid("teacher", "a teacher stands twice", _SIMPLE)


def _check_student(student: Student) -> None:
    try:
        recipe = student.found
    except MeuseError as error:
        error.field = "student.recipe"
        raise
    if recipe.build is None:
        able = [name for name in recipes.names() if recipes.find(name).build is not None]
        raise invalid(
            "student.recipe",
            f"{recipe.name} has a training of its own and cannot be taught",
            f"Use one of: {', '.join(able)}.",
        )
    recipe.configure(student.config, "student.config")
    try:
        recipe.options(student.options)
    except MeuseError as error:
        error.field = f"student.options.{error.field}"
        raise


METHODS = (
    Method(
        "distill",
        "a student network taught by one or several teachers",
        "Hinton et al., arXiv:1503.02531",
        "network",
        Distill,
        "meuse.compress.methods.distill:distill",
    ),
)
