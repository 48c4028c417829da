"""Gates: how they start, learn, settle and leave; what edges may not do; what rungs and exports make of them."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.cost import macs
from objectives.execution import gates, place
from objectives.outcome import Outcome
from objectives.size import nonzeros
from objectives.tasks.resnet import ResNet
from search.export import read_network, save_network
from search.projection import projected
from search.scoring import measure_baseline
from search.surgery.finalize import finalize, plain
from search.surgery.mechanism import Clock
from search.surgery.mechanisms import mechanisms_for
from search.surgery.routing import Routing, binary_entropy, entropy
from search.surgery.routing_gate import Annealing, RoutingGate
from search.surgery.site import Site
from spaces import PruningPolicy, ReconnectionPolicy, ResonancePolicy, RoutingPolicy
from spaces.errors import NetworkError
from spaces.ledger import Ledger
from spaces.profile import CompressionProfile
from tests.nets import Blobs
from tests.search.surgery.harness import operate, site_for
from tests.search.surgery.routed_networks import opened, site_of

IMAGES = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TASK = Blobs()


def gate_of(site: Site, name: str) -> RoutingGate:
    gate = gates(site.network)[name]
    assert isinstance(gate, RoutingGate)
    return gate


# -- the gate ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hidden", [0, 8])
@pytest.mark.parametrize("attends", [False, True])
def test_a_new_gate_is_open_for_everything(hidden: int, attends: bool) -> None:
    gate = RoutingGate(3, 4, hidden=hidden, attends=attends)
    gate.start(1.0, torch.Generator().manual_seed(0))
    assert torch.equal(gate.eval()(1e3 * IMAGES), torch.ones(6, 1, 1, 1))


def test_the_score_by_hand() -> None:
    gate = RoutingGate(2, 4, hidden=2)
    with torch.no_grad():
        gate.center.copy_(torch.tensor([1.0, 0.0]))
        gate.scale.copy_(torch.tensor([2.0, 1.0]))
        assert gate.first is not None
        gate.first.copy_(torch.tensor([[1.0, 0.0], [0.0, -1.0]]))
        gate.second.copy_(torch.tensor([[3.0, 5.0]]))
        gate.bias.fill_(-1.0)
    x = torch.tensor([[[[2.0, 4.0]], [[1.0, 3.0]]]])
    # Means 3 and 2; centred and scaled 4 and 2; hidden 4 and 0; 12 - 1.
    assert gate.scores(x).tolist() == [[11.0]]


def test_a_query_of_zero_averages() -> None:
    average, query = RoutingGate(3, 4), RoutingGate(3, 4, attends=True)
    with torch.no_grad():
        for gate in (average, query):
            gate.second.copy_(torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(query.scores(IMAGES), average.scores(IMAGES))


def test_tokens_are_averaged_over_their_positions() -> None:
    gate = RoutingGate(4, 3, last=True)
    x = torch.randn(2, 5, 4)
    torch.testing.assert_close(gate.pooled(x), x.mean(1))


@pytest.mark.parametrize("hard", [True, False])
def test_training_chooses_or_blends_and_the_gradient_is_alive(hard: bool) -> None:
    gate = RoutingGate(3, 4)
    gate.start(1.0, torch.Generator().manual_seed(0))
    gate.annealing = Annealing(torch.Generator().manual_seed(0), hard=hard, tau=2.0)
    given = gate.train()(IMAGES)
    expected = 1.0 if hard else 1 / (1 + math.exp(-0.5))
    torch.testing.assert_close(given, torch.full((6, 1, 1, 1), expected))
    given.sum().backward()
    assert gate.bias.grad is not None
    p = 1 / (1 + math.exp(-0.5))
    assert float(gate.bias.grad) == pytest.approx(6 * p * (1 - p) / 2, rel=1e-5)


def test_noise_closes_some_and_the_same_generator_closes_the_same() -> None:
    gate = RoutingGate(3, 4)
    gate.start(0.5, torch.Generator())
    drawn = []
    for _ in range(2):
        gate.annealing = Annealing(torch.Generator().manual_seed(3), hard=True, noise=2.0)
        drawn.append(gate.train()(IMAGES.repeat(20, 1, 1, 1)).detach())
    assert torch.equal(drawn[0], drawn[1])
    assert 0 < float(drawn[0].mean()) < 1


def test_a_gate_is_copied_between_the_passes_of_a_step() -> None:
    gate = RoutingGate(3, 4).train()
    gate.annealing = Annealing(torch.Generator(), hard=True)
    gate(torch.randn(2, 3, 2, 2))
    assert gate.latest is not None
    assert copy.deepcopy(gate).latest is None


def test_groups_of_channels_open_apart() -> None:
    gate = RoutingGate(3, 4, units=2, width=5, forced=(1, 0))
    assert gate(IMAGES)[0, :, 0, 0].tolist() == [1, 1, 1, 0, 0]
    assert gate.parts().tolist() == pytest.approx([0.6, 0.4])


def test_entropies_in_bits() -> None:
    assert entropy(torch.tensor([0.0, 60.0, -60.0])).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-6)
    assert binary_entropy(torch.tensor([0.0, 0.5, 0.25, 1.0])).tolist() == pytest.approx([0, 1, 0.8112781, 0])
    assert float(entropy(torch.tensor(math.log(1 / 3)))) == pytest.approx(0.8112781, abs=1e-6)


# -- the loss ----------------------------------------------------------------------------------------------------------


def test_the_penalty_by_hand() -> None:
    policy = RoutingPolicy(
        hidden=0, target_cost=0.5, cost_weight=2.0, confidence=0.1, anneal=0.0, tau_start=1, tau_end=1
    )
    site = site_for(TASK.network(), TASK, CompressionProfile.of(policy), 10)
    (routing,) = mechanisms_for(site.profile)
    routing.attach(site)
    routing.before_forward(Clock(5, 10, 0))
    gate = gate_of(site, "gates.3")
    gate.latest = torch.tensor([[1.0], [-1.0], [-1.0], [-1.0]])
    # Stem 64 * 9 * 8 and classes 32 always run; the block, 2 * 9 * 64 * 64, for one sample of four.
    share = 73728 / (73728 + 4608 + 32)
    p = 1 / (1 + math.exp(-1))
    certain = -(p * math.log2(p) + (1 - p) * math.log2(1 - p))
    expected = 2.0 * (1 - share + share / 4 - 0.5) ** 2 + 0.1 * certain
    penalty = routing.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(expected, rel=1e-5)
    assert routing.penalty() is None


def test_added_skips_start_at_zero_and_are_pulled_towards_it() -> None:
    task = Blobs("mlp")
    policy = RoutingPolicy(hidden=0, l1=0.5, confidence=0.0, cost_weight=0.0)
    site = site_for(task.network(), task, CompressionProfile.of(policy), 10)
    (routing,) = mechanisms_for(site.profile)
    routing.attach(site)
    weight = site.network.get_parameter("edges.skip__2.map.weight")
    assert weight.shape == (16, 1, 1)
    assert not weight.any()
    assert site.connectivity.active["edges.skip__2.map.weight"] == 16
    with torch.no_grad():
        weight.fill_(0.25)
    routing.before_forward(Clock(0, 10, 0))
    gate_of(site, "gates.2").latest = torch.ones(4, 1)
    penalty = routing.penalty()
    assert penalty is not None
    assert penalty.item() == pytest.approx(0.5 * 16 * 0.25)


# -- what turned static ------------------------------------------------------------------------------------------------


def test_an_open_gate_vanishes() -> None:
    network = ResNet(8).eval()
    keys, code = list(network.state_dict()), plain(site_of(network, IMAGES, RoutingPolicy())).code
    site = site_of(network, IMAGES, RoutingPolicy())
    for gate in gates(site.network).values():
        gate.forced = (1,)  # type: ignore[assignment]
    left = plain(site)
    assert list(left.state_dict()) == keys
    assert "gates" in str(code)
    assert torch.equal(left(IMAGES), network(IMAGES))


def test_a_block_that_nobody_runs_leaves_with_its_connections() -> None:
    network = ResNet(8).eval()
    site = site_of(network, IMAGES, RoutingPolicy())
    gate_of(site, "gates.layer1_0").forced = (0,)
    with torch.no_grad():
        expected = site.network.eval()(IMAGES)
    left = plain(site)
    with torch.no_grad():
        assert torch.equal(left(IMAGES), expected)
    assert not any(key.startswith("layer1") for key in left.state_dict())
    ledger = site.connectivity.ledger()
    assert sum(ledger.active().values()) == nonzeros(left)
    gone = [event for event in ledger.events if event.policy == "routing"]
    assert {event.reason for event in gone} == {"bypassed"}
    assert sum(event.pruned for event in gone) == 2 * 9 * 16 * 16


def test_a_block_leaves_although_some_of_its_channels_are_masked() -> None:
    network = ResNet(8).eval()
    site = site_of(network, IMAGES, RoutingPolicy())
    inner = next(group for group in site.channel_groups() if group.root == "layer1.0.conv1.weight")
    outer = next(group for group in site.channel_groups() if group.root == "conv1.weight")
    site.connectivity.close([*inner.channels[:3], *outer.channels[:2]], "test", "test")
    gate_of(site, "gates.layer1_0").forced = (0,)
    with torch.no_grad():
        expected = site.network.eval()(IMAGES)
        left = plain(site)
        torch.testing.assert_close(left(IMAGES), expected, rtol=1e-4, atol=1e-5)
    assert left.get_submodule("conv1").out_channels == 14
    assert gates(left)["gates.layer2_0"].channels == 14
    assert sum(site.connectivity.ledger().active().values()) == nonzeros(left)


def test_a_revived_channel_does_not_change_a_choice() -> None:
    site = opened(site_of(ResNet(8).eval(), IMAGES, RoutingPolicy(hidden=0)), 0.5, IMAGES, 1)
    outer = next(group for group in site.channel_groups() if group.root == "conv1.weight")
    with torch.no_grad():
        site.connectivity.close(outer.channels[:4], "test", "test")
        masked = site.network(IMAGES)
        site.connectivity.open(outer.channels[:4], "test", "test")
        assert torch.equal(site.network(IMAGES), masked)


def test_gates_settle_where_hardly_anybody_or_nearly_everybody_goes() -> None:
    policy = RoutingPolicy(target_cost=0.0, cost_weight=50, lr_factor=30, bias=0.5, anneal=0.1, noise=0.0, hidden=0)
    site, mechanisms = operate(TASK, CompressionProfile.of(policy), 40)
    forced = gate_of(site, "gates.3").forced
    network = finalize(site, mechanisms)
    receipt = site.receipts["routing"]
    assert receipt["decisions"] == 3
    assert receipt["shut"] + receipt["always_open"] + receipt["dynamic"] == receipt["gates"] == 1
    assert forced == (0,)
    assert receipt["shut"] == 1
    assert receipt["skipped/3"] > 0.99
    assert not gates(network)
    assert not any(key.startswith("3.") for key in network.state_dict())


# -- beside other policies ---------------------------------------------------------------------------------------------


def test_no_edge_starts_inside_of_a_block_and_ends_outside() -> None:
    edges = ReconnectionPolicy(interval=0.05, radius=4, skips=4, edge_granularity="channel", criterion="random")
    site, mechanisms = operate(TASK, CompressionProfile.of(RoutingPolicy(), edges), 30)
    finalize(site, mechanisms)
    assert site.receipts["routing"]["refused"] > 0
    assert site.receipts["reconnection"]["edges_refused"] > 0
    free, mechanisms = operate(TASK, CompressionProfile.of(edges), 30)
    finalize(free, mechanisms)
    assert site.receipts["reconnection"]["edges_added"] <= free.receipts["reconnection"]["edges_added"]


def test_pruning_leaves_added_skips_alone() -> None:
    task = Blobs("mlp")
    site, _ = operate(task, CompressionProfile.of(RoutingPolicy(), PruningPolicy(sparsity=0.9)), 20)
    assert site.connectivity.active["edges.skip__2.map.weight"] == 16


@pytest.mark.parametrize("distribution", ["global", "uniform", "erk"])
def test_reconnection_leaves_added_skips_alone(distribution: Any) -> None:
    task, policy = Blobs("mlp"), ReconnectionPolicy(interval=0.1, zeta=0.5, distribution=distribution)
    site, _ = operate(task, CompressionProfile.of(RoutingPolicy(), policy), 20)
    events = site.connectivity.ledger().events
    assert sum(event.pruned for event in events if event.policy == "reconnection") > 0
    assert {event.reason for event in events if event.layer.startswith("edges.")} == {"skip"}


def test_resonance_leaves_added_skips_alone() -> None:
    task, policy = Blobs("mlp"), ResonancePolicy(history=16, average=1, every=0.05, sparsity=0.8, cooling=1)
    site, mechanisms = operate(task, CompressionProfile.of(RoutingPolicy(), policy), 64)
    plain = {name: n for name, n in site.connectivity.active.items() if not name.startswith("edges.")}
    receipt = mechanisms[-1].finish()
    assert receipt["disabled"] > 0
    assert receipt["governed"] == sum(site.connectivity.masks[name].numel() for name in plain)
    assert receipt["active"] == sum(plain.values())
    assert site.connectivity.active["edges.skip__2.map.weight"] == 16


# -- figures -----------------------------------------------------------------------------------------------------------


def test_a_rung_and_the_preflight_assume_the_target() -> None:
    policy = RoutingPolicy(target_cost=0.4, hidden=0)
    baseline = measure_baseline(TASK)
    found = projected(TASK, CompressionProfile.of(policy), baseline, steps=20)
    # The gate's own 8 products come on top.
    assert found["macs"] == pytest.approx(0.4 * baseline["macs"] + 8, rel=1e-6)
    site = site_for(TASK.network(), TASK, CompressionProfile.of(policy), 20)
    (routing,) = mechanisms_for(site.profile)
    routing.attach(site)
    twin = site.copy()
    routing.project(twin)
    network = plain(twin)
    outcome = Outcome(network, baseline, Ledger(), site.profile, {}, TASK.example_inputs())
    assert macs(outcome) == pytest.approx(found["macs"])
    original = TASK.network()
    with torch.no_grad():
        assert torch.equal(network(*TASK.example_inputs()), original(*TASK.example_inputs()))


def test_a_target_out_of_reach_costs_what_always_runs() -> None:
    baseline = measure_baseline(TASK)
    profile = CompressionProfile.of(RoutingPolicy(target_cost=0.0, hidden=0))
    assert projected(TASK, profile, baseline, steps=20)["macs"] == pytest.approx(4608 + 32 + 8)


def test_gates_are_named_by_what_they_govern() -> None:
    assert place("routing/use/gates.layer1_0_my__conv") == "layer1.0.my_conv"


def test_an_export_keeps_gates_and_loads_without_pickle(tmp_path: Path) -> None:
    site = site_of(ResNet(8).eval(), IMAGES, RoutingPolicy(pooling="attention"))
    network = plain(opened(site, 0.5, IMAGES, 2))
    save_network(tmp_path, network, (IMAGES,))
    assert "pleach.RoutingGate" in json.dumps(json.loads((tmp_path / "architecture.json").read_text())["modules"])
    again = read_network(tmp_path)
    with torch.no_grad():
        assert torch.equal(again(IMAGES), network(IMAGES))
    program = torch.export.export(network, (IMAGES,)).module()
    torch.testing.assert_close(program(IMAGES), again(IMAGES))


# -- refusals ----------------------------------------------------------------------------------------------------------


class Wild(nn.Module):
    """Decides by its data."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return y if y.sum() > 0 else F.relu(y)


@pytest.mark.parametrize(
    ("network", "policy", "message"),
    [
        (Wild(), RoutingPolicy(), "routing needs a network that torch.fx can trace"),
        (nn.Sequential(nn.Linear(8, 4)), RoutingPolicy(), "routing needs a block that an input can bypass"),
        (nn.Sequential(nn.Linear(8, 4)), RoutingPolicy(unit="channel_group"), "routing needs a block with a shortcut"),
    ],
)
def test_networks_without_anything_to_bypass_are_refused(
    network: nn.Module, policy: RoutingPolicy, message: str
) -> None:
    site = site_for(network, Blobs("mlp"), CompressionProfile.of(policy), 4)
    with pytest.raises(NetworkError, match=message):
        Routing(policy).attach(site)
