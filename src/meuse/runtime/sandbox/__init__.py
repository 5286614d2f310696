"""Foreign code in a process that can do little: the best cage that the machine offers.

Tier 2: bubblewrap (own mount, network, process and IPC namespaces) with seccomp and rlimits.
Tier 1: seccomp, Landlock and rlimits, in a single process that can start no other.
Tier 0: rlimits only, which stops accidents and no attack; refused unless asked for.

Which tier works is found by trying. Standard library only; Linux on x86-64 and AArch64.
"""

from meuse.runtime.sandbox.harvest import FileRefusedError, take
from meuse.runtime.sandbox.order import Ended, Limits, NoSandboxError, Order
from meuse.runtime.sandbox.run import run
from meuse.runtime.sandbox.tiers import NAMES, Survey, survey

__all__ = [
    "NAMES",
    "Ended",
    "FileRefusedError",
    "Limits",
    "NoSandboxError",
    "Order",
    "Survey",
    "run",
    "survey",
    "take",
]
