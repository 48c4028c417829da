"""Blocks that go for everybody: those that matter least, as many as are asked for, and none that is needed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from objectives.cost import macs
from objectives.execution import gates
from objectives.outcome import Outcome
from objectives.task import Split
from objectives.tasks.resnet import Block, ResNet
from search.surgery.finalize import finalize, plain
from search.surgery.routing import Routing
from search.surgery.routing_gate import RoutingGate
from search.surgery.routing_static import remove_blocks
from search.surgery.site import Site
from spaces import RoutingPolicy
from spaces.errors import ProfileError
from spaces.ledger import Ledger
from spaces.profile import CompressionProfile
from tests.nets import Blobs
from tests.search.surgery.harness import operate
from tests.search.surgery.routed_networks import site_of

IMAGES = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
STATIC = RoutingPolicy(mode="static", blocks="residual", target_cost=0.5, anneal=0.5)


class Images:
    """A task that asks a network to be what it was."""

    def __init__(self, network: nn.Module) -> None:
        with torch.no_grad():
            self._targets = network.eval()(IMAGES)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> list[tuple[Tensor, Tensor]]:
        return [(IMAGES, self._targets)]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square().mean()


def held_by(site: Site) -> dict[str, RoutingGate]:
    return {name: gate for name, gate in gates(site.network).items() if isinstance(gate, RoutingGate)}


def opened(site: Site) -> dict[str, RoutingGate]:
    held = held_by(site)
    for gate in held.values():
        gate.forced = (1,) * gate.units
    return held


def resnet(silent: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    network = ResNet(8)
    blocks = [module for module in network.modules() if isinstance(module, Block)]
    if silent is not None:
        nn.init.zeros_(blocks[silent].bn2.weight)
        nn.init.zeros_(blocks[silent].bn2.bias)
    return network


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_the_block_that_does_nothing_goes_first(silent: int) -> None:
    network = resnet(silent)
    site = site_of(network, IMAGES, STATIC)
    site.task = Images(network)  # type: ignore[assignment]
    held = opened(site)
    remove_blocks(site, dict.fromkeys(held, 0.25), 0.99, step=0)
    assert [gate.forced for gate in held.values()] == [(0,) if i == silent else (1,) for i in range(3)]


@given(
    st.lists(st.floats(0.01, 0.3), min_size=3, max_size=3), st.floats(0, 1), st.sampled_from([None, 1]), st.booleans()
)
def test_as_much_goes_as_is_asked_for_and_no_choice_more(
    shares: list[float], target: float, silent: Any, looks: bool
) -> None:
    network = resnet(silent)
    site = site_of(network, IMAGES, STATIC)
    site.task = Images(network) if looks else None  # type: ignore[assignment]
    held = opened(site)
    share = dict(zip(held, shares, strict=True))
    remove_blocks(site, share, target, step=0)
    gone = [share[name] for name, gate in held.items() if gate.forced == (0,)]
    left = 1 - sum(gone)
    assert left <= target + 1e-9 or len(gone) == 3
    assert not gone or left + max(gone) > target - 1e-9


def test_blocks_go_one_after_the_other_and_leave_the_finished_network() -> None:
    task = Blobs()
    runs: list[float] = []

    def look(site: Site) -> None:
        runs.append(sum(gate.forced == (1,) for gate in held_by(site).values()))

    site, mechanisms = operate(task, CompressionProfile.of(STATIC), 16, look)
    assert runs[0] == 1
    assert runs[-1] == 0
    (routing,) = mechanisms
    assert isinstance(routing, Routing)
    network = finalize(site, mechanisms)
    assert not gates(network)
    outcome = Outcome(network, {}, Ledger((), {}, {}), site.profile, {}, task.example_inputs())
    whole = Outcome(task.network(), {}, Ledger((), {}, {}), site.profile, {}, task.example_inputs())
    assert macs(outcome) < macs(whole)
    assert site.receipts["routing"] == {
        "decisions": 4, "gates": 1, "shut": 1, "always_open": 0, "dynamic": 0, "refused": 0, "entropy": 0, "spread": 0,
        "skipped/3": 1, "entropy/3": 0, "spread/3": 0,
    }  # fmt: skip


def test_a_rung_sees_the_end_from_the_first_step_on() -> None:
    network = resnet(1)
    site = site_of(network, IMAGES, STATIC)
    site.task = Images(network)  # type: ignore[assignment]
    opened(site)
    routing = Routing(STATIC)
    routing.site, routing._share = site, dict.fromkeys(gates(site.network), 0.25)
    twin = site.copy()
    routing.project(twin)
    assert [gate.forced for gate in held_by(twin).values()].count((0,)) == 2
    assert all(gate.forced == (1,) for gate in held_by(site).values())
    assert plain(twin)(IMAGES).shape == (8, 10)


def test_what_only_learning_needs_cannot_be_set() -> None:
    with pytest.raises(ProfileError, match=r"routing\.lr_factor acts only where mode is hard or soft"):
        RoutingPolicy(mode="static", lr_factor=3.0)
    with pytest.raises(ProfileError, match=r"routing\.unit acts only where mode is hard or soft"):
        RoutingPolicy(mode="static", unit="channel_group")


@given(st.integers(8, 2000))
def test_the_decisions_end_when_the_target_is_reached(steps: int) -> None:
    decisions = STATIC.decision_steps(steps)
    assert decisions[-1] <= steps / 2
    assert list(decisions) == sorted(set(decisions))
    assert len(decisions) >= 3
