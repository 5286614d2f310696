"""What the processor can do that a choice of numbers depends on. Standard library only."""

from __future__ import annotations

import platform
from pathlib import Path


def sums_are_exact(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether uint8 × int8 products are summed without saturation on this machine.

    On x86 that takes VNNI (`avx512_vnni` or `avx_vnni`); other processors sum in 32 bits.
    """
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        text = cpuinfo.read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    flags = {
        flag for line in text.splitlines() if line.startswith("flags") for flag in line.split()
    }
    return bool(flags & {"avx512_vnni", "avx_vnni"})
