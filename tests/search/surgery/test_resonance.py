"""Resonance at work: what it does to single connections."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from search.finetune import Finetuning
from search.recipe import Recipe
from search.surgery.mechanism import Clock
from search.surgery.mechanisms import mechanisms_for
from search.surgery.resonance import Resonance
from search.surgery.resonance_layer import LayerMemory
from search.surgery.resonance_rank import by_magnitude, ranking
from search.surgery.resonance_record import COLUMNS
from search.surgery.resonance_spectrum import Signal
from search.surgery.site import Site
from spaces import PruningPolicy, ResonancePolicy
from spaces.profile import CompressionProfile
from tests.nets import Blobs
from tests.search.surgery.harness import operate, site_for
from tests.search.surgery.test_resonance_laws import DEFAULT, PROFILES, RESONANCE, STEPS

TASK = Blobs()


# -- the end ----------------------------------------------------------------------------------------------------------


def off(site: Site) -> int:
    return site.connectivity.size - sum(site.connectivity.active.values())


@pytest.mark.parametrize("profile", [PROFILES[n] for n in (*RESONANCE, "with reconnection")])
def test_the_end_is_exact(profile: Any) -> None:
    site, mechanisms = operate(TASK, profile, STEPS)
    policy = profile.get(ResonancePolicy)
    assert off(site) == round(policy.sparsity * site.connectivity.size)
    assert mechanisms[-1].finish()["active"] == site.connectivity.size - off(site)


@pytest.mark.parametrize(("pruned", "resonant"), [(0.6, 0.8), (0.9, 0.8)])
@pytest.mark.parametrize("last_prune", [0.5, 0.9])
def test_beside_pruning_the_sparser_of_the_two_holds(pruned: Any, resonant: Any, last_prune: Any) -> None:
    profile = CompressionProfile.of(
        PruningPolicy(sparsity=pruned, last_prune=last_prune),
        ResonancePolicy(history=16, sparsity=resonant, every=0.05),
    )
    site, _ = operate(TASK, profile, STEPS)
    assert off(site) == round(max(pruned, resonant) * site.connectivity.size)


def test_what_pruning_has_cut_stays_cut() -> None:
    profile = CompressionProfile.of(PruningPolicy(sparsity=0.5, schedule="oneshot"), DEFAULT)
    cut: dict[str, Tensor] = {}

    def look(site: Site) -> None:
        if not cut:
            cut.update({name: ~mask for name, mask in site.connectivity.masks.items()})
        for name, where in cut.items():
            assert not (where & site.connectivity.masks[name]).any()

    site, mechanisms = operate(TASK, profile, STEPS, look)
    assert sum(int(where.count_nonzero()) for where in cut.values()) == round(0.5 * site.connectivity.size)
    assert mechanisms[-1].finish()["disabled"] > 0


def test_a_pattern_holds_to_the_end() -> None:
    site, _ = operate(TASK, PROFILES["with patterns and reconnection"], STEPS)
    for mask in site.connectivity.masks.values():
        if mask.ndim == 2 and mask.shape[1] % 4 == 0:
            assert int(mask.reshape(mask.shape[0], -1, 4).sum(-1).max()) <= 2


def test_no_layer_is_emptied() -> None:
    site, _ = operate(TASK, CompressionProfile.of(DEFAULT.changed({"sparsity": 0.99})), STEPS)
    assert all(active >= 1 for active in site.connectivity.active.values())


def test_excluded_layers_are_left_alone() -> None:
    site, mechanisms = operate(TASK, CompressionProfile.of(DEFAULT.changed({"exclude": "both"})), STEPS)
    names = list(site.connectivity.masks)
    assert site.connectivity.masks[names[0]].all()
    assert site.connectivity.masks[names[-1]].all()
    governed = sum(site.connectivity.masks[name].numel() for name in names[1:-1])
    assert mechanisms[0].finish()["governed"] == governed
    assert off(site) == round(0.8 * governed)


def test_early_and_late_ends_are_projected_alike() -> None:
    """A rung compares end states: at any step, a copy is brought to the exact end, and the network is left as it is."""
    for t_end in (0.6, 0.9):
        site = site_for(TASK.network(), TASK, CompressionProfile.of(DEFAULT.changed({"t_end": t_end})), STEPS)
        (mechanism,) = mechanisms_for(site.profile)
        mechanism.attach(site)
        loop = Finetuning(site, [mechanism], TASK, Recipe(), start=0.05, seed=0)
        for until in (0, 10, 30):
            loop.train(until=until, iteration=0)
            before = off(site)
            twin = site.copy()
            mechanism.project(twin)
            assert off(twin) == round(0.8 * site.connectivity.size)
            assert off(site) == before


def test_a_budget_too_short_for_a_history_ends_exact_by_magnitude() -> None:
    profile = CompressionProfile.of(DEFAULT)
    site, mechanisms = operate(TASK, profile, 8)
    receipt = mechanisms[0].finish()
    assert receipt["decisions"] == 0
    assert receipt["projected"] == off(site) == round(0.8 * site.connectivity.size)


# -- what it tells ----------------------------------------------------------------------------------------------------


def test_the_receipt_and_the_trace_agree_with_the_books() -> None:
    site, mechanisms = operate(TASK, PROFILES["lag1 stored band"], 200)
    resonance = mechanisms[0]
    assert isinstance(resonance, Resonance)
    receipt, trace = resonance.finish(), json.loads(json.dumps(resonance.trace()))
    rows = [dict(zip(trace["columns"], row, strict=True)) for row in trace["decisions"]]
    assert tuple(trace["columns"]) == COLUMNS
    ledger = site.connectivity.ledger()
    created = sum(e.created for e in ledger.events if e.reason == "resonance")
    pruned = sum(e.pruned for e in ledger.events if e.reason == "resonance")
    assert created == receipt["restored"] == receipt["stored"] == sum(row["restored"] for row in rows) > 0
    assert pruned == receipt["disabled"] == sum(row["disabled"] for row in rows) > 0
    assert receipt["decisions"] == len(rows) == len(site.profile.get(ResonancePolicy).decision_steps(200))  # type: ignore[union-attr]
    last = [row["sparsity"] for row in rows[-7:]]
    assert receipt["before_projection"] == pytest.approx(sum(last) / 7)
    assert abs(receipt["before_projection"] - 0.7) <= receipt["projection"] + 0.05
    for name, mask in site.connectivity.masks.items():
        # Every peak counts here, so each connection with a gradient that moves stands in one class.
        assert sum(trace["spectra"][name]) <= mask.numel()
        assert len(trace["thresholds"][name]) == len(rows)
        assert all(0 <= cycles <= 0.5 for cycles in trace["thresholds"][name])
    figures = resonance.figures()
    assert figures["threshold"] == rows[-1]["threshold"]
    shares = [value for key, value in figures.items() if key.startswith("spectrum/")]
    assert len(shares) == 16
    assert 0.5 < sum(shares) < 1 + 1e-6


def test_thirty_two_entries_take_at_most_48_bytes_a_weight() -> None:
    weight = nn.Linear(640, 400)

    class Large(Blobs):
        def network(self) -> nn.Module:
            return nn.Sequential(nn.Linear(8, 640), nn.ReLU(), weight, nn.ReLU(), nn.Linear(400, 4))

        def example_inputs(self) -> tuple[Tensor, ...]:
            return (torch.zeros(2, 8),)

    for estimator, most in (("fft", 48), ("lag1", 26)):
        policy = ResonancePolicy(history=32, average=2, estimator=estimator)
        site = site_for(Large().network(), Large(), CompressionProfile.of(policy), 1000)
        resonance = Resonance(policy)
        resonance.attach(site)
        held = sum(t.numel() * t.element_size() for t in resonance.state().values())
        total = site.connectivity.size
        assert held / total <= most
        assert resonance.finish()["bytes_per_weight"] == pytest.approx(held / total, rel=0.05)


def test_nothing_is_held_once_it_has_settled() -> None:
    _, mechanisms = operate(TASK, PROFILES["default"], STEPS)
    assert not [key for key in mechanisms[0].state() if key.startswith(("history", "count", "stored"))]


# -- single connections -----------------------------------------------------------------------------------------------


class Driven:
    """One layer whose gradients are given, step by step, instead of coming from a loss."""

    def __init__(self, policy: ResonancePolicy, gradients: Tensor, weights: Tensor) -> None:
        self.policy, self.gradients = policy, gradients

        class Task(Blobs):
            def network(self) -> nn.Module:
                layer = nn.Linear(weights.numel(), 1, bias=False)
                layer.weight.data.copy_(weights)
                return nn.Sequential(layer, nn.Flatten())

            def example_inputs(self) -> tuple[Tensor, ...]:
                return (torch.zeros(2, weights.numel()),)

        task = Task()
        self.site = site_for(task.network(), task, CompressionProfile.of(policy), len(gradients))
        self.resonance = Resonance(policy)
        self.resonance.attach(self.site)
        (self.name,) = self.site.connectivity.weights

    def steps(self) -> Iterator[tuple[int, Tensor]]:
        """Every step's number, and the mask after it."""
        weight = self.site.connectivity.weights[self.name]
        for step, gradient in enumerate(self.gradients):
            weight.grad = gradient.view_as(weight).clone()
            self.resonance.after_backward(Clock(step, len(self.gradients), 0))
            yield step, self.site.connectivity.masks[self.name].flatten().clone()

    def last(self) -> Tensor:
        """The mask after the last step."""
        return [mask for _, mask in self.steps()][-1]


