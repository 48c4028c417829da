"""Sub-tasks: groups of inputs that excite the last stages of a network alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.cluster import HDBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, fx

from objectives.task import Batch, call, move, samples
from search.buds.cut import Cut, Place, places, watched
from search.buds.route import features_of
from spaces.budding import BuddingPolicy
from spaces.errors import NetworkError

#: So many stages, the last ones, are looked at.
STAGES = 3
#: So many samples are grouped; more change nothing but the time it takes.
LOOKED_AT = 6000
#: Of the grouped activations, as much of the variance is kept, in at most so many directions.
VARIANCE, DIRECTIONS = 0.95, 32
#: HDBSCAN looks at so many directions, for groups of at least so many samples.
DENSE, FEWEST = 6, 5


@dataclass(frozen=True, eq=False)
class Subtasks:
    """Groups of inputs, told apart by what the parent's last stages give; float32.

    Args:
        mean: (features,), and `scale`: what makes each activation vary alike.
        components: (directions, features), the principal ones.
        centres: (K, directions), one per sub-task.
    """

    mean: Tensor
    scale: Tensor
    components: Tensor
    centres: Tensor

    @property
    def count(self) -> int:
        """K."""
        return len(self.centres)

    def project(self, x: Tensor) -> Tensor:
        """(samples, features) to (samples, directions)."""
        return ((x.float() - self.mean) / self.scale) @ self.components.T

    def assign(self, x: Tensor) -> Tensor:
        """The sub-task of each sample, (samples,) int64: the nearest centre's."""
        return torch.cdist(self.project(x), self.centres).argmin(1)

    def to(self, device: str) -> Subtasks:
        """The same on another device."""
        return Subtasks(*(t.to(device) for t in (self.mean, self.scale, self.components, self.centres)))

    def tensors(self) -> dict[str, Tensor]:
        """By name, for a file."""
        return {"mean": self.mean, "scale": self.scale, "components": self.components, "centres": self.centres}


@dataclass(frozen=True, eq=False)
class Look:
    """What a pass over some training samples has shown.

    Args:
        batches: The first of them, for those who must see inputs again.
        last: What the last stages gave, pooled, (samples, features).
        stem: What the router sees, (samples, features).
        targets: Their class labels (samples,), or None where targets are something else.
    """

    batches: tuple[Batch, ...]
    last: Tensor
    stem: Tensor
    targets: Tensor | None


