"""Resonance keeps the laws of every mechanism, alone and beside the others that prune and reconnect."""

from __future__ import annotations

from pathlib import Path

from spaces import PruningPolicy, ReconnectionPolicy, ResonancePolicy
from spaces.policy import Policy
from spaces.profile import CompressionProfile
from tests import contracts
from tests.laws import Laws

#: The shortest budget in which a history of 16 is full in time.
STEPS = 64
DEFAULT = ResonancePolicy(history=16, sparsity=0.8, every=0.05)
RESONANCE = {
    "default": DEFAULT,
    "lag1 stored band": DEFAULT.changed(
        {"estimator": "lag1", "resume": "stored", "keep": "band", "significance": "off", "sparsity": 0.7}
    ),
    "random": DEFAULT.changed({"criterion": "random", "wave": "saw"}),
    "magnitude low": DEFAULT.changed({"criterion": "magnitude", "keep": "low", "wave": "triangle", "cooling": 1}),
}
BESIDE: dict[str, list[Policy]] = {
    "pruning": [PruningPolicy(sparsity=0.9)],
    "patterns": [PruningPolicy.from_values({"granularity": "nm"})],
    "channels": [PruningPolicy(granularity="channel", sparsity=0.4)],
    "reconnection": [ReconnectionPolicy(interval=0.1)],
    "edges": [PruningPolicy(sparsity=0.6), ReconnectionPolicy(interval=0.1, radius=2)],
    "patterns and reconnection": [
        PruningPolicy.from_values({"granularity": "nm"}),
        ReconnectionPolicy(interval=0.1, criterion="momentum"),
    ],
}
PROFILES = {
    **{name: CompressionProfile.of(policy) for name, policy in RESONANCE.items()},
    **{f"with {name}": CompressionProfile.of(*others, DEFAULT) for name, others in BESIDE.items()},
}


class TestResonance(Laws):
    profiles = PROFILES
    mixing = ("default", "with channels")
    repeated = ("random", "lag1 stored band", "with edges")
    steps = STEPS
    at = 40


def test_interrupted_before_the_first_decision_and_within_an_entry(tmp_path: Path) -> None:
    profile = CompressionProfile.of(ResonancePolicy(history=16, average=2, sparsity=0.8, every=0.05))
    contracts.interrupted_equals_whole(TestResonance.task, profile, tmp_path, at=21, steps=128)
