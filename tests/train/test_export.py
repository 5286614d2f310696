"""Export to a single ONNX file: preparation, network and answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Column, Frame
from meuse.train import export
from meuse.train.answers import Answers
from meuse.train.loop import scores_of
from meuse.train.prepare.fit import fit
from meuse.train.recipes.catalog import Linear, Mlp
from meuse.train.recipes.tables import linear, mlp

RAW = np.random.default_rng(0).normal(3, 10, size=(40, 5)).astype(np.float32)


def write(network: nn.Module, answers: Answers, path: Path) -> bytes:
    frame = Frame.of_numbers(RAW)
    preparation = fit(frame, [Column(name, "float") for name in frame.names])
    graph = export.network_graph(network, np.zeros((2, 5), np.float32))
    return export.write(export.assemble(preparation, graph, answers), path)


def network(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return mlp((5,), outputs, Mlp((16, 8), 0.5))


def scores(model: nn.Module, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network says of rows that are standardised by hand."""
    return scores_of(model, (rows - RAW.mean(0)) / RAW.std(0))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    model = network(3)
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    write(model, Answers("classification", 3), path)
    return path, model


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 33])
def test_any_batch_agrees_with_torch(classifier: tuple[Path, nn.Module], batch: int) -> None:
    """The file gives torch's classes and probabilities for any number of raw rows."""
    path, model = classifier
    session = onnxruntime.InferenceSession(path.read_bytes())
    assert [o.name for o in session.get_outputs()] == ["label", "probabilities"]
    label, probabilities = session.run(None, {"input": RAW[:batch]})
    assert label.dtype == np.int64
    assert label.shape == (batch,)
    assert probabilities.shape == (batch, 3)
    if batch:
        wanted = torch.from_numpy(scores(model, RAW[:batch])).softmax(1).numpy()
        np.testing.assert_allclose(probabilities, wanted, atol=1e-5)
        np.testing.assert_array_equal(label, wanted.argmax(1))


def test_a_regressor_gives_one_value_per_row(tmp_path: Path) -> None:
    """A regressor has one output, `value`, one number per row, in the target's own unit."""
    model = network(1)
    data = write(model, Answers("regression", 1, 100.0, 20.0), tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(data)
    assert [o.name for o in session.get_outputs()] == ["value"]
    (values,) = session.run(None, {"input": RAW[:4]})
    np.testing.assert_allclose(values, scores(model, RAW[:4])[:, 0] * 20 + 100, rtol=1e-5)


def test_several_labels_a_row(tmp_path: Path) -> None:
    """Each label has a probability of its own; above one half it holds."""
    model = network(3)
    data = write(model, Answers("multilabel", 3), tmp_path / "model.onnx")
    labels, probabilities = onnxruntime.InferenceSession(data).run(None, {"input": RAW})
    wanted = torch.from_numpy(scores(model, RAW)).sigmoid().numpy()
    np.testing.assert_allclose(probabilities, wanted, atol=1e-5)
    np.testing.assert_array_equal(labels, probabilities > 0.5)
    assert 0 < labels.sum() < labels.size


def test_the_file_is_one_and_holds_no_local_path(classifier: tuple[Path, nn.Module]) -> None:
    """No external data, no path, no source text, no user of the machine that exported it."""
    path, _ = classifier
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    content = path.read_bytes()
    for trace in (str(Path.cwd()), str(Path.home()), ".py", "stack_trace", "forward", "pkg."):
        assert trace.encode() not in content, trace
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert not proto.graph.doc_string
    assert not any(node.metadata_props for node in proto.graph.node)


class Restless(nn.Module):
    """Gives another answer on every call: no export can agree with it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = linear((5,), 1, Linear())

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows) + torch.rand(1)


def test_an_export_that_disagrees_is_refused(tmp_path: Path) -> None:
    """A file whose outputs differ from torch's by more than the tolerance is an error."""
    model, answers = Restless(), Answers("regression", 1)
    data = write(model, answers, tmp_path / "model.onnx")
    wanted = answers.outputs_of(scores(model, RAW[:3]))
    with pytest.raises(MeuseError) as caught:
        export.check_parity(data, {"input": RAW[:3]}, wanted, "value")
    assert caught.value.code == Code.INTERNAL
    assert "differs" in caught.value.message
