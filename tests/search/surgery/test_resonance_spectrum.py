"""Frequencies of gradients: planted ones are found, noise is what it is, and what is steady is told apart."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from search.surgery.resonance_history import GradientHistory, blocks_of
from search.surgery.resonance_lag import LagHistory
from search.surgery.resonance_spectrum import Signal, basis, critical_g, ordinates, signal_of


def heard(series_TC: Tensor, length: int = 32, average: int = 1, significance: float | None = 0.05) -> Signal:
    """The signal of connections (columns) whose gradients over time are the rows."""
    weight = nn.Parameter(torch.zeros(series_TC.shape[1]))
    history = GradientHistory({"w": weight}, length, average)
    for gradient in series_TC:
        history.record({"w": gradient})
    assert history.full
    return signal_of(history, "w", weight.numel(), significance)


def sinusoids(frequencies: Tensor, steps: int) -> Tensor:
    """(steps, connections): one frequency each, in cycles per step, each with a phase of its own."""
    time = torch.arange(steps, dtype=torch.float64)
    phase = torch.linspace(0, 6, len(frequencies), dtype=torch.float64)
    return (2 * math.pi * torch.outer(time, frequencies.double()) + phase).sin().float()


@pytest.mark.parametrize("length", [16, 32, 64])
@pytest.mark.parametrize("average", [1, 4])
def test_planted_sinusoids_are_found_in_their_bin(length: Any, average: Any) -> None:
    bins = torch.arange(1, ordinates(length) + 1).repeat_interleave(3)
    planted = bins / (length * average)
    # More steps than the history holds: it is a ring. The gradients are as small as real ones.
    series = 1e-6 * sinusoids(planted, (length + 5) * average)
    signal = heard(series, length, average)
    assert signal.resonant.all()
    torch.testing.assert_close(signal.frequency, planted)
    assert not signal.steady.any()


def test_a_planted_sinusoid_is_found_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    planted = torch.full((2000,), 5 / 32)
    noise = torch.randn(32, 2000, generator=generator)
    signal = heard(math.sqrt(2) * sinusoids(planted, 32) + noise)
    # A signal as strong as the noise: its ordinate is N/2 times the noise's mean.
    assert signal.resonant.float().mean() > 0.95
    assert (signal.frequency[signal.resonant] == 5 / 32).float().mean() > 0.99


@pytest.mark.parametrize("length", [16, 32, 64])
@pytest.mark.parametrize("significance", [0.05, 0.01])
def test_white_noise_is_flagged_at_its_nominal_rate(length: Any, significance: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    noise = torch.randn(length, 40_000, generator=generator)
    found = float(heard(noise, length, significance=significance).resonant.float().mean())
    # Four standard deviations of a share over 40,000 draws.
    assert abs(found - significance) < 4 * math.sqrt(significance * (1 - significance) / 40_000)


def test_noise_of_all_sizes_side_by_side_is_flagged_at_that_rate_too() -> None:
    # A block shares a scale: what is a tenth of its neighbours is told with a tenth of the steps.
    generator = torch.Generator().manual_seed(2)
    sizes = torch.logspace(-1, 0, 40_000)[torch.randperm(40_000, generator=generator)]
    noise = sizes * torch.randn(32, 40_000, generator=generator)
    assert abs(float(heard(noise).resonant.float().mean()) - 0.05) < 0.005


@pytest.mark.parametrize("significance", [0.05, 0.01])
def test_lag_1_flags_white_noise_at_its_nominal_rate(significance: Any) -> None:
    generator = torch.Generator().manual_seed(3)
    history = LagHistory({"w": nn.Parameter(torch.zeros(40_000))}, 64, 1)
    for gradient in torch.randn(256, 40_000, generator=generator):
        history.record({"w": gradient})
    found = float(history.signal("w", significance).resonant.float().mean())
    # The bound takes rho for normal, which is a little strict far out.
    assert 0.6 * significance < found < 1.1 * significance


def test_every_peak_counts_where_significance_is_off() -> None:
    noise = torch.randn(32, 500, generator=torch.Generator().manual_seed(4))
    assert heard(noise, significance=None).resonant.all()


@given(st.sampled_from([16, 32, 64]), st.floats(0.001, 0.2))
def test_fishers_bound_is_exceeded_with_that_probability(length: Any, significance: Any) -> None:
    m, g = ordinates(length), critical_g(length, significance)
    terms = [(-1) ** (j - 1) * math.comb(m, j) * (1 - j * g) ** (m - 1) for j in range(1, m + 1) if j * g < 1]
    assert math.fsum(terms) == pytest.approx(significance, rel=1e-6)


def test_fishers_bound_by_hand_and_by_his_table() -> None:
    # Two ordinates: P(g > x) = 2 (1 - x) for x >= 1/2. Three: 3 (1 - x)^2 there.
    assert critical_g(6, 0.05) == pytest.approx(0.975)
    assert critical_g(8, 0.05) == pytest.approx(1 - math.sqrt(0.05 / 3))
    assert critical_g(32, 0.05) == pytest.approx(0.33462, abs=5e-5)


@pytest.mark.parametrize("length", [16, 31, 32])
def test_the_basis_keeps_power(length: Any) -> None:
    x = torch.randn(length, 5, generator=torch.Generator().manual_seed(5))
    transform = basis(length) @ x
    m = ordinates(length)
    expected = torch.fft.fft(x, dim=0)
    power = transform[:m] ** 2 + transform[m : 2 * m] ** 2
    torch.testing.assert_close(power, expected[1 : m + 1].abs() ** 2, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(transform[-2], expected[0].real, rtol=1e-4, atol=1e-4)
    whole = 2 * power.sum(0) + transform[-2] ** 2 + transform[-1] ** 2
    torch.testing.assert_close(whole, length * (x**2).sum(0), rtol=1e-4, atol=1e-4)


def test_constant_alternating_and_silent_gradients_have_no_frequency() -> None:
    alternating = torch.tensor([1.0, -1.0]).repeat(16)
    series = torch.stack([torch.ones(32), alternating, torch.zeros(32)], dim=1)
    signal = heard(series)
    # Nyquist's frequency is left out, as DC is: neither is an oscillation that a history can tell from its sampling.
    assert signal.resonant.tolist() == [False, False, False]
    assert signal.steady.tolist() == [True, False, False]


@pytest.mark.parametrize(("mean", "steady"), [(1.1, True), (0.9, False), (-1.1, True)])
def test_steady_is_a_mean_above_one_standard_deviation(mean: Any, steady: Any) -> None:
    # A sinusoid of amplitude sqrt 2 has a standard deviation of 1.
    series = mean + math.sqrt(2) * sinusoids(torch.full((4,), 0.25), 32)
    assert (heard(series).steady == steady).all()
    lags = LagHistory({"w": nn.Parameter(torch.zeros(4))}, 32, 1)
    for gradient in series.repeat(8, 1):
        lags.record({"w": gradient})
    assert (lags.signal("w", 0.05).steady == steady).all()


@pytest.mark.parametrize("frequency", [0.05, 0.125, 0.25, 0.4])
@pytest.mark.parametrize("average", [1, 2])
def test_lag_1_finds_the_frequency_of_a_sinusoid(frequency: Any, average: Any) -> None:
    history = LagHistory({"w": nn.Parameter(torch.zeros(3))}, 64, average)
    for gradient in sinusoids(torch.full((3,), frequency), 512).repeat_interleave(average, dim=0):
        history.record({"w": gradient})
    found = history.signal("w", None).frequency * average
    torch.testing.assert_close(found, torch.full((3,), frequency), atol=0.01, rtol=0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**31))
def test_an_entry_is_off_by_half_a_step_of_its_block_at_most(connections: Any, seed: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    gradient = torch.randn(connections, generator=generator) * torch.rand(connections, generator=generator) ** 8
    history = GradientHistory({"w": nn.Parameter(torch.zeros(connections))}, 16, 1)
    for _ in range(16):
        history.record({"w": gradient})
    blocks, block = blocks_of(connections)
    for first, until, ring_KNB, scale_KN in history.pieces("w"):
        told = (ring_KNB * scale_KN.unsqueeze(2))[:, 7].flatten()[: connections - first]
        part = gradient[first:until]
        step = scale_KN[:, 7].repeat_interleave(block)[: len(part)]
        assert ((told - part).abs() <= 0.501 * step).all()
    assert blocks * block - connections < blocks


def test_frequencies_do_not_depend_on_the_size_of_the_gradients() -> None:
    series = torch.randn(32, 700, generator=torch.Generator().manual_seed(6))
    small, large = heard(series * 2.0**-30), heard(series * 2.0**20)
    assert torch.equal(small.frequency, large.frequency)
    assert torch.equal(small.steady, large.steady)


def test_a_gap_forgets_half_made_entries() -> None:
    history = GradientHistory({"w": nn.Parameter(torch.zeros(1))}, 16, 2)
    history.record({"w": torch.tensor([100.0])})
    history.restart()
    for _ in range(32):
        history.record({"w": torch.tensor([1.0])})
    assert history.full
    ((_, _, ring, scale),) = history.pieces("w")
    assert torch.equal(ring * scale.unsqueeze(2), torch.full((1, 16, 1), 2.0))
