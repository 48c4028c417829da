"""The wave, the controller and what they make of a plant: the sparsity comes to its target before any projection."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from search.surgery.resonance_controller import SLOWEST, AmplitudeController, TargetPath, rise_of
from search.surgery.resonance_layer import LayerMemory
from search.surgery.resonance_rank import Ranking
from search.surgery.resonance_reference import Reference
from search.surgery.resonance_spectrum import Signal
from search.surgery.resonance_wave import wave_at

SHAPES = ("sine", "triangle", "saw")


@given(st.sampled_from(SHAPES), st.integers(1, 6), st.integers(1, 4), st.integers(0, 500))
def test_a_wave_repeats_on_its_levels_and_reaches_its_crest(shape: Any, bits: Any, stretch: Any, at: Any) -> None:
    levels = 2**bits - 1
    period = stretch * levels
    values = [wave_at(d, shape=shape, bits=bits, period=period) for d in range(period)]
    assert wave_at(at, shape=shape, bits=bits, period=period) == values[at % period]
    assert max(values) == 1
    assert {round(v * (levels - 1), 9) for v in values} <= set(map(float, range(levels)))


def test_waves_by_hand() -> None:
    def wave(shape: str) -> list[float]:
        return [wave_at(d, shape=shape, bits=2, period=6) for d in range(6)]

    # Three levels, two decisions each: 0, 1/2, 1.
    assert wave("saw") == [0, 0, 0.5, 0.5, 1, 1]
    # At the middles 1/12, 3/12 ... the triangle is at 1/6, 3/6, 5/6, 5/6, 3/6, 1/6: thirds are 0, 1, 2, 2, 1, 0.
    assert wave("triangle") == [0, 0.5, 1, 1, 0.5, 0]
    # The raised sine is at 3/4, 1, 3/4, 1/4, 0, 1/4.
    assert wave("sine") == [1, 1, 1, 0, 0, 0]


def test_more_bits_are_finer() -> None:
    for shape in SHAPES:
        assert len({wave_at(d, shape=shape, bits=4, period=15 * 8) for d in range(120)}) == 15


def test_the_controller_by_hand() -> None:
    controller = AmplitudeController(base=0.25, kp=0.5, ki=0.1)
    # .8 - .25 = .55 forward, .5 * .1 + .1 * .1 of the error.
    assert controller.amplitude(0.8, 0.1) == pytest.approx(0.61)
    # The integral is .1 now, and .05 with this error.
    assert controller.amplitude(0.8, -0.05) == pytest.approx(0.55 - 0.025 + 0.1 * 0.05)
    assert controller.integral == pytest.approx(0.05)
    assert controller.clipped == 0


@given(st.floats(0, 0.9), st.floats(0, 5), st.floats(0, 1), st.lists(st.floats(-1, 1), max_size=40), st.floats(0, 1))
def test_the_amplitude_stays_within_its_bounds(base: Any, kp: Any, ki: Any, errors: Any, target: Any) -> None:
    controller = AmplitudeController(base, kp, ki)
    for error in errors:
        assert 0 <= controller.amplitude(target, error) <= 1 - base


@given(st.floats(0, 0.5), st.integers(1, 200))
def test_the_integral_does_not_wind_up_at_a_limit(base: Any, stuck: Any) -> None:
    controller = AmplitudeController(base, kp=0.2, ki=0.1)
    for _ in range(stuck):
        assert controller.amplitude(1.0, 0.5) == 1 - base
    assert controller.integral == 0
    assert controller.clipped == stuck
    # The first error the other way is answered at once.
    assert controller.amplitude(1.0, -0.1) < 1 - base


@given(st.floats(0.3, 0.98), st.integers(1, 60), st.lists(st.floats(0, 1), max_size=10))
def test_the_target_never_falls_and_is_reached(final: Any, rise: Any, scores: Any) -> None:
    path = TargetPath(final, rise)
    before = 0.0
    for decision in range(rise):
        if scores and decision % 3 == 0:
            path.steer(scores[decision % len(scores)])
        target = path.advance(decision)
        assert before <= target <= final
        before = target
    assert path.advance(rise) == before == final


def test_a_falling_accuracy_slows_the_target() -> None:
    steady, falling = TargetPath(0.9, 20), TargetPath(0.9, 20)
    for path, last in ((steady, 0.8), (falling, 0.7)):
        path.steer(0.8)
        path.steer(last)
    assert falling.pace == 0.5
    assert [falling.advance(d) for d in range(5)] < [steady.advance(d) for d in range(5)]
    for score in (0.6, 0.5, 0.4):
        falling.steer(score)
    assert falling.pace == SLOWEST
    falling.steer(0.5)
    assert falling.pace == 2 * SLOWEST


def test_the_rise_leaves_a_wave_to_settle_in() -> None:
    assert rise_of(60, 7, 2) == 51
    assert rise_of(10, 63, 8) == 5


def plant(base: float, target: float, shape: str, noisy: float, decisions: int = 60) -> list[float]:
    """The sparsity after each decision, of a layer in which the share `noisy` has a new frequency at every look."""
    generator = torch.Generator().manual_seed(0)
    size, period, cooling, hysteresis = 4096, 7, 2, 0.05
    keys, noise = torch.rand(size, generator=generator), torch.rand(size, generator=generator) < noisy
    weight = nn.Parameter(torch.ones(size))
    memory, mask, reference = LayerMemory(weight), torch.ones(size, dtype=torch.bool), Reference(cooling)
    controller = AmplitudeController(base, kp=0.2, ki=0.15)
    path = TargetPath(target, rise_of(decisions, period, cooling))
    found: list[float] = []
    for decision in range(decisions):
        key = torch.where(noise, torch.rand(size, generator=generator), keys)
        ranking = Ranking(key, Signal(key, noise, torch.zeros_like(noise)))
        wanted, wave = path.advance(decision), wave_at(decision, shape=shape, bits=3, period=period)
        amplitude = controller.amplitude(wanted, reference.sparsity - (found[-1] if found else 0.0))
        for decide, height in ((None, amplitude), (reference.decide, controller.forward(wanted))):
            threshold, crest = base + height * wave, base + height
            returning = crest + hysteresis * (1 - crest)
            if decide is not None:
                decide(threshold, returning)
                continue
            switch = memory.decide(mask, ranking.reaches(threshold), ranking.reaches(returning), cooling)
            memory.switched(weight, switch.disable, switch.restore, stored=False)
            mask = (mask & ~switch.disable) | switch.restore
        found.append(1 - float(mask.float().mean()))
    return found


@pytest.mark.parametrize("target", [0.6, 0.8, 0.95])
@pytest.mark.parametrize("base", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("noisy", [0.05, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_plant_settles_within_a_hundredth_of_its_target(target: Any, base: Any, noisy: Any, shape: Any) -> None:
    found = plant(base, target, shape, noisy)
    assert abs(sum(found[-7:]) / 7 - target) < 0.01


def test_without_the_controller_the_plant_misses() -> None:
    # The same feed-forward alone: what the loop is there for.
    class Open(AmplitudeController):
        def amplitude(self, target: float, error: float) -> float:
            return self.forward(target)

    original = globals()["AmplitudeController"]
    globals()["AmplitudeController"] = Open
    try:
        found = plant(0.25, 0.6, "sine", 1.0)
    finally:
        globals()["AmplitudeController"] = original
    assert abs(sum(found[-7:]) / 7 - 0.6) > 0.02
