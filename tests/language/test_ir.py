"""Graphs of language models against transformers and peft, in the engine that serves them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import nncf
import numpy as np
import openvino
import openvino_genai
import peft
import pytest
import torch

from helpers_llama import checkpoint
from helpers_tiny_llm import write_gguf
from meuse.core.errors import Code, MeuseError
from meuse.language.checkpoint import Checkpoint, open_checkpoint, write_checkpoint
from meuse.language.graph import graph_of
from meuse.language.ir import copy_ir, write_ir
from meuse.serve.generation.engine import Work
from meuse.serve.generation.genai import GenaiGenerator
from meuse.serve.generation.messages import Sampling

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
RANK, ALPHA = 4, 16
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("tiny"), width=64)


@pytest.fixture(scope="module")
def opened(tiny: Path) -> Checkpoint:
    return open_checkpoint(tiny)


@pytest.fixture(scope="module")
def graph(opened: Checkpoint) -> openvino.Model:
    return graph_of(opened.model)


@pytest.fixture(scope="module")
def served(
    opened: Checkpoint, graph: openvino.Model, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("served")
    write_ir(opened, graph, folder, half=False)
    return folder


def logits_of(graph: openvino.Model, parts: list[list[list[int]]]) -> np.ndarray[Any, Any]:
    """Of rows of tokens that come in parts, the cache between them."""
    request = openvino.Core().compile_model(graph, "CPU", EXACT).create_infer_request()
    found, past = [], 0
    for part in parts:
        ids = np.array(part)
        rows, length = ids.shape
        given = {
            "input_ids": ids,
            "attention_mask": np.ones((rows, past + length), np.int64),
            "position_ids": np.tile(np.arange(past, past + length), (rows, 1)),
            "beam_idx": np.arange(rows, dtype=np.int32),
        }
        found.append(request.infer(given)["logits"].copy())
        past += length
    return np.concatenate(found, axis=1)


def test_logits_are_those_of_transformers(opened: Checkpoint, graph: openvino.Model) -> None:
    """A prompt, one token behind it and three more, in two rows."""
    parts = [[[5, 9, 77, 8], [1, 2, 3, 4]], [[100], [7]], [[1, 2, 3], [9, 9, 9]]]
    whole = torch.tensor(np.concatenate([np.array(part) for part in parts], axis=1))
    with torch.inference_mode():
        expected = opened.model(whole).logits.numpy()
    np.testing.assert_allclose(logits_of(graph, parts), expected, atol=2e-4)


def test_layers_keep_the_names_of_their_modules(graph: openvino.Model) -> None:
    """Adapters are joined to the graph by them."""
    names = [node.get_friendly_name() for node in graph.get_ops()]
    for layer in range(2):
        for module in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj"):
            assert any(n.startswith(f"__module.model.layers.{layer}.{module}/") for n in names)


def test_the_model_is_as_it_was(opened: Checkpoint, graph: openvino.Model) -> None:
    """Tracing leaves nothing behind."""
    assert type(opened.model).forward is opened.model.forward.__func__  # type: ignore[attr-defined]


def test_a_copy_has_the_files_and_another_graph(
    graph: openvino.Model, served: Path, tmp_path: Path
) -> None:
    """What is no file beside them does not matter."""
    given = shutil.copytree(served, tmp_path / "given")
    (given / "openvino_cache").mkdir()
    copy_ir(given, graph, tmp_path / "made")
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert made == {path.name for path in served.iterdir()}


def greedy(opened: Checkpoint, model: Any, ids: list[int], count: int) -> list[int]:
    given = torch.tensor([ids])
    made = model.generate(
        input_ids=given, attention_mask=torch.ones_like(given), do_sample=False,
        min_new_tokens=count, max_new_tokens=count, eos_token_id=None,
        pad_token_id=opened.tokenizer.pad_token_id,
    )  # fmt: skip
    return [int(token) for token in made[0, len(ids) :]]


def test_the_engine_answers_as_transformers_does(opened: Checkpoint, served: Path) -> None:
    """Through paged attention, with the tokenizer and the template that lie in the folder."""
    generator = GenaiGenerator(served, context=512, cache_mb=64, properties=EXACT)
    text = opened.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Wie heißt du? 🙂"}],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert isinstance(text, str)
    ids = generator.tokenizer.encode(text)
    assert ids.tolist() == opened.tokenizer(text)["input_ids"]
    assert generator.tokenizer.decode(ids.tolist()) == opened.tokenizer.decode(
        ids.tolist(), skip_special_tokens=True
    )
    sampling = Sampling(temperature=0, ignore_eos=True)
    generator.add(Work(ids=ids, max_tokens=20, sampling=sampling, seed=0))
    answer: list[int] = []
    while generator.busy:
        for progress in generator.step():
            answer += progress.ids
    assert answer == greedy(opened, opened.model, ids.tolist(), 20)


@pytest.fixture(scope="module")
def adapter(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An adapter of random weights as peft keeps it, and the model with it."""
    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, init_lora_weights=False, task_type="CAUSAL_LM",
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
                        "down_proj"],
    )  # fmt: skip
    adapted = peft.get_peft_model(open_checkpoint(tiny).model, config).eval()
    adapted.save_pretrained(str(folder))
    return folder / "adapter_model.safetensors", adapted


