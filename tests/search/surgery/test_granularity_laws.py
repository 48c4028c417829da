"""Granularity keeps the laws of every mechanism, alone and beside pruned weights, channels and edges."""

from __future__ import annotations

from typing import Any

from spaces import GranularityPolicy, PruningPolicy, ReconnectionPolicy
from spaces.profile import CompressionProfile
from tests.laws import Laws

ALONE: dict[str, dict[str, Any]] = {
    "sqnr": {},
    "variance": {"controller": "variance", "dwell": 1},
    "learned": {"controller": "learned"},
    "static, groups": {"activations": "static", "levels": "32-16-8-4", "group": "32", "bits": 8.0},
    "weights only": {"activations": "none", "levels": "8-4-2", "bits": 3.0, "ends": "free"},
    "dynamic": {"controller": "variance", "levels": "8-4-2", "bits": 4.0, "dynamic": True, "dwell": 1},
}
CHANNELS = PruningPolicy(granularity="channel", sparsity=0.5)
BESIDE = {
    "weights pruned": (PruningPolicy(sparsity=0.6),),
    "channels pruned and revived": (CHANNELS, ReconnectionPolicy(interval=0.1, granularity="channel")),
    "edges": (PruningPolicy(sparsity=0.6), ReconnectionPolicy(interval=0.1, radius=2)),
}
PROFILES = {
    **{name: CompressionProfile.of(GranularityPolicy.from_values(values)) for name, values in ALONE.items()},
    **{
        f"{name}, {beside}": CompressionProfile.of(GranularityPolicy.from_values(ALONE[name]), *policies)
        for name in ("sqnr", "static, groups")
        for beside, policies in BESIDE.items()
    },
    "dynamic, channels": CompressionProfile.of(GranularityPolicy.from_values(ALONE["dynamic"]), CHANNELS),
    "learned, channels": CompressionProfile.of(GranularityPolicy.from_values(ALONE["learned"]), CHANNELS),
}


class TestGranularity(Laws):
    profiles = PROFILES
    mixing = ("sqnr", "static, groups, channels pruned and revived")
    repeated = ("variance", "learned, channels")
    #: Amid the decisions of a policy that settles at 0.4.
    at = 4
