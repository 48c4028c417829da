"""The threshold's wave: raised to [0, 1], quantized, one value per decision."""

from __future__ import annotations

import math


def wave_at(decision: int, *, shape: str, bits: int, period: int) -> float:
    """(1 + wave) / 2 at a decision, on one of 2^bits - 1 levels from 0 to 1.

    A zero-mean wave would give the amplitude no authority over sparsity, hence the raised one.

    Args:
        decision: From 0.
        shape: ``sine``, ``triangle`` or ``saw``.
        bits: >= 1; one bit is a single level, the crest.
        period: Decisions per wave, >= 1.
    """
    # Decisions sample the middle of their share of the period, so that every shape reaches its crest.
    phase = (decision % period + 0.5) / period
    raised = {
        "sine": (1 + math.sin(2 * math.pi * phase)) / 2,
        "triangle": 1 - abs(2 * phase - 1),
        "saw": phase,
    }[shape]
    levels: int = 2**bits - 1
    if levels == 1:
        return 1.0
    return min(levels - 1, math.floor(raised * levels + 1e-9)) / (levels - 1)