class Stages:
    """The parent's tail with a view of its last stages.

    Args:
        cut: Whose tail.
        also: Further nodes of it that `whole` shows.
    """

    def __init__(self, cut: Cut, also: Sequence[str] = ()) -> None:
        found = places(cut.tail, inputs=(cut.hidden,))
        self.places: tuple[Place, ...] = tuple(found[-STAGES:])
        if not self.places:
            raise NetworkError(
                "the last stages of a network that buds must be visible, but it has a single block: "
                "use a network with two layers at least, or a smaller stem"
            )
        self._also = tuple(also)
        nodes = [*(place.node for place in self.places), *also]
        self.network: fx.GraphModule = watched(cut.tail, nodes).eval()

    def __call__(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The outputs, the pooled activations of all stages (batch, features), and of the last one."""
        return self.whole(hidden)[:3]

    def whole(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor, Mapping[str, Tensor]]:
        """The same, and what flows at the further nodes."""
        outputs, seen = self.network(hidden)
        count = len(self.places)
        pooled = [pool(value, place.dim) for value, place in zip(seen[:count], self.places, strict=True)]
        return outputs, torch.cat(pooled, 1), pooled[-1], dict(zip(self._also, seen[count:], strict=True))


def pool(x: Tensor, dim: int) -> Tensor:
    """(batch, channels): the mean over all positions."""
    return x if x.ndim == 2 else x.movedim(dim, 1).flatten(2).mean(2)


@torch.no_grad()
def look(cut: Cut, stages: Stages, batches: Iterable[Batch], *, keep: int, device: str = "cpu") -> Look:
    """Run some samples through the parent.

    Args:
        cut: The parent in two parts.
        stages: Of its tail.
        batches: Of the training split; at most `LOOKED_AT` samples are taken.
        keep: How many samples' batches are kept.
        device: Where the network is.
    """
    kept: list[Batch] = []
    last, stem, targets = list[Tensor](), list[Tensor](), list[Tensor]()
    count = 0
    for inputs, wanted in batches:
        if count < keep:
            kept.append((inputs, wanted))
        hidden = call(cut.stem, move(inputs, device))
        last.append(stages(hidden)[1].float().cpu())
        stem.append(features_of(hidden).float().cpu())
        targets.append(wanted)
        count += samples(inputs)
        if count >= LOOKED_AT:
            break
    labels = torch.cat(targets)
    classes = labels if labels.ndim == 1 and not labels.is_floating_point() else None
    return Look(tuple(kept), torch.cat(last), torch.cat(stem), classes)


def find(seen: Look, policy: BuddingPolicy, seed: int) -> Subtasks:
    """Group what was seen: z-scores, principal components, then k-means or HDBSCAN.

    Raises:
        NetworkError: If HDBSCAN finds fewer than two groups, or there are fewer samples than groups.
    """
    mean, scale = seen.last.mean(0), seen.last.std(0).clamp_min(1e-6)
    z = ((seen.last - mean) / scale).numpy()
    if policy.clusters == "kmeans" and len(z) < 2 * policy.subtasks:
        raise NetworkError(f"{policy.subtasks} sub-tasks need more than {len(z)} samples: lower budding.subtasks")
    whole = PCA(n_components=min(DIRECTIONS, *z.shape), random_state=seed).fit(z)
    directions = int(np.searchsorted(np.cumsum(whole.explained_variance_ratio_), VARIANCE)) + 1
    components = torch.from_numpy(np.asarray(whole.components_[:directions], dtype=np.float32))
    projected = (torch.from_numpy(z) @ components.T).numpy()
    if policy.clusters == "kmeans":
        centres = KMeans(policy.subtasks, n_init=4, random_state=seed).fit(projected).cluster_centers_
    else:
        centres = _dense(projected, policy.smallest)
    return Subtasks(mean, scale, components, torch.from_numpy(np.asarray(centres, dtype=np.float32)))


def _dense(projected: np.ndarray, smallest: float) -> np.ndarray:
    """The centres of what HDBSCAN finds among some samples, in ever smaller groups; the nearest one has the noise."""
    part, found = projected[:2000], list[np.ndarray]()
    size = round(smallest * len(part))
    # In a cloud that hangs together only smaller groups stand out; and distances say little in many directions.
    while len(found) < 2 and size >= FEWEST:
        labels = HDBSCAN(min_cluster_size=size, min_samples=FEWEST, copy=True).fit_predict(part[:, :DENSE])
        found = [part[labels == label].mean(0) for label in range(labels.max() + 1)]
        size //= 2
    if len(found) < 2:
        raise NetworkError(
            "HDBSCAN must find two groups of inputs at least, but finds none that stands apart: use clusters = kmeans"
        )
    return np.stack(found)


@dataclass(frozen=True)
class Portrait:
    """What the sub-tasks are.

    Args:
        sizes: Share of the samples, per sub-task.
        agreement: Normalized mutual information with the class labels, in [0, 1]; None where there are no classes.
        classes: Per sub-task the share of each class's samples that it holds, where it is at least a half.
        points: Some samples on the first two principal directions: (samples, 2).
        members: Their sub-tasks.
        labels: Their classes, or -1.
    """

    sizes: tuple[float, ...]
    agreement: float | None
    classes: tuple[Mapping[int, float], ...]
    points: tuple[tuple[float, float], ...]
    members: tuple[int, ...]
    labels: tuple[int, ...]

    def to_dict(self) -> dict[str, object]:
        """A JSON-able form."""
        return {
            "sizes": list(self.sizes),
            "agreement": self.agreement,
            "classes": [{str(label): share for label, share in held.items()} for held in self.classes],
            "points": [list(point) for point in self.points],
            "members": list(self.members),
            "labels": list(self.labels),
        }


def portray(seen: Look, subtasks: Subtasks, shown: int = 600) -> Portrait:
    """Describe sub-tasks by the samples that were seen."""
    members = subtasks.assign(seen.last)
    sizes = torch.bincount(members, minlength=subtasks.count) / len(members)
    agreement, classes = None, [dict[int, float]() for _ in range(subtasks.count)]
    if seen.targets is not None:
        agreement = float(normalized_mutual_info_score(seen.targets.numpy(), members.numpy()))
        for label in sorted(set(seen.targets.tolist())):
            held = torch.bincount(members[seen.targets == label], minlength=subtasks.count).double()
            for index, share in enumerate((held / held.sum()).tolist()):
                if share >= 0.5:
                    classes[index][int(label)] = round(share, 4)
    plane = subtasks.project(seen.last[:shown])
    flat = torch.cat([plane, torch.zeros(len(plane), 1)], 1)[:, :2]  # one direction may say it all
    labels: Sequence[int] = seen.targets[:shown].tolist() if seen.targets is not None else [-1] * len(flat)
    points = tuple((round(x, 4), round(y, 4)) for x, y in flat.tolist())
    return Portrait(
        tuple(sizes.tolist()), agreement, tuple(classes), points, tuple(members[:shown].tolist()), tuple(labels)
    )
