"""Routing keeps the laws of every mechanism, alone and with each of the others."""

from __future__ import annotations

from typing import Any

import pytest

from spaces import POLICIES, PruningPolicy, ReconnectionPolicy, RoutingPolicy
from spaces.policy import Policy
from spaces.profile import CompressionProfile
from tests import contracts
from tests.laws import Laws
from tests.nets import Blobs

FIRM: dict[str, Any] = {"cost_weight": 50, "lr_factor": 30, "bias": 0.5, "anneal": 0.2, "noise": 0.0}
ALONE = {
    "hard": RoutingPolicy(),
    "soft attention": RoutingPolicy(mode="soft", pooling="attention", hidden=0),
    "channel groups": RoutingPolicy(unit="channel_group", groups=2),
    "until shut": RoutingPolicy(target_cost=0.0, **FIRM),
    "static": RoutingPolicy(mode="static", blocks="residual", target_cost=0.5, anneal=0.9),
}
OTHERS: dict[str, list[Policy]] = {
    "pruning": [PruningPolicy(sparsity=0.6)],
    "channels": [PruningPolicy(sparsity=0.5, granularity="channel")],
    "regrowth": [PruningPolicy(sparsity=0.6), ReconnectionPolicy(interval=0.1)],
    "edges": [ReconnectionPolicy(interval=0.1, radius=2, edge_granularity="channel")],
    "channel regrowth": [
        PruningPolicy(sparsity=0.5, granularity="channel"),
        ReconnectionPolicy(interval=0.1, granularity="channel"),
    ],
}
OTHERS |= {name: [POLICIES[name]()] for name in ("granularity", "resonance") if name in POLICIES}
PROFILES = {
    **{name: CompressionProfile.of(policy) for name, policy in ALONE.items()},
    **{f"hard + {name}": CompressionProfile.of(RoutingPolicy(), *others) for name, others in OTHERS.items()},
    "shut + channels": CompressionProfile.of(ALONE["until shut"], *OTHERS["channels"]),
    "groups + channels": CompressionProfile.of(ALONE["channel groups"], *OTHERS["channels"]),
    "static + channels": CompressionProfile.of(ALONE["static"], *OTHERS["channels"]),
    "static + channel regrowth": CompressionProfile.of(ALONE["static"], *OTHERS["channel regrowth"]),
    "static + edges": CompressionProfile.of(ALONE["static"], *OTHERS["edges"]),
    "all": CompressionProfile.of(RoutingPolicy(), *(p for n in ("regrowth", "granularity") for p in OTHERS.get(n, []))),
}
FLAT = Blobs("mlp")


class TestRouting(Laws):
    profiles = PROFILES
    mixing = ("hard", "channel groups", "hard + channels")
    repeated = ("hard", "soft attention", "channel groups", "hard + edges")
    at = 13


@pytest.mark.parametrize("others", [[], OTHERS["pruning"], OTHERS["channels"]], ids=["alone", "pruning", "channels"])
def test_plain_layers_keep_the_laws_too(others: list[Policy], tmp_path: Any) -> None:
    profile = CompressionProfile.of(RoutingPolicy(), *others)
    contracts.attaching_keeps_outputs(FLAT, profile)
    contracts.finalized_equals_attached(FLAT, profile)
    contracts.interrupted_equals_whole(FLAT, profile, tmp_path, at=7)
