"""The vocabulary of a text column: counted with the very graph that cuts texts when serving."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper

from meuse.train.prepare.graph import Builder, cut
from meuse.train.prepare.options import TextOptions

_RESERVED = 2  # padding and unknown
_BLOCK_ROWS = 1024


def vocabulary(texts: NDArray[np.object_], options: TextOptions) -> tuple[str, ...]:
    """The most frequent tokens of `texts` [n], at most `options.vocabulary` - 2.

    Ties are broken by the token itself: equal texts give equal vocabularies.
    """
    builder = Builder("words")
    builder.node("Identity", [cut(builder, "text", options.lowercase)], ["tokens"])
    taken = helper.make_tensor_value_info("text", TensorProto.STRING, ["rows"])
    given = helper.make_tensor_value_info("tokens", TensorProto.STRING, ["rows", None])
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        builder.finish([taken], [given]).SerializeToString(),
        settings,
        providers=["CPUExecutionProvider"],
    )
    counts: Counter[str] = Counter()
    for start in range(0, len(texts), _BLOCK_ROWS):
        (tokens,) = session.run(None, {"text": texts[start : start + _BLOCK_ROWS]})
        counts.update(tokens.ravel().tolist())
    del counts[""]
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(token for token, _ in most[: options.vocabulary - _RESERVED])
