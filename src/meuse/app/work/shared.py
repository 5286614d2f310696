"""What kinds of work share: the splits of a dataset, and files of a version into the blobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Artifact, Examples, Signature, Splits
from meuse.core.ports import Blobs, JobContext


def splits_of(
    blobs: Blobs,
    context: JobContext,
    inputs: dict[str, Any],
    *,
    target: str | None,
    task: str | None,
    seed: int,
    split: dict[str, Any] | None = None,
    features: list[str] | None = None,
    image_size: tuple[int, int] | None = None,
) -> Splits:
    """The dataset that control has resolved, read and split (by ratio and `seed`, unless `split`
    says how); with these `features` only, where they are named."""
    path = fetch(blobs, context, inputs)
    splits = read(
        path, inputs, target=target, task=task, seed=seed, split=split, image_size=image_size
    )
    for warning in splits.warnings:
        context.log(warning, "warning")
    return splits if features is None else with_features(splits, features)


def fetch(blobs: Blobs, context: JobContext, inputs: dict[str, Any]) -> Path:
    """The dataset as a file in the job's folder."""
    path = context.folder / "data"
    blobs.copy_to(inputs["tenant"], inputs["digest"], path)
    return path


def read(
    path: Path,
    inputs: dict[str, Any],
    *,
    target: str | None,
    task: str | None,
    seed: int,
    split: dict[str, Any] | None,
    image_size: tuple[int, int] | None = None,
) -> Splits:
    """The splits of a fetched file."""
    from meuse.data.split_spec import SplitSpec
    from meuse.data.splits import load_splits

    return load_splits(
        path,
        inputs["format"],
        target=target,
        task=task,
        seed=seed,
        split=SplitSpec.from_dict(split) if split else None,
        raw=True,
        image_size=image_size,
    )


def with_features(splits: Splits, names: Sequence[str]) -> Splits:
    """The same rows with these columns only, in this order. Raises `invalid_data`."""
    known = {column.name: column for column in splits.features}
    for name in names:
        if name not in known:
            raise MeuseError(
                Code.INVALID_DATA,
                f"the model takes a column {name!r}, which the data does not have",
                field="data",
                hint="Use the dataset that the model was trained on, or one like it.",
            )

    def of(part: Examples) -> Examples:
        return Examples(part.frame.select(names), part.y)

    return replace(
        splits,
        train=of(splits.train),
        validation=of(splits.validation),
        test=of(splits.test),
        features=tuple(known[name] for name in names),
    )


def version_of(
    blobs: Blobs,
    job: dict[str, Any],
    splits: Splits,
    files: dict[Path, str],
    signature: Signature,
    metrics: dict[str, float],
    code_digest: str,
) -> dict[str, Any]:
    """What control needs to register the version; its files are in the blobs by now."""
    artifacts = []
    for path, format in files.items():
        with path.open("rb") as file:
            digest, size = blobs.put(job["inputs"]["tenant"], file)
        artifacts.append(asdict(Artifact(path.name, format, digest, size)))
    return {
        "task": splits.task,
        "target": splits.target,
        "artifacts": artifacts,
        "signature": signature.to_dict(),
        "metrics": metrics,
        "code_digest": code_digest,
        "split": splits.spec,
    }
