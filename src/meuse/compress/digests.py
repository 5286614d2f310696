"""Names of what the results of steps follow from: equal digests, equal rows and teachers.

Knows frames and who may teach; knows no method.
"""

from __future__ import annotations

import hashlib

import numpy as np

from meuse.compress.teachers import Given
from meuse.core.nouns import Examples, Frame


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
