"""A table of layers: what is known is not timed again, and an estimate moves with what the network has to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from search.latency.layers import LayerCase, layer_call, layer_cases
from search.latency.setting import RuntimeName, Setting
from search.latency.table import Estimate, LayerTable, activations, rounded

EAGER = Setting(batch=16, runtime="eager")


def convolutions(width: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    layers = nn.Sequential(
        nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3), nn.Flatten(), nn.Linear(width * 16, 5)
    )
    return layers.eval(), (torch.randn(2, 3, 8, 8),)


def case(module: nn.Module, *shape: int) -> LayerCase:
    (found,) = layer_cases(module.eval(), (torch.randn(2, *shape),)).values()
    return found


def test_every_layer_with_weights_is_a_case_of_what_it_gets() -> None:
    network, inputs = convolutions(8)
    cases = layer_cases(network, inputs)
    assert {name: found.shape for name, found in cases.items()} == {"0": (3, 8, 8), "2": (8, 6, 6), "4": (128,)}
    assert all(found.rows == 1 for found in cases.values())
    # Three times 64 numbers, eight times 36, 128.
    assert activations(network, inputs) == 192 + 288 + 128


@pytest.mark.parametrize(
    ("size", "up"), [(1, 1), (4, 4), (5, 8), (13, 16), (64, 64), (65, 68), (130, 136), (1000, 1024)]
)
def test_sizes_are_rounded_up_to_steps(size: int, up: int) -> None:
    described = rounded(case(nn.Linear(size, size), size)).described
    assert described["args"]["in_features"] == described["args"]["out_features"] == up


def test_groups_and_other_layers_keep_their_sizes() -> None:
    for module, shape in (
        (nn.Conv2d(6, 6, 3, groups=6), (6, 5, 5)),
        (nn.ConvTranspose2d(5, 7, 2, groups=1), (5, 4, 4)),
    ):
        found = case(module, *shape)
        if "Transpose" not in found.layer:
            assert rounded(found) == found


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
@pytest.mark.parametrize(
    "module", [nn.Conv1d(4, 6, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1), nn.Linear(5, 7, bias=False)]
)
def test_a_layer_runs_alone_on_a_batch_of_its_own(runtime: RuntimeName, module: nn.Module) -> None:
    shape = {nn.Conv1d: (4, 9), nn.Conv2d: (4, 9, 9), nn.Linear: (5,)}[type(module)]
    call = layer_call(case(module, *shape), Setting(batch=3, runtime=runtime))
    assert call is not None
    out = call()
    shape_of = out[0].shape if isinstance(out, list) else out.shape  # type: ignore[attr-defined]
    assert shape_of == module(torch.randn(3, *shape)).shape


def test_what_was_timed_is_not_timed_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, inputs = convolutions(8)
    first = LayerTable(EAGER, tmp_path).network_ms(network, inputs)
    assert all(ms > 0 for ms in first.values())
    monkeypatch.setattr(LayerTable, "_timed", lambda self, found: pytest.fail("timed again"))
    assert LayerTable(EAGER, tmp_path).network_ms(network, inputs) == first
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["setting"] == "eager, batch 16, 1 thread"


def test_another_setting_has_a_table_of_its_own(tmp_path: Path) -> None:
    network, inputs = convolutions(8)
    for setting in (EAGER, Setting(batch=1, runtime="eager")):
        LayerTable(setting, tmp_path).network_ms(network, inputs)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_damaged_table_is_made_anew(tmp_path: Path) -> None:
    network, inputs = convolutions(8)
    LayerTable(EAGER, tmp_path).network_ms(network, inputs)
    (file,) = tmp_path.iterdir()
    file.write_text("{")
    assert all(ms > 0 for ms in LayerTable(EAGER, tmp_path).network_ms(network, inputs).values())


class Arithmetic(LayerTable):
    """A table in which a layer takes as many milliseconds as it has thousands of weights."""

    def ms(self, case: LayerCase) -> float:
        args = case.described["args"]
        if "Linear" in case.layer:
            return float(args["in_features"] * args["out_features"]) / 1000
        return float(args["in_channels"] * args["out_channels"] * 9) / 1000


def test_the_baseline_is_estimated_as_it_was_measured_and_half_of_it_as_less() -> None:
    network, inputs = convolutions(16)
    smaller, _ = convolutions(8)
    estimate = Estimate(Arithmetic(EAGER), network, inputs, measured_ms=10.0)
    assert estimate.ms(network) == pytest.approx(10.0)
    # Layers by hand, sizes rounded to steps of four, 5 outputs to 8: 3 x 16 x 9 + 16 x 16 x 9 + 256 x 8 = 4784 and
    # 3 x 8 x 9 + 8 x 8 x 9 + 128 x 8 = 1816; what passes: 192 + 576 + 256 = 1024 and 192 + 288 + 128 = 608.
    share = 4.784 / 10
    assert estimate.ms(smaller) == pytest.approx(10 * (share * 1816 / 4784 + (1 - share) * 608 / 1024))
