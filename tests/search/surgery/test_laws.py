"""Every mechanism alone and together keeps the contract: I1 to I6, over many profiles."""

from __future__ import annotations

import itertools

import pytest

from search.surgery.connectivity import Connectivity
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.profile import CompressionProfile, LayerOverride
from tests import contracts
from tests.laws import Laws
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


class TestPruningAndReconnection(Laws):
    profiles = PROFILES
    mixing = ("prune channel-magnitude", "both weight-magnitude gradient")
    repeated = tuple(name for name in PROFILES if "random" in name or "both" in name)
    at = 7


def test_the_check_of_the_books_can_fail() -> None:
    network = TASK.network()
    site = site_for(network, TASK, CompressionProfile(), 4)
    contracts.books_balance(site)
    name = next(iter(site.connectivity.weights))
    site.connectivity.masks[name].view(-1)[0] = False
    with pytest.raises(AssertionError):
        contracts.books_balance(site)
    assert isinstance(site.connectivity, Connectivity)
