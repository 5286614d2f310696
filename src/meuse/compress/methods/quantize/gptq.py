"""Rounding of one matrix to 4 bits such that its product with real inputs moves least.

Knows numpy alone: a matrix, its inputs' second moments, groups. Frantar et al., GPTQ
(arXiv:2210.17323).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_DAMPING = 0.01  # of the mean second moment, as in the paper
_ZERO = 8  # the code of 0

Matrix = NDArray[np.float64]


def round_to_groups(
    weight: NDArray[np.float32], moments: Matrix, size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes uint8 [outputs, inputs] from 0 to 15 and scales [outputs, groups] of `weight`
    [inputs, outputs]: weight ≈ (code - 8) · scale, one scale per `size` inputs of an output.

    `moments` [inputs, inputs] is the sum of xᵀx over rows x. Inputs are taken in their order;
    what rounding one of them costs is made up for by those that follow. Zeros stay zeros.
    """
    left = weight.T.astype(np.float64)
    zero = left == 0
    inverse = _upper(moments)
    codes = np.full(left.shape, _ZERO, np.uint8)
    scales = np.ones((len(left), -(-left.shape[1] // size)))
    for start in range(0, left.shape[1], size):
        end = min(start + size, left.shape[1])
        scale = scale_of(left[:, start:end])
        scales[:, start // size] = scale
        for i in range(start, end):
            code = np.clip(np.rint(left[:, i] / scale), -_ZERO, _ZERO - 1)
            code[zero[:, i]] = 0
            codes[:, i] = code + _ZERO
            error = (left[:, i] - code * scale) / inverse[i, i]
            left[:, i + 1 :] -= np.outer(error, inverse[i, i + 1 :])
    return codes, scales.astype(np.float32)


def scale_of(group: Matrix) -> Matrix:
    """The scale of each row of a group: its largest value becomes code -8, by a scale of either
    sign, so that all sixteen codes serve. 1 for a row of zeros."""
    largest = np.take_along_axis(group, np.abs(group).argmax(axis=1)[:, None], axis=1)[:, 0]
    return np.where(largest == 0, 1.0, largest / -_ZERO)


def pack(codes: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Codes [outputs, inputs] as `MatMulNBits` reads them: [outputs, groups, size / 2], the
    earlier code in the lower half of a byte, the last group filled up with zeros."""
    outputs, inputs = codes.shape
    groups = -(-inputs // size)
    full = np.full((outputs, groups * size), _ZERO, np.uint8)
    full[:, :inputs] = codes
    packed: NDArray[np.uint8] = full[:, ::2] | (full[:, 1::2] << 4)
    return packed.reshape(outputs, groups, size // 2)


def _upper(moments: Matrix) -> Matrix:
    """The upper Cholesky factor of the damped moments' inverse. Inputs that are always zero
    have no moments, and count as if they stood alone."""
    damped = moments.copy()
    mean = float(np.diag(damped).mean()) or 1.0
    damped[np.diag_indices_from(damped)] += _DAMPING * mean
    found: Matrix = np.linalg.cholesky(np.linalg.inv(damped)).T
    return found
