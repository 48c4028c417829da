"""Puts a task through the Python entry, and sees that the books balance and that the scores are the network's own."""

from __future__ import annotations

import math

import pytest

from objectives.accuracy import extra_scores, mean_score
from objectives.size import nonzeros
from objectives.task import Task
from search.compress import Compressed, compress
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.policy import Policy
from spaces.profile import CompressionProfile

#: What every task is tried with: weights one by one, in a pattern, and channels; each with connections coming back.
PRUNINGS = {
    "weight": PruningPolicy(granularity="weight", sparsity=0.7),
    "nm": PruningPolicy(granularity="nm", pattern="2:4"),
    "channel": PruningPolicy(granularity="channel", sparsity=0.5),
}


def compressed(task: Task, pruning: Policy, epochs: float) -> Compressed:
    """Compress a task's network for a short while; whatever does not add up fails."""
    profile = CompressionProfile.of(pruning, ReconnectionPolicy(interval=0.1, zeta=0.3))
    network = task.network()
    result = compress(network, profile, task, epochs=epochs)
    assert result.ledger.created() > 0
    assert result.ledger.pruned() > result.ledger.created()
    assert nonzeros(result.network) == sum(result.ledger.active().values())
    assert nonzeros(network) > nonzeros(result.network)
    for scores, scored in ((result.baseline, network), (result.scores, result.network)):
        assert scores["accuracy"] == pytest.approx(mean_score(scored, task, "validation"))
        own = extra_scores(scored, task, "validation")
        assert {name: scores[name] for name in own} == pytest.approx(own)
        assert all(math.isfinite(value) for value in scores.values())
    return result
