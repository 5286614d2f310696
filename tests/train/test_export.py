"""Export to a single ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from meuse.core.errors import Code, MeuseError
from meuse.core.nouns import Signature, TensorSpec
from meuse.train.export import export
from meuse.train.recipes import Standardised, linear, mlp


def network(outputs: int, *, regression: bool) -> Standardised:
    torch.manual_seed(0)
    body = mlp(5, outputs, {"hidden": [16, 8], "dropout": 0.5})
    target = (torch.tensor(100.0), torch.tensor(20.0)) if regression else None
    return Standardised(body, torch.arange(5.0), torch.full((5,), 2.0), target)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Signature, Standardised]:
    model = network(3, regression=False)
    folder = tmp_path_factory.mktemp("export")
    path, signature = export(model, ("a", "b", 3), torch.randn(3, 5), folder / "model.onnx")
    return path, signature, model


def test_the_signature_of_a_classifier(
    classifier: tuple[Path, Signature, Standardised],
) -> None:
    """A classifier takes `input` and gives `label` first, then `probabilities`."""
    _, signature, _ = classifier
    assert signature == Signature(
        (TensorSpec("input", "FP32", (-1, 5)),),
        (TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))),
        ("a", "b", 3),
    )


@pytest.mark.parametrize("batch", [0, 1, 2, 3, 33])
def test_any_batch_agrees_with_torch(
    classifier: tuple[Path, Signature, Standardised], batch: int
) -> None:
    """The file gives torch's classes and probabilities for any number of raw rows."""
    path, _, model = classifier
    rows = torch.randn(batch, 5) * 10
    session = onnxruntime.InferenceSession(path.read_bytes())
    assert [o.name for o in session.get_outputs()] == ["label", "probabilities"]
    label, probabilities = session.run(None, {"input": rows.numpy()})
    with torch.no_grad():
        wanted = model.eval()(rows).softmax(1)
    assert label.dtype == np.int64
    assert label.shape == (batch,)
    np.testing.assert_allclose(probabilities, wanted.numpy(), atol=1e-6)
    np.testing.assert_array_equal(label, wanted.argmax(1).numpy())


def test_a_regressor_gives_one_value_per_row(tmp_path: Path) -> None:
    """A regressor has one output, `value`, one number per row."""
    model = network(1, regression=True)
    path, signature = export(model, None, torch.randn(3, 5), tmp_path / "model.onnx")
    assert signature.outputs == (TensorSpec("value", "FP32", (-1,)),)
    (values,) = onnxruntime.InferenceSession(path.read_bytes()).run(
        None, {"input": np.zeros((4, 5), np.float32)}
    )
    assert values.shape == (4,)
    assert (values > 50).all()


def test_the_file_is_one_and_holds_no_local_path(
    classifier: tuple[Path, Signature, Standardised],
) -> None:
    """No external data, no path, no source text, no user of the machine that exported it."""
    path, _, _ = classifier
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
        self.layer = linear(5, 1, {})

    def forward(self, rows: Tensor) -> Tensor:
        return self.layer(rows) + torch.rand(1)


def test_an_export_that_disagrees_is_refused(tmp_path: Path) -> None:
    """A file whose outputs differ from torch's by more than the tolerance is an error."""
    target = (torch.tensor(0.0), torch.tensor(1.0))
    model = Standardised(Restless(), torch.zeros(5), torch.ones(5), target)
    with pytest.raises(MeuseError) as caught:
        export(model, None, torch.randn(3, 5), tmp_path / "model.onnx")
    assert caught.value.code == Code.INTERNAL
    assert "differs" in caught.value.message
