"""Replicas that are servers of the OpenAI API on loopback: where workers ask them, and how.

Each has written port and key beside its socket before it listened there (`serve.generation.child`).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from meuse.access.sealing import Sealer
from meuse.core.nouns import ModelVersion
from meuse.deploy.generation import is_served
from meuse.serve.snapshot import UpstreamEntry

log = logging.getLogger(__name__)


class Served:
    """`sealer` closes their keys for the snapshot."""

    def __init__(self, sockets: Path, sealer: Sealer) -> None:
        self._sockets = sockets
        self._sealer = sealer
        # Sealed once: a second time it would look like another key, and be published again.
        self._known: dict[str, UpstreamEntry] = {}

    def entry(self, version: ModelVersion, ready: Sequence[str]) -> UpstreamEntry | None:
        """How workers ask the replica that is ready; without a URL where none is. None for a
        version whose replicas are no servers."""
        if not is_served(version):
            return None
        for replica in ready:
            if (found := self._of(version, replica)) is not None:
                return found
        return UpstreamEntry("", version.ref, own=True)

    def _of(self, version: ModelVersion, replica: str) -> UpstreamEntry | None:
        known = self._known.get(replica)
        if known is not None:
            return known
        try:
            told = json.loads((self._sockets / f"{replica}.upstream").read_bytes())
            url, key = f"http://127.0.0.1:{int(told['port'])}/v1", str(told["key"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s does not tell where it answers: %s", replica, error)
            return None
        entry = UpstreamEntry(url, version.ref, self._sealer.seal(key, url), own=True)
        if len(self._known) > 1000:  # of replicas that have long been gone
            self._known.clear()
        return self._known.setdefault(replica, entry)
