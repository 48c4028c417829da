"""What reconnection does: as many as asked, where asked, and nothing heard when it happens."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from search.surgery.selection import grouped
from search.surgery.weight_regrowth import WeightRegrowth
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.profile import CompressionProfile
from tests.nets import Blobs
from tests.search.surgery.harness import operate

TASK = Blobs()


@pytest.mark.parametrize("mode", ["rigl", "set"])
def test_regrowth_keeps_the_number_of_connections(mode: Any) -> None:
    counts = []
    profile = CompressionProfile.of(PruningPolicy(sparsity=0.7), ReconnectionPolicy(mode=mode, interval=0.1))
    site, _ = operate(TASK, profile, 20, lambda site: counts.append(sum(site.connectivity.active.values())))
    assert len(set(counts)) == 1, "sparse from the first step, and as many connections ever after"
    assert site.connectivity.ledger().created() > 0


def test_gmp_regrow_ends_at_the_pruning_policys_sparsity() -> None:
    for regrow in (0.0, 0.4, 1.0):
        profile = CompressionProfile.of(PruningPolicy(sparsity=0.7), ReconnectionPolicy(interval=0.1, regrow=regrow))
        site, _ = operate(TASK, profile, 40)
        active = sum(site.connectivity.active.values())
        assert active == site.connectivity.size - round(0.7 * site.connectivity.size), regrow


def test_nothing_is_dropped_after_t_end() -> None:
    policy = ReconnectionPolicy(interval=0.05, t_end=0.5)
    totals = []
    operate(TASK, CompressionProfile.of(policy), 40, lambda site: totals.append(site.connectivity.ledger().pruned()))
    assert totals[20] == totals[-1] > 0


def test_zeta_falls_by_a_cosine() -> None:
    policy = ReconnectionPolicy(zeta=0.4, t_end=0.5)
    assert policy.zeta_at(0, 100) == pytest.approx(0.4)
    assert policy.zeta_at(25, 100) == pytest.approx(0.2)
    assert policy.zeta_at(50, 100) == pytest.approx(0.0)
    assert policy.zeta_at(60, 100) == 0.0


def test_the_first_cycle_drops_the_share_of_each_layer() -> None:
    profile = CompressionProfile.of(ReconnectionPolicy(zeta=0.3, interval=0.4, regrow=0.0))
    site, _ = operate(TASK, profile, 1)
    for name, mask in site.connectivity.masks.items():
        assert int((~mask).sum()) == round(0.3 * mask.numel()), name


def test_gradient_growth_takes_the_highest_gradients() -> Any:
    """One RigL cycle against the definition, on a network whose gradients are known."""
    seen = {}
    profile = CompressionProfile.of(
        PruningPolicy(sparsity=0.5, allocation="uniform"),
        ReconnectionPolicy(mode="rigl", interval=0.5, t_end=0.9, zeta=0.4),
    )
    grow = WeightRegrowth._grow

    def watched(self: Any, wanted: Any, among: Any, count: Any, dropped: Any) -> Any:
        before = {name: mask.clone() for name, mask in self._site.connectivity.masks.items()}
        grown = grow(self, wanted, among, count, dropped)
        for name, mask in self._site.connectivity.masks.items():
            created = mask & ~before[name]
            if created.any():
                left = among[name] & ~created
                seen[name] = True
                assert (created & ~among[name]).sum() == 0
                if left.any():
                    assert wanted[name][created].min() >= wanted[name][left].max()
        return grown

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WeightRegrowth, "_grow", watched)
        operate(TASK, profile, 20)
    assert len(seen) == 4


def test_growth_within_a_pattern_keeps_the_pattern() -> None:
    profile = CompressionProfile.of(PruningPolicy(granularity="nm", pattern="2:4"), ReconnectionPolicy(interval=0.05))
    site, _ = operate(TASK, profile, 40)
    for mask in site.connectivity.masks.values():
        if mask.shape[1] % 4 == 0:
            assert int(grouped(mask, 4).sum(-1).max()) <= 2
    assert site.connectivity.ledger().created() > 0


def test_growth_never_enters_a_masked_channel() -> None:
    profile = CompressionProfile.of(
        PruningPolicy(granularity="channel", sparsity=0.5, schedule="oneshot"), ReconnectionPolicy(interval=0.1)
    )

    def check(site: Any) -> None:
        for channel in site.connectivity.closed.values():
            for name, index in channel.produced:
                assert not site.connectivity.masks[name][index[0]].any()

    site, _ = operate(TASK, profile, 20, check)
    assert len(site.connectivity.closed) == 8
    assert site.connectivity.ledger().created() > 0


def test_distributions_differ() -> None:
    masks = {}
    for distribution in ("uniform", "erk", "global"):
        profile = CompressionProfile.of(
            PruningPolicy(sparsity=0.8), ReconnectionPolicy(interval=0.1, distribution=distribution)
        )
        site, _ = operate(TASK, profile, 20)
        masks[distribution] = torch.cat([mask.flatten() for mask in site.connectivity.masks.values()])
    assert not torch.equal(masks["uniform"], masks["erk"])
    assert not torch.equal(masks["uniform"], masks["global"])