def oscillating(cycles: Tensor, steps: int) -> Tensor:
    time = torch.arange(steps, dtype=torch.float64)
    return (2 * math.pi * torch.outer(time, cycles.double()) + 1).cos().float()


@pytest.mark.parametrize(("keep", "kept"), [("high", (5, 6, 7)), ("low", (1, 2, 3)), ("band", (3, 4, 5))])
def test_the_frequencies_that_the_policy_keeps_are_kept(keep: Any, kept: Any) -> None:
    bins = torch.arange(1, 8).repeat(40)
    policy = ResonancePolicy(history=16, average=1, every=0.02, sparsity=4 / 7, keep=keep, base=0.2)
    driven = Driven(policy, oscillating(bins / 16, 128), torch.ones(280))
    mask = driven.last()
    # Of magnitudes nothing is to be seen: all are 1. Three of seven frequencies stay, 120 connections.
    assert int(mask.sum()) == 120
    assert set(bins[mask].tolist()) == set(kept)


def test_steady_connections_are_protected() -> None:
    gradients = oscillating(torch.full((200,), 3 / 16), 128)
    gradients[:, :20] = 1.0
    driven = Driven(ResonancePolicy(history=16, average=1, every=0.02, sparsity=0.9), gradients, torch.ones(200))
    for _, mask in driven.steps():
        assert mask[:20].all()
    assert int(mask.sum()) == 20


