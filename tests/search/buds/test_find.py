"""Sub-tasks that are there are found, and described as what they are."""

from __future__ import annotations

import pytest
import torch

from search.buds.find import Look, find, pool, portray
from spaces.budding import BuddingPolicy
from spaces.errors import NetworkError


def planted(count: int = 3, each: int = 40) -> Look:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count * each) % count
    x = torch.randn(len(labels), 6, generator=generator) * 0.3 + torch.eye(6)[labels] * 5
    return Look((), x, x, labels)


@pytest.mark.parametrize("clusters", ["kmeans", "hdbscan"])
def test_planted_groups_are_found(clusters: str) -> None:
    seen = planted()
    policy = BuddingPolicy(clusters=clusters, **({"subtasks": 3} if clusters == "kmeans" else {"smallest": 0.1}))
    subtasks = find(seen, policy, seed=0)
    assert subtasks.count == 3
    found = portray(seen, subtasks, shown=10)
    assert found.agreement == pytest.approx(1.0)
    assert found.sizes == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert sorted(label for held in found.classes for label in held) == [0, 1, 2]
    assert (len(found.points), len(found.members)) == (10, 10)


def test_the_same_seed_finds_the_same() -> None:
    one, other = (find(planted(), BuddingPolicy(), seed=4) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.tensors().values(), other.tensors().values(), strict=True))


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(NetworkError, match="more than 3 samples"):
        find(planted(3, 1), BuddingPolicy(subtasks=3), seed=0)


def test_positions_are_averaged_whichever_way_channels_lie() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.allclose(pool(x, 1), x.mean((2, 3)))
    assert torch.allclose(pool(x, 3), x.mean((1, 2)))
    assert torch.equal(pool(x[:, :, 0, 0], 1), x[:, :, 0, 0])
