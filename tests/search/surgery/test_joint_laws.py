"""The five policies on one network: every pair of them, and all five, keep the laws that each keeps alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from spaces import GranularityPolicy, PruningPolicy, ReconnectionPolicy, ResonancePolicy, RoutingPolicy
from spaces.policy import Policy
from spaces.profile import CompressionProfile
from tests import contracts
from tests.nets import Blobs

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
TASK = Blobs()
#: Enough for a history to fill and for decisions after it.
STEPS = 64

together = pytest.mark.parametrize("policies", (PAIRS | EVERY).values(), ids=(PAIRS | EVERY).keys())
all_five = pytest.mark.parametrize("policies", EVERY.values(), ids=EVERY.keys())


@together
def test_attaching_keeps_outputs(policies: list[Policy]) -> None:
    contracts.attaching_keeps_outputs(TASK, CompressionProfile.of(*policies), steps=STEPS)


@together
def test_finalized_equals_attached_and_the_ledger_counts_its_nonzeros(policies: list[Policy]) -> None:
    contracts.finalized_equals_attached(TASK, CompressionProfile.of(*policies), steps=STEPS)


@together
def test_interrupted_equals_whole(policies: list[Policy], tmp_path: Path) -> None:
    contracts.interrupted_equals_whole(TASK, CompressionProfile.of(*policies), tmp_path, at=41, steps=STEPS)


@together
def test_looking_ahead_changes_nothing(policies: list[Policy]) -> None:
    contracts.looking_ahead_changes_nothing(TASK, CompressionProfile.of(*policies), steps=STEPS)


@all_five
def test_the_same_seed_gives_the_same_result(policies: list[Policy]) -> None:
    contracts.same_seed_same_result(TASK, CompressionProfile.of(*policies), steps=STEPS)


@all_five
def test_samples_of_a_batch_do_not_mix(policies: list[Policy]) -> None:
    contracts.batches_do_not_mix(TASK, CompressionProfile.of(*policies), steps=STEPS)
