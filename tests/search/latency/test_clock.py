"""Calls are timed in turn, and a call's own work is told from its waiting."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from search.latency.batching import batch_of
from search.latency.clock import WARM_UP, paired, percentile


def work(rounds: int) -> Callable[[], object]:
    return lambda: sum(range(rounds))


def test_four_times_the_work_is_four_times_as_slow() -> None:
    slow, fast = paired([work(40_000), work(10_000)], seconds=0.3)
    assert slow.speedup == 1.0
    assert 3.0 < fast.speedup < 5.5
    assert slow.repeats == fast.repeats >= 20
    assert slow.p50_ms <= slow.p95_ms


def test_waiting_is_on_the_clock_and_not_in_the_work() -> None:
    (timing,) = paired([lambda: time.sleep(0.003)], seconds=0.0)
    assert timing.p50_ms >= 3.0
    assert timing.busy_ms < 1.0


def test_of_several_threads_only_the_clock_is_known() -> None:
    (timing,) = paired([work(1000)], seconds=0.0, threads=2)
    assert timing.busy_ms == timing.p50_ms


def test_every_round_runs_every_call_once_and_begins_with_another() -> None:
    order: list[str] = []
    paired([lambda: order.append("a"), lambda: order.append("b")], seconds=0.0, least=4)
    warm = 2 * WARM_UP
    assert order[warm : warm + 8] == ["a", "b", "b", "a", "a", "b", "b", "a"]


@pytest.mark.parametrize(("share", "value"), [(0.5, 2.0), (0.95, 4.0), (0.25, 1.0), (1.0, 4.0)])
def test_a_percentile_is_a_value_that_so_many_do_not_exceed(share: float, value: float) -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], share) == value


@given(st.integers(1, 9), st.integers(1, 20))
def test_a_batch_repeats_the_samples_in_order(samples: int, size: int) -> None:
    x = torch.arange(samples * 3).reshape(samples, 3)
    (made,) = batch_of((x,), size)
    assert made.shape == (size, 3)
    assert all(torch.equal(made[i], x[i % samples]) for i in range(size))
