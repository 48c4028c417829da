"""Granularity reaches its average, does not move to and fro, and holds what it computes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from objectives.bits import coded, mean_bits, weight_bits
from objectives.cost import count
from objectives.outcome import Outcome
from objectives.size import nonzeros, parameters, size_bytes, weights
from search.artifact.constructors import build, describe
from search.export import export, load
from search.finetune import Finetuning
from search.recipe import Recipe
from search.resources import Override, Readings, ResourceBudget, ResourceManager, recorded
from search.result import Budget, Report, TrialRequest, TrialResult
from search.surgery.finalize import finalize
from search.surgery.granularity import Granularity
from search.surgery.granularity_controllers import InputVariance, Learned, SignalToNoise
from search.surgery.granularity_dynamic import govern, moving
from search.surgery.granularity_finish import replace_units
from search.surgery.granularity_layers import CodedLinear
from search.surgery.granularity_levels import View, mean, steady, within
from search.surgery.granularity_units import Grain, grains, units
from search.trial import run_trial
from spaces import GranularityPolicy, PruningPolicy
from spaces.errors import ExportError
from spaces.ledger import Ledger
from spaces.profile import CompressionProfile
from tests.nets import Blobs
from tests.search.surgery.harness import operate, site_for
from tests.search.surgery.test_granularity_laws import ALONE, PROFILES

TASK = Blobs()


# -- the average ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("controller", ["sqnr", "variance", "learned"])
def test_the_average_is_reached_and_only_then_settled(controller: str) -> None:
    policy = GranularityPolicy(controller=controller, bits=6.0, ends="free", settle=0.5)
    site, (mechanism,) = operate(TASK, CompressionProfile.of(policy), 16)
    network = finalize(site, [mechanism])
    receipt = site.receipts["granularity"]
    assert receipt["decisions"] == len(policy.decision_steps(16)) >= 3
    assert 4.0 <= receipt["mean_bits"] <= 6.0
    macs = {name: cost.macs for name, cost in count(network, TASK.example_inputs()).items()}
    assert mean_bits(network, macs) == pytest.approx(receipt["mean_bits"])
    assert weight_bits(network) == pytest.approx(receipt["weight_bits"])


def test_the_first_and_the_last_layer_stay_at_eight_bits_unless_they_are_free() -> None:
    for ends, least in (("eight", 8), ("free", 4)):
        site, _ = operate(TASK, CompressionProfile.of(GranularityPolicy(bits=4.0, ends=ends)), 16)
        levels = [grain.bits[0] for grain in grains(site.network).values()]
        assert levels == [least, 4, 4, least]


def test_projection_is_at_the_target_and_leaves_the_site_alone() -> None:
    policy = GranularityPolicy(bits=6.0, ends="free")
    site = site_for(TASK.network(), TASK, CompressionProfile.of(policy), 16)
    mechanism = Granularity(policy)
    mechanism.attach(site)
    twin = site.copy()
    mechanism.project(twin)
    assert {bits for grain in grains(site.network).values() for bits in grain.bits} == {32}
    projected = [bits for grain in grains(twin.network).values() for bits in grain.bits]
    assert max(projected) <= 16
    assert sum(share * bits for share, bits in zip(mechanism._shares, projected, strict=True)) <= 6.0


def test_what_cannot_have_a_precision_is_left_alone_and_counted() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.read = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
            self.two.weight = self.one.weight
            self.encoder = nn.TransformerEncoderLayer(8, 2, 8, batch_first=True)
            self.own, self.last = (
                type("Own", (nn.Linear,), {"forward": lambda s, x: x @ s.weight.t()})(8, 8),
                nn.Linear(8, 4),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.encoder(self.two(self.one(x))[:, None])[:, 0]
            return self.last(self.own(x @ self.read.weight))  # type: ignore[no-any-return]

    class Task(Blobs):
        def network(self) -> nn.Module:
            torch.manual_seed(0)
            return Tied().eval()

    task = Task("mlp")
    site = site_for(task.network(), task, CompressionProfile.of(GranularityPolicy()), 16)
    Granularity(GranularityPolicy()).attach(site)
    assert list(units(site.network)) == ["last"]


def test_a_trial_reports_levels_and_its_table_of_layers_says_the_bits(tmp_path: Path) -> None:
    profile = CompressionProfile.of(GranularityPolicy(bits=6.0), PruningPolicy(sparsity=0.5))
    request = TrialRequest(0, "bits", profile, 0, Budget(epochs=2.0, iterations=2))
    *reports, result = run_trial(request, TASK, ["accuracy", "bops"], {}, checkpoints=tmp_path)
    assert isinstance(result, TrialResult)
    assert result.state == "complete", result.reason
    assert {"granularity/mean_bits", "granularity/decisions", "granularity/overrides"} <= result.metrics.keys()
    bits = {row["layer"]: (row["bits"], row["activation_bits"]) for row in result.layers}
    assert bits["0.weight"] == bits["6.weight"] == (8.0, 8.0)
    assert {pair[0] for pair in bits.values()} <= {16.0, 8.0, 4.0}
    # A rung is scored at the end state, so long before the levels have settled.
    assert all(isinstance(report, Report) and report.scores["bops"] < 78_368 * 1024 / 8 for report in reports)


# -- controllers ----------------------------------------------------------------------------------------------------

LADDERS = st.sampled_from([(16, 8, 4), (32, 16, 8, 4), (8, 4, 2), (8,)])


@st.composite
def views(draw: st.DrawFn, ratio: float | None = None) -> list[View]:
    found = []
    number = draw(st.integers(1, 6))
    for _ in range(number):
        ladder = draw(LADDERS)
        start = draw(st.floats(1e-9, 1e-3))
        noise = tuple(start * 4.0 ** (ladder[0] - bits) for bits in ladder)
        scores = tuple(draw(st.floats(-5, 5)) for _ in ladder)
        now = draw(st.sampled_from((32, *ladder)))
        changed = ratio if ratio is not None else draw(st.floats(0.1, 10))
        found.append(View(1 / number, ladder, now, noise, changed, scores, draw(st.booleans())))
    return found


@settings(max_examples=100, deadline=None)
@given(views(), st.floats(3, 32))
def test_levels_are_of_the_ladder_and_within_the_budget_or_at_their_lowest(given_: list[View], budget: float) -> None:
    for controller in (SignalToNoise(0.1), InputVariance(0.2, 0.8, 0.1), Learned()):
        levels = steady(given_, controller.wanted(given_, budget), budget)
        assert all(level in view.ladder for level, view in zip(levels, given_, strict=True))
        lowest = [view.ladder[-1] for view in given_]
        assert mean(given_, levels) <= max(budget, mean(given_, lowest)) + 1e-6


@settings(max_examples=100, deadline=None)
@given(views(), st.floats(3, 32), st.floats(0, 8))
def test_a_larger_budget_takes_bits_from_nobody(given_: list[View], budget: float, more: float) -> None:
    fresh = [View(v.share, v.ladder, 64, v.noise) for v in given_]
    tight, wide = (SignalToNoise(0.0).wanted(fresh, b) for b in (budget, budget + more))
    assert all(a <= b for a, b in zip(tight, wide, strict=True))


@settings(max_examples=100, deadline=None)
@given(views(ratio=1.0), st.floats(3, 16))
def test_nothing_moves_while_the_input_stays_the_same(given_: list[View], budget: float) -> None:
    for controller in (SignalToNoise(0.1), InputVariance(0.2, 0.8, 0.1)):
        now = [*given_]
        history = []
        for _ in range(6):
            levels = steady(now, controller.wanted(now, budget), budget)
            history.append(levels)
            now = [
                View(v.share, v.ladder, level, v.noise, v.ratio, v.scores) for v, level in zip(now, levels, strict=True)
            ]
        assert history[1:] == history[1:2] * 5


def test_a_wanted_ratio_of_signal_to_noise_by_hand() -> None:
    loud = View(0.5, (16, 8, 4), 32, (1e-8, 1e-4, 1e-2))
    quiet = View(0.5, (16, 8, 4), 32, (1e-9, 1e-5, 1e-3))
    controller = SignalToNoise(0.0)
    assert controller.wanted([loud, quiet], 12.0) == (16, 8)
    assert controller.wanted([loud, quiet], 8.0) == (8, 8)
    assert controller.wanted([loud, quiet], 6.0) == (8, 4)
    assert controller.wanted([loud, quiet], 3.0) == (4, 4)


def test_the_rule_of_variance_by_hand() -> None:
    def at(now: int, ratio: float) -> View:
        return View(0.25, (16, 8, 4), now, (1e-8, 1e-4, 1e-2), ratio)

    controller = InputVariance(0.25, 0.75, 0.0)
    # The quartiles of 0.5, 1, 1, 2 are 0.875 and 1.25.
    assert controller.wanted([at(8, 0.5), at(8, 1.0), at(8, 1.0), at(8, 2.0)], 16.0) == (4, 8, 8, 16)
    assert controller.thresholds() == pytest.approx((0.875, 1.25))
    controller.reset()
    assert controller.thresholds() == (1.0, 1.0)


def test_a_unit_that_is_held_moves_only_for_the_budget() -> None:
    held = View(0.5, (16, 8, 4), 16, (1e-8, 1e-4, 1e-2), held=True)
    free = View(0.5, (16, 8, 4), 16, (1e-8, 1e-4, 1e-2))
    assert steady([held, free], (4, 4), 32.0) == (16, 4)
    assert steady([held, free], (4, 4), 8.0) == (8, 4)
    assert within([held, free], (16, 16), 12.0) == (16, 8)


def test_the_learned_choice_gets_a_gradient_and_follows_the_penalty() -> None:
    policy = GranularityPolicy(controller="learned", penalty=10.0, bits=8.0, ends="free", levels="8-4", settle=1.0)
    site = site_for(TASK.network(), TASK, CompressionProfile.of(policy), 40)
    mechanism = Granularity(policy)
    mechanism.attach(site)
    start = mechanism._logits
    assert start is not None
    before = start.detach().clone()
    penalty = mechanism.penalty()
    assert penalty is not None
    # Softmax of (3, 0): .952574 of 8 bits and .047426 of 4, over all units whose shares add up to 1.
    assert float(penalty.detach()) == pytest.approx(10 * (8 * 0.952574 + 4 * 0.047426), rel=1e-5)
    Finetuning(site, [mechanism], TASK, Recipe(), start=0.05, seed=0).train(until=40, iteration=0)
    # The last layer costs next to nothing, and so is asked for next to nothing.
    assert mechanism._shares[3] < 0.001
    assert (start[:3, 1] > before[:3, 1] + 3).all()
    assert [grain.bits for grain in grains(site.network).values()] == [[4], [4], [4], [8]]


def test_the_penalty_counts_the_bits_that_a_range_takes_beyond_the_signal() -> None:
    policy = GranularityPolicy(penalty=1.0, ends="free")
    task = Blobs("mlp")
    site = site_for(task.network(), task, CompressionProfile.of(policy), 16)
    mechanism = Granularity(policy)
    mechanism.attach(site)
    with torch.no_grad():
        for weight in site.connectivity.weights.values():
            weight.copy_(torch.ones_like(weight))
            weight[:, 0] = 0.0
    penalty = mechanism.penalty()
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(0.0, abs=1e-6)
    with torch.no_grad():
        for weight in site.connectivity.weights.values():
            weight[:, 1] = 2.0
    expected = 0.0
    for share, weight in zip(mechanism._shares, site.connectivity.weights.values(), strict=True):
        on = weight.shape[1] - 1
        expected += share * float(torch.tensor(2 / ((on - 1 + 4) / on) ** 0.5).log2())
    penalty = mechanism.penalty()
    assert penalty is not None
    assert float(penalty.detach()) == pytest.approx(expected, rel=1e-5)


# -- resources ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("controller", ["sqnr", "learned"])
def test_a_budget_that_shrinks_is_kept_within_one_batch(controller: str) -> None:
    policy = GranularityPolicy(controller=controller, bits=8.0, levels="32-16-8-4", ends="free", settle=0.9)
    site = site_for(TASK.network(), TASK, CompressionProfile.of(policy), 16)
    manager = ResourceManager(ResourceBudget(memory=0.9), recorded([Readings(memory=0.8)]))
    site.resources = manager
    mechanism = Granularity(policy)
    mechanism.attach(site)
    loop = Finetuning(site, [mechanism], TASK, Recipe(), start=0.02, seed=0)
    ran: list[list[int]] = []
    first = next(iter(units(site.network).values()))
    first.register_forward_pre_hook(
        lambda *_: ran.append([bits for grain in grains(site.network).values() for bits in grain.bits])
    )
    loop.train(until=2, iteration=0)
    assert manager.overrides == []
    assert max(map(max, ran)) > 8
    manager.budget = ResourceBudget(memory=0.2)
    loop.train(until=3, iteration=0)
    assert max(ran[2]) <= 8
    assert isinstance(manager.overrides[0], Override)
    assert all(o.batch == 2 and o.given < o.wanted for o in manager.overrides)
    assert mechanism.finish()["overrides"] == len(manager.overrides)


# -- what is held ---------------------------------------------------------------------------------------------------


def _held(bits: int, activations: str = "dynamic") -> nn.Module:
    network = nn.Sequential(nn.Linear(4, 2)).requires_grad_(False)
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[127.0, -40.0, 7.0, 0.0], [1.27, 1.27, -1.27, 0.01]]))  # type: ignore[operator]
    replace_units(network, {"0": Grain((2,), [bits], activations, torch.bfloat16, range=torch.tensor(1.0))}, [])
    return network


def test_size_work_and_zeros_count_bits_by_hand() -> None:
    inputs = (torch.ones(3, 4),)
    for bits, activations, off, products in ((8, "dynamic", 1, 64), (4, "dynamic", 3, 32), (4, "none", 3, 128)):
        network = _held(bits, activations)
        cost = count(network, inputs)["0"]
        assert (cost.macs, cost.bops) == (8, 8 * products)
        assert cost.sparse_macs == 8 - off
        assert (weights(network), nonzeros(network)) == (8, 8 - off)
        outcome = Outcome(network, {}, Ledger(), CompressionProfile(), {}, inputs)
        assert parameters(outcome) == 10
        stored = {name: value.numel() * value.element_size() for name, value in network.state_dict().items()}
        assert stored == {f"0.int{bits}": bits, "0.scale": 8, "0.bias": 8}
        assert size_bytes(outcome) > sum(stored.values())
        assert weight_bits(network) == bits


@pytest.mark.parametrize("name", ["static, groups", "dynamic", "learned, channels"])
def test_an_export_computes_the_same_in_a_fresh_process_and_holds_no_pickle(name: str, tmp_path: Path) -> None:
    site, mechanisms = operate(TASK, PROFILES[name], 16)
    network = finalize(site, mechanisms)
    folder = export(
        tmp_path / "out",
        network=network,
        example_inputs=TASK.example_inputs(),
        profile=PROFILES[name],
        metrics={},
        baseline={},
    )
    parity = json.loads((folder / "parity.json").read_text())
    assert parity["process"] == "a fresh process"
    assert parity["max_abs_difference"] == 0.0
    weights_file = (folder / "model.safetensors").read_bytes()
    assert b"\x80\x04\x95" not in weights_file
    assert not [path for path in folder.iterdir() if path.suffix in (".pt", ".pth", ".pkl", ".bin")]
    assert coded(load(folder)).keys() == coded(network).keys() != set()


def test_a_file_that_says_wrong_rows_is_refused() -> None:
    described = describe(_held(8)[0])  # type: ignore[index]
    assert isinstance(build(described), CodedLinear)
    described["args"]["rows"] = {"tuple": [{"tuple": [8, 1]}]}
    with pytest.raises(ExportError, match="bits of all of its 2 rows"):
        build(described)


def test_gradients_pass_through_a_layer_of_codes() -> None:
    layer: Any = _held(8)[0]  # type: ignore[index]
    x = torch.tensor([[0.5, -0.25, 1.0, 0.0]], requires_grad=True)
    layer(x)[0, 1].backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad[0], layer.values()[1])
    with torch.no_grad():
        assert torch.equal(layer(x), layer.run(x))


# -- layers that go on choosing -------------------------------------------------------------------------------------


def test_a_layer_that_moves_goes_by_earlier_batches_and_can_be_taken_back() -> None:
    policy = GranularityPolicy.from_values({**ALONE["dynamic"], "ends": "free"})
    site, mechanisms = operate(TASK, CompressionProfile.of(policy), 16)
    network = finalize(site, mechanisms)
    (x,) = TASK.example_inputs()
    layers = moving(network)
    start = {name: layer.present() for name, layer in layers.items()}
    with torch.no_grad():
        expected = network(x)
        for _ in range(4):
            network(8 * x)
        loud = {name: layer.present() for name, layer in layers.items()}
        # Scaled inputs in the range of the codes give scaled sums: only the levels can have changed.
        assert loud["0"] >= start["0"]
        assert loud != start
        for layer in layers.values():
            layer.reset()
        assert {name: layer.present() for name, layer in layers.items()} == start
        torch.testing.assert_close(network(x), expected, rtol=0, atol=0)


def test_a_finished_network_is_held_to_a_budget_within_one_batch() -> None:
    policy = GranularityPolicy.from_values({**ALONE["dynamic"], "ends": "free", "bits": 8.0})
    site, mechanisms = operate(TASK, CompressionProfile.of(policy), 16)
    network = finalize(site, mechanisms)
    manager = ResourceManager(ResourceBudget(bits=8), recorded([Readings()]))
    handle = govern(network, manager)
    (x,) = TASK.example_inputs()
    with torch.no_grad():
        network(x)
        assert manager.overrides == []
        manager.budget = ResourceBudget(bits=2)
        network(x)
    assert all(layer.present() == [2] for layer in moving(network).values())
    assert manager.overrides
    handle.remove()
