"""Names of what the results of steps follow from: equal digests, equal rows, teachers, libraries.

Knows frames, who may teach and which packages do the arithmetic; knows no method.
"""

from __future__ import annotations

import hashlib
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from meuse.compress.teachers import Given
from meuse.core.nouns import Examples, Frame

_LIBRARIES = ("numpy", "torch", "torch-pruning", "onnx", "onnxruntime", "openvino", "nncf")


def of_place(*, exact_sums: bool) -> str:
    """Of the libraries' versions and of whether this processor sums products of 8 bits exactly:
    what was made elsewhere, or before an upgrade, is made anew."""
    return repr([exact_sums, *(_version(name) for name in _LIBRARIES)])


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def of_frame(frame: Frame) -> str:
    """SHA-256, in hex, of all columns, their names and their order."""
    digest = hashlib.sha256(repr((frame.names, frame.numeric, len(frame))).encode())
    digest.update(np.ascontiguousarray(frame.numbers).data)
    for text in frame.texts.values():
        for value in text:
            digest.update(value.encode() + b"\0")
    for image in frame.images.values():
        digest.update(repr(image.shape).encode())
        digest.update(np.ascontiguousarray(image).data)
    return digest.hexdigest()


def of_examples(examples: Examples) -> str:
    """Of rows and targets."""
    digest = hashlib.sha256(of_frame(examples.frame).encode())
    digest.update(np.ascontiguousarray(examples.y).data)
    return digest.hexdigest()


def of_given(given: Given) -> str:
    """Of teachers, of the rows that they are asked, and of rows without labels, by the names
    that steps have for them."""
    told = [
        of_frame(given.frame),
        sorted((name, teacher.digest) for name, teacher in given.teachers.items()),
        sorted((name, of_frame(frame)) for name, frame in given.unlabelled.items()),
    ]
    return hashlib.sha256(repr(told).encode()).hexdigest()