def adapted_answers(folder: Path, adapter: Path, ids: list[int]) -> list[list[int]]:
    """20 tokens without the adapter, with it, and without it again."""
    found = openvino_genai.Adapter(str(adapter))
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks = 32
    all_ = openvino_genai.AdapterConfig()
    all_.add(found, ALPHA / RANK)
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        folder, scheduler, "CPU", {**EXACT, "INFERENCE_NUM_THREADS": 1, "adapters": all_}
    )
    answers = []
    for with_it in (False, True, False):
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = 20, True
        config.adapters = openvino_genai.AdapterConfig()
        if with_it:
            config.adapters.add(found, ALPHA / RANK)
        (result,) = pipeline.generate([openvino.Tensor(np.array([ids]))], [config])
        answers.append([int(token) for token in result.m_generation_ids[0]])
    return answers


def test_adapters_work_as_in_peft(
    opened: Checkpoint, served: Path, adapter: tuple[Path, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    """The engine takes its weight as it is told: alpha / rank, which peft computes by itself."""
    path, model = adapter
    ids = [1, 50, 60, 70, 80]
    without, with_it, again = adapted_answers(served, path, ids)
    assert without == again == greedy(opened, opened.model, ids, 20)
    assert with_it == greedy(opened, model, ids, 20) != without
    printed = capfd.readouterr()
    assert "Unused LoRA" not in printed.out + printed.err


def test_adapters_work_on_weights_of_8_bits(
    opened: Checkpoint, adapter: tuple[Path, Any], tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    smaller = nncf.compress_weights(graph_of(opened.model), mode=nncf.CompressWeightsMode.INT8_ASYM)
    write_ir(opened, smaller, tmp_path)
    without, with_it, again = adapted_answers(tmp_path, adapter[0], [1, 50, 60, 70, 80])
    assert without == again != with_it
    printed = capfd.readouterr()
    assert "Unused LoRA" not in printed.out + printed.err


def test_a_gguf_file_is_opened_and_written_as_a_checkpoint(tmp_path: Path) -> None:
    """Dequantised: what is written opens again and computes the same, and takes itself for
    floats."""
    opened = open_checkpoint(write_gguf(tmp_path / "tiny.gguf", template="{{ messages }}"))
    assert next(opened.model.parameters()).dtype == torch.float32
    write_checkpoint(opened, tmp_path / "made")
    again = open_checkpoint(tmp_path / "made")
    assert not hasattr(again.model.config, "quantization_config")
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.inference_mode():
        assert torch.equal(opened.model(ids).logits, again.model(ids).logits)
    assert again.tokenizer.chat_template == "{{ messages }}"


@pytest.mark.parametrize("gone", ["tokenizer.json", "config.json", "model.safetensors"])
def test_a_folder_that_lacks_something_is_refused(gone: str, tmp_path: Path) -> None:
    """With what is missing, and nothing is fetched."""
    folder = checkpoint(tmp_path / "tiny")
    (folder / gone).unlink()
    (folder / "tokenizer_config.json").unlink(missing_ok=True)
    with pytest.raises(MeuseError) as caught:
        open_checkpoint(folder)
    assert caught.value.code is Code.INVALID_DATA
    assert caught.value.field == "model"
