"""`python -m meuse.app <role> …`: the entry of every process that the platform starts."""

from __future__ import annotations

import importlib
import sys

ROLES = (
    "up", "control", "ledger", "worker", "replica", "spare", "nursery", "job", "trial", "inspect",
    "check", "archive",
)  # fmt: skip


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in ROLES:
        sys.stderr.write(f"usage: python -m meuse.app {{{'|'.join(ROLES)}}} …\n")
        return 2
    role = importlib.import_module(f"meuse.app.{sys.argv[1]}")
    status: int = role.main(sys.argv[2:])
    return status


if __name__ == "__main__":
    sys.exit(main())
