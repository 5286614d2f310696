"""A graph of a decoder, whatever else its process has loaded."""

from __future__ import annotations

import os
import subprocess
import sys


def test_a_graph_is_made_after_the_serving_engine_was_loaded() -> None:
    """Which imports OpenVINO without its converter: in a process of its own, as a job is."""
    code = (
        "import meuse.serve.engines.openvino\n"
        "from helpers_llama import model\n"
        "from meuse.language.graph import graph_of\n"
        "print(len(graph_of(model()).inputs))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120,
        check=False,
    )  # fmt: skip
    assert int(done.stdout) >= 4, done.stderr
