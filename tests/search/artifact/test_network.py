"""A network in one folder: the pair of files that a trial leaves, with its graph or for its class alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from search.artifact.parity import compared
from search.export import load, read_network, save_network
from search.surgery.graph import trace
from spaces.errors import ExportError, StorageError
from tests.search.exports import exported, outputs, refusal
from tests.search.zoo import ZOO, bred


class Wild(nn.Module):
    """Decides by its data; no graph can say that."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width)
        self.linear = nn.Linear(width, 2)
        self.bias = nn.Parameter(torch.randn(2))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn(self.conv(x))).mean((2, 3))
        if y.sum() < 0:
            y = -y
        logits: Tensor = self.linear(y) + self.bias
        return logits


class Doubled(nn.Module):
    """Kept whole by a test, and nothing that a file may name."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def test_a_network_that_cannot_be_traced_loads_only_into_its_class(tmp_path: Path) -> None:
    network, inputs = Wild().eval(), (torch.randn(2, 3, 5, 5),)
    out = exported(tmp_path / "out", network, inputs)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["rebuild"]["class"] == "tests.search.artifact.test_network:Wild"
    assert "values of the data" in manifest["rebuild"]["reason"]
    assert "pass network=, a tests.search.artifact.test_network:Wild" in refusal(out)
    again = load(out, Wild())
    assert not again.training
    assert torch.equal(outputs(again, inputs), outputs(network, inputs))
    assert json.loads((out / "parity.json").read_text())["process"] == "the same process"
    assert "network=..." in (out / "README.md").read_text()


def test_layers_that_shrank_shrink_in_the_class_as_well(tmp_path: Path) -> None:
    network, inputs = Wild(width=4).eval(), (torch.randn(2, 3, 5, 5),)
    save_network(tmp_path, network, inputs)
    again = read_network(tmp_path, Wild(width=6))
    assert torch.equal(outputs(again, inputs), outputs(network, inputs))
    assert again.get_submodule("conv").out_channels == 4


def test_a_traced_network_that_no_file_can_hold_is_stored_for_its_class(tmp_path: Path) -> None:
    network, inputs = nn.Sequential(nn.Linear(3, 3), Doubled()).eval(), (torch.randn(2, 3),)
    traced = trace(network, inputs, leaves=(Doubled,))
    data = save_network(tmp_path, traced, inputs)
    assert data["rebuild"]["class"] == "torch.nn.modules.container:Sequential"
    assert "Doubled" in data["rebuild"]["reason"]
    again = read_network(tmp_path, nn.Sequential(nn.Linear(3, 3), Doubled()))
    assert torch.equal(outputs(again, inputs), outputs(network, inputs))


def test_another_class_is_refused(tmp_path: Path) -> None:
    save_network(tmp_path, Wild().eval(), (torch.randn(2, 3, 5, 5),))
    with pytest.raises(ExportError, match="must have a module conv, but has none"):
        read_network(tmp_path, nn.Sequential(nn.Linear(2, 2)))


def test_a_network_with_its_graph_takes_no_class(tmp_path: Path) -> None:
    save_network(tmp_path, *bred("mlp"))
    with pytest.raises(ExportError, match="leave network= out"):
        read_network(tmp_path, Wild())


# -- a trial's pair of files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_a_trial_s_network_comes_back_bitwise(name: str, tmp_path: Path) -> None:
    network, inputs = bred(name)
    save_network(tmp_path, trace(network, inputs), inputs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["architecture.json", "final.safetensors"]
    assert torch.equal(outputs(read_network(tmp_path), inputs), outputs(network, inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_numbers_come_back_bitwise(dtype: torch.dtype, tmp_path: Path) -> None:
    network, (x,) = bred("plain")
    network.to(dtype)
    save_network(tmp_path, network, (x.to(dtype),))
    assert torch.equal(outputs(read_network(tmp_path), (x.to(dtype),)), outputs(network, (x.to(dtype),)))


def test_weights_that_share_memory_are_stored_each_by_itself(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)).eval()
    memory = torch.randn(8, 4)
    network[0].weight.data, network[1].weight.data = memory[:4], memory[2:6]
    inputs = (torch.randn(2, 4),)
    save_network(tmp_path, network, inputs)
    assert torch.equal(outputs(read_network(tmp_path), inputs), outputs(network, inputs))


def test_saving_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    network, inputs = bred("convnext")
    network.train()
    state = copy.deepcopy(network.state_dict())
    save_network(tmp_path, network, inputs)
    assert all(module.training for module in network.modules())
    assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())


def test_a_trial_that_is_not_finished_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="let the trial finish"):
        read_network(tmp_path)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([torch.tensor([1.0, 2.5])], "differ by 0.5"),
        ([torch.tensor([1.0])], "has others"),
        ([torch.tensor([1.0, 2.0]).double()], "has others"),
        ([], "has others"),
        ([torch.tensor([1.0, float("nan")])], "differ by inf"),
    ],
)
def test_outputs_that_differ_are_no_parity(found: list[Tensor], said: str) -> None:
    with pytest.raises(ExportError, match=said):
        compared([torch.tensor([1.0, 2.0])], found)


def test_rounding_is_reported_and_infinities_are_equal() -> None:
    ours = torch.tensor([1.0, float("inf"), float("nan"), -4.0])
    parity = compared([ours], [ours + torch.tensor([1e-6, 0.0, 0.0, 0.0])])
    assert parity["max_abs_difference"] == pytest.approx(1e-6, rel=0.1)
    assert parity["max_abs_output"] == 4.0