@pytest.mark.parametrize("cooling", [1, 2, 4])
def test_a_connection_goes_after_its_cooling_and_comes_back_no_sooner(cooling: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    policy = ResonancePolicy(
        history=16, average=1, every=0.02, sparsity=0.5, significance="off", cooling=cooling, hysteresis=0.0
    )
    driven = Driven(policy, torch.randn(200, 400, generator=generator), torch.ones(400))
    decisions = policy.decision_steps(200)
    masks = [mask for step, mask in driven.steps() if step in decisions]
    came = 0
    for connection in torch.stack(masks[:-1]).T.tolist():
        # (on, how long) in turn; the last run may be cut short by the end, the first is on before the first decision.
        runs = [(on, len(list(same))) for on, same in itertools.groupby(connection)][:-1]
        for position, (on, decisions_long) in enumerate(runs):
            came += on and position > 0
            # One that goes had so many decisions below the threshold, the last of which switches it off.
            assert decisions_long >= (cooling - 1 if on else cooling)
    assert came > 10
    assert all(mask.all() for mask in masks[: cooling - 1])


@pytest.mark.parametrize("resume", ["zero", "stored"])
def test_what_comes_back_is_zero_or_what_it_was(resume: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    policy = ResonancePolicy(history=16, average=1, every=0.02, sparsity=0.5, significance="off", resume=resume)
    weights = torch.rand(400, generator=generator) + 0.5
    driven = Driven(policy, torch.randn(200, 400, generator=generator), weights)
    before, seen = torch.ones(400, dtype=torch.bool), 0
    weight = driven.site.connectivity.weights[driven.name]
    was = weights.clone()
    for _, mask in driven.steps():
        values = weight.detach().flatten()
        gone, back = before & ~mask, mask & ~before
        assert not values[gone].any()
        seen += int(back.sum())
        assert torch.equal(values[back], was[back] if resume == "stored" else torch.zeros(int(back.sum())))
        if resume == "zero":
            was[back] = 0
        before = mask
    assert seen > 20
    assert driven.resonance.finish()["stored"] > 0 if resume == "stored" else True


def test_controls_switch_as_many_but_others() -> None:
    generator = torch.Generator().manual_seed(0)
    gradients, weights = torch.randn(200, 400, generator=generator), torch.rand(400, generator=generator) + 0.5
    figures: dict[str, list[Any]] = {}
    masks: dict[str, Tensor] = {}
    for criterion in ("resonance", "magnitude", "random"):
        policy = ResonancePolicy(
            history=16, average=1, every=0.02, sparsity=0.6, significance="off", criterion=criterion
        )
        driven = Driven(policy, gradients, weights)
        masks[criterion] = driven.last()
        rows = driven.resonance.record.decisions
        figures[criterion] = [sum(row.disabled for row in rows), sum(row.restored for row in rows)]
        # The first decision that switches anything finds all three in the same state.
        first = next(row for row in rows if row.disabled)
        figures[criterion].append(first.disabled)
    assert len({figure[2] for figure in figures.values()}) == 1
    for figure in figures.values():
        assert figure[0] == pytest.approx(figures["resonance"][0], rel=0.35)
    assert len({tuple(mask.tolist()) for mask in masks.values()}) == 3
    # The control by magnitude keeps the large ones, resonance does not look at them where every peak counts.
    assert weights[masks["magnitude"]].mean() > weights[masks["resonance"]].mean() + 0.1


def test_the_layout_in_memory_does_not_matter() -> None:
    shape = (8, 6, 3, 3)
    generator = torch.Generator().manual_seed(0)
    plain = nn.Parameter(torch.randn(shape, generator=generator))
    last = nn.Parameter(plain.detach().clone().to(memory_format=torch.channels_last))
    mask = torch.rand(shape, generator=generator) < 0.5
    for weight in (plain, last):
        memory = LayerMemory(weight)
        assert torch.equal(memory.shaped(memory.flat(mask)), mask)
        assert torch.equal(memory.shaped(memory.magnitude(weight)), weight.abs())
    # The flat order is that of the memory: no copy is made.
    assert LayerMemory(last).flat(last.detach()).data_ptr() == last.data_ptr()


def test_positions_are_spread_evenly_and_ties_go_by_magnitude() -> None:
    frequency = torch.tensor([0.1, 0.2, 0.2, 0.3, 0.0, 0.0, 0.0, 0.4])
    resonant = torch.tensor([True, True, True, True, False, False, False, True])
    steady = torch.tensor([False, False, False, False, False, False, True, False])
    magnitude = torch.tensor([9.0, 2.0, 1.0, 1.0, 3.0, 2.0, 0.0, 1.0])
    ranked = ranking(Signal(frequency, resonant, steady), magnitude, "high")
    # Five resonant ones in fifths, two plain ones in halves, the steady one above all.
    torch.testing.assert_close(ranked.positions(), torch.tensor([0.0, 0.4, 0.2, 0.6, 0.5, 0.0, 1.0, 0.8]))
    assert ranked.reaches(0.6).tolist() == [False, False, False, True, True, False, True, True]
    assert ranked.reaches(0.0).all()
    assert ranked.reaches(1.0).tolist() == steady.tolist()


def test_quantiles_of_large_layers_come_close() -> None:
    magnitude = torch.rand(300_000, generator=torch.Generator().manual_seed(0))
    ranked = by_magnitude(magnitude)
    for quantile in (0.1, 0.5, 0.95):
        assert float(ranked.reaches(quantile).float().mean()) == pytest.approx(1 - quantile, abs=0.005)
