"""One trial of all five policies: what it reports of each, and that a report's cost falls with what each saves."""

from __future__ import annotations

import math

import pytest

from search.finetune import steps_per_epoch
from search.result import Budget, Report, TrialRequest, TrialResult
from search.scoring import measure_baseline
from search.trial import run_trial
from spaces import GranularityPolicy, PruningPolicy, ReconnectionPolicy, ResonancePolicy, RoutingPolicy
from spaces.profile import CompressionProfile
from tests.nets import Blobs

TASK = Blobs()
MEASURES = ("accuracy", "plasticity", "macs", "bops", "size_bytes")
PROFILE = CompressionProfile.of(
    PruningPolicy(granularity="channel", sparsity=0.3, interval=0.05),
    ReconnectionPolicy(interval=0.1, granularity="channel"),
    RoutingPolicy(target_cost=0.6, lr_factor=30.0),
    GranularityPolicy(bits=5.0),
    ResonancePolicy(sparsity=0.5, every=0.05, history=16, average=1),
)


@pytest.fixture(scope="module")
def events() -> list[Report | TrialResult]:
    epochs = 96 / steps_per_epoch(TASK)
    request = TrialRequest(0, "together", PROFILE, 0, Budget(epochs, 3))
    return list(run_trial(request, TASK, MEASURES, measure_baseline(TASK, MEASURES)))


def test_every_policy_acts_and_says_so(events: list[Report | TrialResult]) -> None:
    result = events[-1]
    assert isinstance(result, TrialResult)
    assert result.state == "complete", result.reason
    for policy in PROFILE.policies:
        assert result.metrics[f"{policy}/decisions"] >= 3, policy
    # Each layer weighs by what it computes, which channels that go and blocks that are bypassed change in the end.
    assert 4.0 <= result.metrics["granularity/mean_bits"] <= 6.0
    assert result.metrics["routing/gates"] > 0
    assert {row["bits"] for row in result.layers if "bits" in row} <= {4.0, 8.0, 16.0}
    assert all(math.isfinite(value) for value in result.metrics.values())


def test_curves_of_the_policies_are_reported_while_it_runs(events: list[Report | TrialResult]) -> None:
    first, *_, last = (event for event in events if isinstance(event, Report))
    assert 0 <= last.metrics["resonance/threshold"] <= 1
    assert last.metrics["resonance/decisions"] >= 3
    assert sum(value for name, value in last.metrics.items() if name.startswith("resonance/spectrum/")) <= 1 + 1e-6
    assert 0 <= first.metrics["routing/skipped"] <= 1, "later all gates may have turned static"


def test_costs_combine(events: list[Report | TrialResult]) -> None:
    result = events[-1]
    assert isinstance(result, TrialResult)
    before = measure_baseline(TASK, MEASURES)
    share = result.scores["macs"] / before["macs"]
    assert share < 1, "channels and bypassed blocks are not computed"
    # At most 8 bits by 8 in nearly every layer: at most a sixteenth of 32 by 32, but for what stays finer.
    assert result.scores["bops"] / before["bops"] < share / 8
    assert result.scores["size_bytes"] < before["size_bytes"] / 2
