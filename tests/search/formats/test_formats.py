"""Every format computes what the network in memory does, for batches of any size, or is left out with a reason."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import search.formats.written as module
from objectives.tasks.decoder import Decoder
from objectives.tasks.resnet import ResNet
from search.export import load
from search.formats.int8_file import scores, to_int8
from search.formats.onnx_file import Session, to_onnx
from search.formats.simplify import simplified
from search.formats.written import INT8, ONNX, PT2, write_formats
from search.surgery.graph import trace
from spaces.errors import ExportError
from tests.search.exports import exported, outputs, signed
from tests.search.quick import TinyTask
from tests.search.test_export_tampered import Trap

pytest.importorskip("onnxruntime", reason="ONNX needs the extra `onnx`")


def trained(network: nn.Module) -> nn.Module:
    """With statistics in its norms as a trained network has them."""
    generator = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=generator) * 0.1)
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=generator) + 0.5)
    return network.eval()


def images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 32, 32),)


class ByBatch(nn.Module):
    """Computes with the size of its batch, so that it can be exported for one size only."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.0 if x.shape[0] == 2 else 2.0)


def test_a_resnet_and_a_transformer_come_back_from_every_format_within_rounding(tmp_path: Path) -> None:
    tokens = (torch.randint(0, 11, (2, 8)),)
    for network, inputs in ((trained(ResNet(8)), images()), (Decoder(11, 8, 16, 1, 2).eval(), tokens)):
        made = write_formats(tmp_path, network, inputs, ("pt2", "onnx"))
        assert made.left_out == {}
        assert set(made.contents) == {ONNX, PT2}
        for parity in made.parity.values():
            assert parity["max_abs_difference"] <= 1e-4 * max(1.0, parity["max_abs_output"])
        assert made.parity[ONNX]["batches"] == [2, 5]
        session = Session((tmp_path / ONNX).read_bytes())
        assert session.batch is None
        values = tuple(torch.cat([x, x, x])[:3] for x in inputs)
        assert torch.allclose(session(*values)[0], outputs(network, values), atol=1e-4)


def test_a_network_that_looks_at_its_batch_is_exported_for_that_batch(tmp_path: Path) -> None:
    made = write_formats(tmp_path, ByBatch().eval(), (torch.randn(2, 3),), ("onnx",))
    assert Session(made.contents[ONNX]).batch == 2
    assert made.parity[ONNX]["batches"] == [2]


def test_a_format_that_cannot_be_written_is_left_out_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> bytes:
        raise ExportError("the network cannot be written as ONNX (no such operator)")

    monkeypatch.setattr(module, "to_onnx", refused)
    made = write_formats(tmp_path, nn.Linear(3, 2).eval(), (torch.randn(2, 3),), ("onnx", "int8"), TinyTask())
    assert made.left_out == dict.fromkeys((ONNX, INT8), "the network cannot be written as ONNX (no such operator)")
    assert list(tmp_path.iterdir()) == []


def test_a_format_that_computes_something_else_spoils_the_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = (torch.randn(2, 3),)
    other = to_onnx(nn.Linear(3, 2).eval(), inputs)
    monkeypatch.setattr(module, "to_onnx", lambda *_: other)
    with pytest.raises(ExportError, match="outputs differ"):
        write_formats(tmp_path, nn.Linear(3, 2).eval(), inputs, ("onnx",))
    with pytest.raises(ExportError, match="there is no format 'onxx'"):
        write_formats(tmp_path, nn.Linear(3, 2).eval(), inputs, ("onxx",))


def test_int8_keeps_the_accuracy_within_half_a_point_or_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = TinyTask(256)
    network = task.network().eval()
    made = write_formats(tmp_path, network, task.example_inputs(), ("onnx", "int8"), task)
    if INT8 in made.contents:
        assert made.parity[INT8]["accuracy"] >= made.parity[INT8]["accuracy_float"] - 0.005
    data = to_int8(made.contents[ONNX], task)
    kinds = {node.op_type for node in importlib.import_module("onnx").load_from_string(data).graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    (before, after), count = scores([Session(made.contents[ONNX]), Session(data)], task)
    assert count == 256
    assert abs(before - after) < 0.05
    monkeypatch.setattr(module, "LOSS", -2.0)
    worse = write_formats(tmp_path, network, task.example_inputs(), ("int8",), task)
    assert "may cost" in worse.left_out[INT8]
    assert INT8 not in worse.contents


class _Masked(nn.Module):
    """Which of the first four numbers is the largest; a mask shuts the others out by a number beyond all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Linear(8, 8, bias=False)
        nn.init.eye_(self.mix.weight)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.tensor([0.0] * 4 + [-1e9] * 4)
        return torch.softmax(self.mix(x) + mask, -1)[:, :4]


def test_what_has_a_mask_is_rounded_in_its_products_alone(tmp_path: Path) -> None:
    task = TinyTask()
    network = _Masked().eval()
    made = write_formats(tmp_path, network, task.example_inputs(), ("onnx", "int8"), task)
    whole = to_int8(made.contents[ONNX], task)
    (before, after), _ = scores([Session(made.contents[ONNX]), Session(whole)], task)
    assert after < before - 0.005  # the mask's range leaves nothing for the scores
    assert made.parity[INT8]["accuracy"] >= before - 0.005


def test_int8_without_data_is_left_out(tmp_path: Path) -> None:
    made = write_formats(tmp_path, nn.Linear(3, 2).eval(), (torch.randn(2, 3),), ("int8",))
    assert "there is no task" in made.left_out[INT8]


# -- shortcuts -------------------------------------------------------------------------------------------------------


def test_a_shortcut_of_slices_and_zeros_becomes_a_convolution_that_computes_the_same() -> None:
    network = trained(ResNet(8))
    traced = trace(network, images())
    found = simplified(traced, images())
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(outputs(found, (x,)), outputs(network, (x,)))
    called = [str(node.target) for node in found.graph.nodes if node.op == "call_function"]  # type: ignore[union-attr]
    assert not any("pad" in name or "getitem" in name for name in called)
    assert "pad" in str(traced.graph)  # the network itself is as it was


@pytest.mark.parametrize("widths", [(1, 1, 0, 0, 0, 0), (0, 0, 0, 0, -1, 1)])
def test_other_paddings_are_left_alone(widths: tuple[int, ...]) -> None:
    class Padded(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.pad(x[:, :, ::2, ::2], widths)

    inputs = (torch.randn(2, 3, 4, 4),)
    found = simplified(trace(Padded(), inputs), inputs)
    assert torch.equal(found(*inputs), Padded()(*inputs))
    assert list(found.children()) == []


# -- in an export ----------------------------------------------------------------------------------------------------


def test_a_pickle_in_the_archive_is_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    network, inputs = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).eval(), (torch.randn(2, 3),)
    out = exported(tmp_path / "out", network, inputs, formats=("pt2",), original=network)
    torch.save({"weight": Trap()}, out / PT2)
    signed(out)
    assert torch.equal(outputs(load(out), inputs), outputs(network, inputs))
    assert not (tmp_path / "sprung").exists()
    (out / PT2).write_bytes((out / PT2).read_bytes()[:-1])
    with pytest.raises(ExportError, match=r"model\.pt2 must have"):
        load(out)
