"""An ONNX file becomes a network of layers that computes the same; what is not supported is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from objectives.checking import check_task
from objectives.loading import load_task
from objectives.tasks.decoder import Decoder
from objectives.tasks.onnx_network import convert, read_onnx
from objectives.tasks.resnet import ResNet
from search.compress import compress
from search.formats.onnx_file import Session, to_onnx
from spaces.errors import TaskError
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy

onnx = pytest.importorskip("onnx", reason="the task onnx needs the extra `onnx`")
helper, numbers = pytest.importorskip("onnx.helper"), pytest.importorskip("onnx.numpy_helper")


def model(nodes: list[Any], shape: list[int | str], weights: dict[str, Tensor], opset: int = 20) -> Any:
    """A model of one input ``x`` and one output ``y``."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numbers.from_array(value.numpy(), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def agrees(made: Any, x: Tensor) -> nn.Module:
    """The network of a model, after it gave what onnxruntime gives."""
    network = convert(made)
    with torch.no_grad():
        ours = network(x)
    theirs = Session(made.SerializeToString())(x)[0]
    assert torch.allclose(ours, theirs.to(ours.dtype), atol=1e-4, rtol=1e-4)
    return network


@pytest.mark.parametrize("kind", ["resnet", "decoder"])
def test_what_pytorch_exports_comes_back_for_any_batch(kind: str) -> None:
    network: nn.Module = ResNet(8).eval() if kind == "resnet" else Decoder(11, 8, 16, 1, 2).eval()
    inputs = (torch.randn(2, 3, 32, 32) if kind == "resnet" else torch.randint(0, 11, (2, 8)),)
    again = convert(onnx.load_from_string(to_onnx(network, inputs)))
    x = torch.cat([inputs[0]] * 3)[:5]
    with torch.no_grad():
        assert torch.allclose(again(x), network(x), atol=1e-5)
    ours = {type(m).__name__ for m in again.modules()}
    assert ("Conv2d" in ours) == (kind == "resnet")
    assert {"Linear", "LayerNorm", "Embedding"} <= ours or kind == "resnet"


def node(kind: str, *inputs: str, **attributes: Any) -> Any:
    return helper.make_node(kind, ["x", *inputs], ["y"], **attributes)


def whole(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int64)


IMAGE = torch.randn(3, 4, 6, 6, generator=torch.Generator().manual_seed(1))
OPERATORS = [
    (node("Conv", "w", auto_pad="SAME_UPPER", strides=[2, 2]), {"w": torch.randn(5, 4, 3, 3)}),
    (node("Conv", "w", "b", pads=[0, 1, 1, 2]), {"w": torch.randn(5, 4, 3, 3), "b": torch.randn(5)}),
    (node("Conv", "w", group=2), {"w": torch.randn(6, 2, 1, 1)}),
    (node("ConvTranspose", "w", strides=[2, 2], pads=[1, 1, 1, 1]), {"w": torch.randn(4, 3, 3, 3)}),
    (node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), {}),
    (node("MaxPool", kernel_shape=[2, 2], auto_pad="SAME_LOWER"), {}),
    (node("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]), {}),
    (node("AveragePool", kernel_shape=[2, 2], strides=[2, 2], count_include_pad=1, pads=[0, 0, 1, 1]), {}),
    (node("GlobalAveragePool"), {}),
    (node("GlobalMaxPool"), {}),
    (node("BatchNormalization", "s", "b", "m", "v"), dict(zip("sbmv", torch.rand(4, 4) + 0.5, strict=True))),
    (node("LayerNormalization", "s", "b", axis=-1), {"s": torch.rand(6), "b": torch.rand(6)}),
    (node("MatMul", "w"), {"w": torch.randn(6, 5)}),
    (node("Reshape", "n"), {"n": whole(0, -1)}),
    (node("Reshape", "n"), {"n": whole(0, 4, 36)}),
    (node("Transpose", perm=[0, 2, 3, 1]), {}),
    (node("Flatten", axis=1), {}),
    (node("Slice", "s", "e", "a", "p"), {"s": whole(0, 1), "e": whole(6, 2**62), "a": whole(2, 3), "p": whole(2, 1)}),
    (node("Slice", "s", "e", "a"), {"s": whole(-3), "e": whole(-1), "a": whole(2)}),
    (node("Pad", "n"), {"n": whole(0, 0, 1, 2, 0, 0, 0, 1)}),
    (node("Pad", "n", mode="reflect"), {"n": whole(0, 0, 1, 1, 0, 0, 1, 1)}),
    (node("Clip", "l", "h"), {"l": torch.tensor(-0.5), "h": torch.tensor(0.5)}),
    (node("LeakyRelu", alpha=0.2), {}),
    (node("HardSigmoid", alpha=0.3, beta=0.4), {}),
    (node("HardSwish"), {}),
    (node("Elu", alpha=0.7), {}),
    (node("PRelu", "s"), {"s": torch.rand(4, 1, 1)}),
    (node("Gelu", approximate="tanh"), {}),
    (node("Softmax", axis=1), {}),
    (node("ReduceMean", "a", keepdims=0), {"a": whole(2, 3)}),
    (node("ReduceSum", "a"), {"a": whole(-1)}),
    (node("ReduceMax", "a"), {"a": whole(1)}),
    (node("Unsqueeze", "a"), {"a": whole(1, -1)}),
    (node("Gather", "i", axis=2), {"i": whole(0, 3)}),
    (node("Gather", "i", axis=1), {"i": torch.tensor(2)}),
    (node("Pow", "e"), {"e": torch.tensor(2.0)}),
    (node("Expand", "n"), {"n": whole(2, 1, 1, 1, 1)}),
    (node("Concat", "x", axis=1), {}),
    (node("Mul", "f"), {"f": torch.randn(1, 4, 1, 1)}),
]


@pytest.mark.parametrize(
    ("operator", "weights"), OPERATORS, ids=[f"{i}-{n.op_type}" for i, (n, _) in enumerate(OPERATORS)]
)
def test_an_operator_computes_what_onnxruntime_computes(operator: Any, weights: dict[str, Tensor]) -> None:
    agrees(model([operator], ["batch", 4, 6, 6], weights), IMAGE)


def test_a_product_with_a_bias_behind_it_is_one_layer() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Add", ["z", "b"], ["y"])]
    network = agrees(model(nodes, ["n", 6], {"w": torch.randn(6, 5), "b": torch.randn(5)}), torch.randn(4, 6))
    (layer,) = network.children()
    assert isinstance(layer, nn.Linear)
    assert layer.bias is not None


def test_a_product_that_is_read_twice_keeps_its_value() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["z"]),
        helper.make_node("Add", ["z", "b"], ["u"]),
        helper.make_node("Mul", ["z", "u"], ["y"]),
    ]
    agrees(model(nodes, ["n", 6], {"w": torch.randn(6, 5), "b": torch.randn(5)}), torch.randn(4, 6))


