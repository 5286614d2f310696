"""A model as OpenVINO's own files: the same replica, the same answers."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import helpers_llm
from meuse.serve.generation.manifest import File
from serve.generation.rig import CONTEXT, Process, Worker, chat

pytestmark = pytest.mark.timeout(500)  # the model is loaded within the first test

_SAVE = """
import sys, openvino_genai
scheduler = openvino_genai.SchedulerConfig()
scheduler.num_kv_blocks = 8
save = {"enable_save_ov_model": True}
openvino_genai.ContinuousBatchingPipeline(sys.argv[1], scheduler, "CPU", save)
openvino_genai.Tokenizer(sys.argv[1], **save)
"""


@pytest.mark.slow
def test_a_folder_answers_as_the_file_it_was_made_of(worker: Worker, tmp_path: Path) -> None:
    """Saved by the engine from the GGUF file; every file is laid out by its name."""
    source = tmp_path / helpers_llm.NAME
    shutil.copyfile(helpers_llm.weights(), source)
    subprocess.run([sys.executable, "-c", _SAVE, str(source)], check=True, timeout=400)
    paths = sorted(tmp_path.glob("openvino_*"))
    assert len(paths) == 6
    files = tuple(
        File(path.name, hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for path in paths
    )
    manifest = helpers_llm.manifest(source, layout="ir", files=files, context=CONTEXT)
    process = Process(manifest, paths)
    try:
        ask = chat("Name the four seasons.", max_tokens=24)
        assert process.connect().ask(ask).text() == worker.ask(ask).text()
    finally:
        process.close()
