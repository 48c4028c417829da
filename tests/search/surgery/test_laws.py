"""Every mechanism alone and together keeps the contract: I1 to I6, over many profiles."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from search.surgery.connectivity import Connectivity
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.profile import CompressionProfile, LayerOverride
from tests import contracts
from tests.nets import Blobs
from tests.search.surgery.harness import site_for

PRUNING = {
    f"{granularity}-{criterion}": PruningPolicy.from_values(
        {"criterion": criterion, "granularity": granularity} | ({} if granularity == "nm" else {"sparsity": 0.6})
    )
    for granularity, criterion in itertools.product(
        ("weight", "nm", "channel"), ("magnitude", "gradient", "movement", "activation", "random")
    )
}
RECONNECTION = {
    "gradient": ReconnectionPolicy(interval=0.1),
    "momentum-global": ReconnectionPolicy(interval=0.1, criterion="momentum", distribution="global", regrow=0.5),
    "random-erk": ReconnectionPolicy(interval=0.1, criterion="random", distribution="erk"),
    "rigl": ReconnectionPolicy(interval=0.1, mode="rigl"),
    "set": ReconnectionPolicy(interval=0.1, mode="set"),
}
PROFILES = {
    "nothing": CompressionProfile(),
    **{f"prune {name}": CompressionProfile.of(policy) for name, policy in PRUNING.items()},
    **{f"reconnect {name}": CompressionProfile.of(policy) for name, policy in RECONNECTION.items()},
    **{
        f"both {p} {r}": CompressionProfile.of(PRUNING[p], RECONNECTION[r])
        for p in ("weight-magnitude", "nm-magnitude", "channel-activation")
        for r in RECONNECTION
    },
    "by layer": CompressionProfile.of(
        PruningPolicy(sparsity=0.8, allocation="uniform", exclude="first"),
        RECONNECTION["gradient"],
        layers=[LayerOverride("3.*", "pruning", {"sparsity": 0.25})],
    ),
}
TASK = Blobs()

every_profile = pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES.keys())


@every_profile
def test_attaching_keeps_outputs(profile: Any) -> None:
    contracts.attaching_keeps_outputs(TASK, profile)


@every_profile
def test_finalized_equals_attached_and_the_ledger_counts_its_nonzeros(profile: Any) -> None:
    contracts.finalized_equals_attached(TASK, profile)


@pytest.mark.parametrize("name", ["prune channel-magnitude", "both weight-magnitude gradient"])
def test_samples_of_a_batch_do_not_mix(name: Any) -> None:
    contracts.batches_do_not_mix(TASK, PROFILES[name])


@pytest.mark.parametrize("name", [n for n in PROFILES if "random" in n or "both" in n])
def test_same_seed_same_result(name: Any) -> None:
    contracts.same_seed_same_result(TASK, PROFILES[name])


@every_profile
def test_interrupted_run_ends_like_a_whole_one(profile: Any, tmp_path: Any) -> None:
    contracts.interrupted_equals_whole(TASK, profile, tmp_path, at=7)


def test_the_check_of_the_books_can_fail() -> None:
    network = TASK.network()
    site = site_for(network, TASK, CompressionProfile(), 4)
    contracts.books_balance(site)
    name = next(iter(site.connectivity.weights))
    site.connectivity.masks[name].view(-1)[0] = False
    with pytest.raises(AssertionError):
        contracts.books_balance(site)
    assert isinstance(site.connectivity, Connectivity)
