"""What each layer can bear: the score and the cost when one layer alone is compressed, for each policy that can be.

Nothing is trained; a network is cut in one layer at a time, its norms are recalibrated, and it is looked at. The answer
is kept in the cache, for it belongs to the network and not to a study.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from objectives.accuracy import mean_score
from objectives.cost import count_macs
from objectives.maskable import maskable
from objectives.task import Task
from search.finetune import recalibrate
from search.home import read_json, write_json
from search.projection import at_its_end
from search.surgery.finalize import plain
from spaces.errors import PleachError, StorageError
from spaces.profile import CompressionProfile, LayerOverride
from spaces.pruning import PruningPolicy

#: Validation samples that a score is the mean of.
SAMPLES = 1_024
LEVELS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Sensitivity:
    """One layer, compressed alone.

    Args:
        layer: Its name.
        policy: Which policy, and at which granularity: ``pruning.weight`` or ``pruning.channel``.
        level: The share of it that is off.
        score: The mean validation score, without training.
        drop: What that is below the baseline's.
        macs: Multiply-accumulates of the whole network then, per sample.
    """

    layer: str
    policy: str
    level: float
    score: float
    drop: float
    macs: float


def sensitivities(
    task: Task,
    *,
    levels: Sequence[float] = LEVELS,
    samples: int = SAMPLES,
    seed: int = 0,
    cache: Path | None = None,
    told: Callable[[int, int], None] | None = None,
) -> tuple[float, list[Sensitivity]]:
    """How the score falls, layer by layer.

    Args:
        task: The network and its data.
        levels: Shares of a layer that are switched off, each in (0, 1).
        samples: Validation samples at most.
        seed: Of the batches from which norms are recalibrated.
        cache: A folder of this task's own; None keeps nothing.
        told: Called with how many looks are done, and of how many.

    Returns:
        The baseline's score on these samples, and a row per layer, policy and level; policies that cannot be applied
        to a layer have no row.
    """
    key = hashlib.sha256(json.dumps([list(levels), samples, seed, "1"]).encode()).hexdigest()[:16]
    file = cache / f"sensitivity-{key}.json" if cache is not None else None
    if file is not None and file.is_file():
        try:
            kept = read_json(file)
            return float(kept["baseline"]), [Sensitivity(**row) for row in kept["rows"]]
        except (StorageError, KeyError, TypeError):
            pass  # one that another version wrote is made anew
    baseline = mean_score(task.network().eval(), task, "validation", "cpu", samples)
    profiles = list(_profiles(task, levels))
    rows = []
    for done, (layer, policy, level, profile) in enumerate(profiles):
        try:
            score, macs = _looked_at(task, profile, samples, seed)
        except PleachError:
            continue  # e.g. channels that are coupled to what must stay
        finally:
            if told is not None:
                told(done + 1, len(profiles))
        rows.append(Sensitivity(layer, policy, level, score, baseline - score, macs))
    if file is not None:
        write_json(file, {"baseline": baseline, "rows": [asdict(row) for row in rows]}, durable=False)
    return baseline, rows


def by_layer(rows: Sequence[Sensitivity]) -> dict[str, dict[str, dict[float, Sensitivity]]]:
    """Rows by policy, layer and level."""
    found: dict[str, dict[str, dict[float, Sensitivity]]] = {}
    for row in rows:
        found.setdefault(row.policy, {}).setdefault(row.layer, {})[row.level] = row
    return found


def _profiles(task: Task, levels: Sequence[float]) -> Iterator[tuple[str, str, float, CompressionProfile]]:
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in maskable(task.network())))
    for layer in layers:
        for granularity in ("weight", "channel"):
            for level in levels:
                base = PruningPolicy(sparsity=0.0, granularity=granularity, allocation="uniform", schedule="oneshot")
                override = LayerOverride(layer, "pruning", {"sparsity": level})
                yield layer, f"pruning.{granularity}", level, CompressionProfile.of(base, layers=[override])


def _looked_at(task: Task, profile: CompressionProfile, samples: int, seed: int) -> tuple[float, float]:
    inputs = task.example_inputs()
    with at_its_end(task.network(), inputs, profile, seed=seed) as end:
        recalibrate(end.network, task, seed, "cpu")
        finished = plain(end)
    macs = count_macs(finished, inputs)
    return mean_score(finished, task, "validation", "cpu", samples), float(sum(macs.values()))


def to_rows(found: Mapping[str, Mapping[str, Mapping[float, Sensitivity]]]) -> list[dict[str, Any]]:
    """A JSON-able row per layer and policy."""
    return [
        {
            "layer": layer,
            "policy": policy,
            "drop": {f"{level:g}": row.drop for level, row in levels.items()},
            "macs": {f"{level:g}": row.macs for level, row in levels.items()},
        }
        for policy, layers in found.items()
        for layer, levels in layers.items()
    ]
