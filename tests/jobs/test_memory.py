"""jobs.memory: what counts as having run out of it"""

import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from meuse.jobs import memory

HUGE = 1 << 55


def raised(work) -> BaseException:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        work()
    return caught.value


@pytest.mark.parametrize(
    "work",
    [
        lambda: bytearray(HUGE),
        lambda: np.zeros(HUGE, np.int8),
        lambda: torch.zeros(HUGE, dtype=torch.int8),
    ],
)
def test_refused_allocations_are_known(work) -> None:
    """Python, NumPy and PyTorch each have a way of their own to say it."""
    assert memory.is_exhausted(raised(work))


def test_causes_count_and_other_errors_do_not() -> None:
    """What a library wraps is found; a bad value or a missing file is another matter."""
    wrapped = ValueError("cannot read")
    wrapped.__cause__ = OSError(errno.ENOMEM, "no")
    assert memory.is_exhausted(wrapped)
    assert not memory.is_exhausted(ValueError("out of memory is what the column says"))
    assert not memory.is_exhausted(OSError(errno.ENOENT, "no"))
    assert not memory.is_exhausted(RuntimeError("mat1 and mat2 cannot be multiplied"))


def test_the_kernels_count_is_read(tmp_path: Path) -> None:
    """The counter of the kernel's kills; where there is none it stays at zero."""
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 5\noom_kill 7\noom_kill_other 9\n")
    assert memory.kernel_kills(vmstat) == 7
    assert memory.kernel_kills(tmp_path / "none") == 0