def test_shapes_that_are_computed_from_the_batch_stay_open() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"], start=0, end=1),
        helper.make_node("Concat", ["s", "rest"], ["n"], axis=0),
        helper.make_node("Reshape", ["x", "n"], ["y"]),
    ]
    network = agrees(model(nodes, ["n", 4, 6, 6], {"rest": whole(12, 12)}), IMAGE)
    assert network(torch.randn(7, 4, 6, 6)).shape == (7, 12, 12)


def test_a_file_for_one_batch_size_runs_on_any() -> None:
    nodes = [node("Reshape", "n")]
    network = convert(model(nodes, [1, 4, 6, 6], {"n": whole(1, 144)}))
    assert network(torch.randn(5, 4, 6, 6)).shape == (5, 144)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: model([node("Det")], ["n", 3, 3], {}), "operators that are not supported, Det: export"),
        (lambda: model([node("NonZero")], ["n", 3], {}), "NonZero"),
        (lambda: model([node("Gather", "x", axis=0)], ["n", 3], {}), "Gather"),
        (lambda: model([node("Relu")], ["n", "m"], {}), "must have sizes but for the batch"),
        (lambda: model([node("Relu")], ["n", 3], {}, opset=9), "an operator set from 11"),
    ],
)
def test_what_is_not_supported_is_one_line_that_names_it(made: Any, said: str) -> None:
    with pytest.raises(TaskError) as caught:
        convert(made())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="must be readable"):
        read_onnx(tmp_path / "nowhere.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"\x08\xff" * 40)
    with pytest.raises(TaskError, match="must be a valid ONNX file"):
        read_onnx(tmp_path / "broken.onnx")


# -- the task --------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """A network that knows in which of four directions a point lies, and points."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=generator)
    first, last = nn.Linear(8, 16), nn.Linear(16, 4)
    network = nn.Sequential(first, nn.ReLU(), last)
    with torch.no_grad():
        first.weight.copy_(torch.cat([torch.eye(8), -torch.eye(8)]))
        first.bias.zero_()
        last.weight.copy_(torch.cat([torch.eye(4), torch.zeros(4, 4), -torch.eye(4), torch.zeros(4, 4)], 1))
        last.bias.zero_()
    (tmp_path / "directions.onnx").write_bytes(to_onnx(network.eval(), (x[:2],)))
    np.savez(tmp_path / "points.npz", x=x.numpy(), y=x[:, :4].argmax(1).numpy())
    return str(tmp_path / "directions.onnx"), str(tmp_path / "points.npz")


def test_the_task_is_checked_and_its_network_compressed(files: tuple[str, str]) -> None:
    task = load_task("onnx", {"file": files[0], "data": files[1], "batch_size": 32})
    check_task(task)
    done = compress(task.network(), CompressionProfile.of(PruningPolicy(sparsity=0.5, schedule="oneshot")), task)
    assert done.baseline["accuracy"] == 1.0
    assert done.scores["sparsity"] == pytest.approx(0.5, abs=0.02)
    assert done.scores["accuracy"] > 0.6


def test_data_that_do_not_fit_are_named(files: tuple[str, str], tmp_path: Path) -> None:
    np.savez(tmp_path / "half.npz", x_train=np.zeros((4, 8)), y_train=np.zeros(4))
    with pytest.raises(TaskError, match="lack x_validation"):
        load_task("onnx", {"file": files[0], "data": str(tmp_path / "half.npz")})
    np.savez(tmp_path / "trap.npz", x=np.array([object()]), y=np.zeros(1))
    with pytest.raises(TaskError, match="plain arrays"):
        load_task("onnx", {"file": files[0], "data": str(tmp_path / "trap.npz")})
    with pytest.raises(TaskError, match="kind must be one of"):
        load_task("onnx", {"file": files[0], "data": files[1], "kind": "guessing"})
