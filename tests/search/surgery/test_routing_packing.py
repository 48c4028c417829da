"""Skipping for real: the packed network computes what the masked one does, and runs what its gates claim."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from objectives.cost import count
from objectives.execution import gates, watched
from objectives.tasks.resnet import ResNet
from search.surgery.finalize import plain
from search.surgery.routed import RoutedBlock, RoutedChannels
from search.surgery.routing_packing import packed
from spaces import RoutingPolicy
from spaces.errors import NetworkError
from tests.search.surgery.routed_networks import opened, site_of
from tests.search.surgery.test_routing_blocks import Projected, Transformer

NETWORKS: dict[str, tuple[nn.Module, Tensor]] = {
    "resnet": (ResNet(8), torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))),
    "projected": (Projected(), torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))),
    "transformer": (Transformer(), torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0))),
    "encoder": (
        nn.Sequential(
            nn.Linear(5, 8),
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
            nn.Linear(8, 3),
        ),
        torch.randn(6, 4, 5, generator=torch.Generator().manual_seed(0)),
    ),
    "plain": (
        nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(128, 2),
        ),
        torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)),
    ),
}


def macs(network: nn.Module, x: Tensor, measured: dict[str, float] | None = None) -> float:
    return sum(layer.macs for layer in count(network, (x,), measured).values())


def gates_cost(network: nn.Module, x: Tensor) -> float:
    return sum(cost.macs for name, cost in count(network, (x,)).items() if name.startswith("gates."))


def agrees(name: str, policy: RoutingPolicy, share: float, seed: int) -> None:
    network, x = NETWORKS[name]
    masked = plain(opened(site_of(network, x, policy), share, x, seed))
    true = packed(masked, (x[:2],))
    with torch.no_grad(), watched(masked) as claimed:
        expected = masked(x)
    with torch.no_grad():
        torch.testing.assert_close(true(x), expected, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        before = x.clone()
        torch.testing.assert_close(true(x), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(before, x)
    modules = [m for m in true.modules() if isinstance(m, RoutedBlock | RoutedChannels)]
    assert len(modules) == len(gates(masked)) > 0
    figures = {m.chooser.gate: m.ran / m.seen for m in modules}
    for gate_name, gate in gates(masked).items():
        twins = [g for g in figures if torch.equal(cast(Tensor, g.second), cast(Tensor, gate.second))]
        assert figures[twins[0]] == pytest.approx(claimed[f"routing/use/{gate_name}"])
    if policy.unit == "block":
        assert macs(true, x) == pytest.approx(macs(masked, x, claimed), rel=1e-9)


@settings(max_examples=10, deadline=None, phases=[Phase.generate])
@given(st.sampled_from(sorted(NETWORKS)), st.floats(0, 1), st.integers(0, 5))
def test_packed_equals_masked_and_runs_what_the_gates_claim(name: str, share: float, seed: int) -> None:
    agrees(name, RoutingPolicy(hidden=8 if seed % 2 else 0), share, seed)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_nobody_some_and_everybody(name: str, share: float) -> None:
    agrees(name, RoutingPolicy(pooling="attention", hidden=8), share, seed=1)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize(("name", "groups"), [("resnet", 4), ("projected", 3), ("transformer", 2)])
def test_packed_channel_groups_equal_masked_ones(name: str, groups: int, share: float) -> None:
    agrees(name, RoutingPolicy(unit="channel_group", groups=groups), share, seed=2)


def test_the_cost_of_half_a_block_by_hand() -> None:
    """Stem 27 * 16 * 256; three blocks at a half; 64 * 10 for the classes; the gates' own products."""
    network, x = NETWORKS["resnet"]
    masked = plain(opened(site_of(network, x, RoutingPolicy(hidden=0)), 1.0, x, 0))
    blocks = [2 * 9 * 16 * 16 * 256, 9 * (16 * 32 + 32 * 32) * 64, 9 * (32 * 64 + 64 * 64) * 16]
    assert macs(masked, x) == 27 * 16 * 256 + sum(blocks) + 640 + (16 + 16 + 32)
    half = {f"routing/use/{name}": 0.5 for name in gates(masked)}
    assert macs(masked, x, half) == 27 * 16 * 256 + sum(blocks) / 2 + 640 + (16 + 16 + 32)


def test_a_group_of_channels_costs_its_part_of_both_layers() -> None:
    network, x = NETWORKS["resnet"]
    masked = plain(opened(site_of(network, x, RoutingPolicy(unit="channel_group", groups=2, hidden=0)), 1.0, x, 0))
    names = list(gates(masked))
    first = macs(masked, x) - macs(masked, x, {f"routing/use/{names[0]}": 0.75})
    assert first == 0.25 * 2 * 9 * 16 * 16 * 256


def test_one_sample_at_a_time_skips_too() -> None:
    network, x = NETWORKS["resnet"]
    masked = plain(opened(site_of(network, x, RoutingPolicy()), 0.5, x, 3))
    true = packed(masked, (x[:2],))
    with torch.inference_mode():
        alone = torch.cat([true(each) for each in x.split(1)])  # type: ignore[no-untyped-call]
        torch.testing.assert_close(alone, masked(x), rtol=1e-4, atol=1e-5)
    ran = [m.ran for m in true.modules() if isinstance(m, RoutedBlock)]
    assert all(0 < each < len(x) for each in ran)


def test_a_network_without_a_graph_is_refused() -> None:
    with pytest.raises(NetworkError, match="packing needs a network with its graph"):
        packed(nn.Linear(2, 2), (torch.randn(2, 2),))


def test_skipped_samples_really_do_not_run() -> None:
    seen: list[int] = []
    network, x = NETWORKS["resnet"]
    true = packed(plain(opened(site_of(network, x, RoutingPolicy()), 0.5, x, 3)), (x[:2],))

    def note(_module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(len(args[0]))

    for module in true.modules():
        if isinstance(module, RoutedBlock):
            module.body.register_forward_pre_hook(note)
    with torch.inference_mode():
        true(x)
    assert seen
    assert max(seen) < len(x)
