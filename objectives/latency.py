"""What the clock says of a finished network: read off what the trial measured, for only it knows where and when.

How it is measured (runtime, batch, threads) stands in the study file; see ``docs/latency.md``.
"""

from __future__ import annotations

import math

from objectives.outcome import Outcome


def latency_ms(outcome: Outcome) -> float:
    """Median milliseconds of one call on a batch; NaN where nothing was timed."""
    return outcome.measured.get("latency_ms", math.nan)


def throughput(outcome: Outcome) -> float:
    """Samples per second at the median; NaN where nothing was timed."""
    return outcome.measured.get("throughput", math.nan)
