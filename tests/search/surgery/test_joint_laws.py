"""The five policies on one network: every pair of them, and all five, keep the laws that each keeps alone."""

from __future__ import annotations

import itertools

from spaces import GranularityPolicy, PruningPolicy, ReconnectionPolicy, ResonancePolicy, RoutingPolicy
from spaces.policy import Policy
from spaces.profile import CompressionProfile
from tests import contracts
from tests.laws import Laws

#: Each so lively that it acts several times in the laws' few steps.
LIVELY: dict[str, Policy] = {
    "pruning": PruningPolicy(sparsity=0.5, interval=0.1),
    "reconnection": ReconnectionPolicy(interval=0.1, radius=1),
    "routing": RoutingPolicy(target_cost=0.6, lr_factor=30.0),
    "granularity": GranularityPolicy(bits=5.0),
    "resonance": ResonancePolicy(every=0.1, history=16, average=1, cooling=1),
}
PAIRS = {" + ".join(pair): [LIVELY[name] for name in pair] for pair in itertools.combinations(LIVELY, 2)}
CHANNELS = PruningPolicy(granularity="channel", sparsity=0.4, interval=0.1)
EVERY = {
    "all five": list(LIVELY.values()),
    "all five, channels": [
        CHANNELS,
        ReconnectionPolicy(interval=0.1, granularity="channel"),
        *list(LIVELY.values())[2:],
    ],
    "all five, channels and edges, bits learned": [
        CHANNELS,
        ReconnectionPolicy(interval=0.1, radius=2),
        LIVELY["routing"],
        GranularityPolicy(bits=5.0, controller="learned"),
        LIVELY["resonance"],
    ],
    "all five, groups of channels": [
        *list(LIVELY.values())[:2],
        RoutingPolicy(unit="channel_group", groups=2, target_cost=0.6),
        *list(LIVELY.values())[3:],
    ],
}
PROFILES = {name: CompressionProfile.of(*policies) for name, policies in (PAIRS | EVERY).items()}


class TestTogether(Laws):
    profiles = PROFILES
    mixing = repeated = tuple(EVERY)
    #: Enough for a history to fill and for decisions after it.
    steps = 64
    at = 41

    def test_looking_ahead_changes_nothing(self, profile: CompressionProfile) -> None:
        contracts.looking_ahead_changes_nothing(self.task, profile, self.steps)
