"""How long calls take: several of them in turn, so that whatever else the machine does hits all alike.

Of a call on one thread the processor's time is taken beside the clock's: the same on an idle machine, and on a busy one
what the call itself took.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import torch

Call = Callable[[], object]
#: A figure from fewer repeats says little about the 95th percentile.
LEAST = 20
MOST = 2_000
#: Calls that are not counted: caches fill, memory is laid out, clocks rise.
WARM_UP = 3


@dataclass(frozen=True)
class Timing:
    """What was measured of one call.

    Args:
        p50_ms: Median on the clock, milliseconds.
        p95_ms: 95th percentile on the clock.
        busy_ms: Median of the processor's time where one thread runs on the CPU, else `p50_ms`.
        repeats: Counted calls.
        speedup: Median over the rounds of the first call's time by this one's, busy time where it is known; 1 for the
            first itself.
    """

    p50_ms: float
    p95_ms: float
    busy_ms: float
    repeats: int
    speedup: float = 1.0

    def to_dict(self) -> dict[str, float]:
        """A JSON-able form."""
        return asdict(self)


def paired(
    calls: Sequence[Call], *, seconds: float = 1.0, device: str = "cpu", threads: int = 1, least: int = LEAST
) -> list[Timing]:
    """Time calls in rounds: each round runs every call once, every round begins with another one.

    Args:
        calls: The first is what the others are compared with.
        seconds: What all rounds together should take, warm-up not counted.
        device: ``cuda`` is timed by events on the stream, everything else by the clock.
        threads: Of a call.
        least: At least so many rounds, however long they take.

    Returns:
        One timing per call, in order.
    """
    one = _on_cuda if device.startswith("cuda") else _on_clock if threads > 1 else _on_thread
    for call in calls:
        for _ in range(WARM_UP):
            one(call)
    times: list[list[tuple[float, float]]] = [[] for _ in calls]
    began = time.perf_counter()
    for round_ in range(MOST):
        if round_ >= least and time.perf_counter() - began > seconds:
            break
        for place in range(len(calls)):
            index = (place + round_) % len(calls)
            times[index].append(one(calls[index]))
    return [
        Timing(
            statistics.median(clock for clock, _ in own),
            percentile([clock for clock, _ in own], 0.95),
            statistics.median(busy for _, busy in own),
            len(own),
            statistics.median(first[1] / ours[1] for first, ours in zip(times[0], own, strict=True)),
        )
        for own in times
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of all values do not exceed; values need not be sorted."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def _on_clock(call: Call) -> tuple[float, float]:
    """Milliseconds of one call, twice."""
    began = time.perf_counter_ns()
    call()
    clock = max(1, time.perf_counter_ns() - began) / 1e6
    return clock, clock


def _on_thread(call: Call) -> tuple[float, float]:
    """Milliseconds of one call on the clock, and of this thread on the processor."""
    began, busy = time.perf_counter_ns(), time.thread_time_ns()
    call()
    spent, passed = time.thread_time_ns() - busy, time.perf_counter_ns() - began
    return max(1, passed) / 1e6, max(1, spent) / 1e6


def _on_cuda(call: Call) -> tuple[float, float]:
    """Milliseconds on the current stream between two events around one call."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    call()
    last.record()
    last.synchronize()
    took = max(1e-6, float(first.elapsed_time(last)))
    return took, took
