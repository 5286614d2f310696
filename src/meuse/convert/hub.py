"""Fetch a checkpoint from the Hugging Face hub: weights as safetensors and text files only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from meuse.core.errors import Code, MeuseError

PATTERNS = ("*.json", "*.safetensors", "*.txt", "*.model")
"""No pickle, no code."""


def fetch(
    reference: str,
    folder: Path,
    patterns: Sequence[str] = PATTERNS,
    field: str = "source.hub",
) -> Path:
    """What fits the patterns of `owner/name` or `owner/name@revision` into `folder`; returns it.

    Raises `unavailable` when the hub cannot be reached (a cache that has it will do),
    `not_found` when it has no such checkpoint.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    name, _, revision = reference.partition("@")
    try:
        snapshot_download(
            name,
            revision=revision or None,
            local_dir=folder,
            allow_patterns=list(patterns),
            etag_timeout=10,
        )
    except (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError) as error:
        raise MeuseError(
            Code.NOT_FOUND,
            f"the hub has no checkpoint {reference!r} that may be read from here",
            field=field,
            hint=f"Look at its page; {type(error).__name__}.",
        ) from None
    except (LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, OSError) as error:
        raise MeuseError(
            Code.UNAVAILABLE,
            f"the hub cannot be reached from this machine ({type(error).__name__})",
            field=field,
            hint="Fetch the checkpoint elsewhere and upload a zip of its folder, "
            "or name its path in a folder that the operator allows.",
        ) from None
    return folder
