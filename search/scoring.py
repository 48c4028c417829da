"""From a finished network to its figures: the scores that are searched for and the metrics that are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from objectives.accuracy import extra_scores, mean_score
from objectives.bits import LayerBits, coded, layer_bits
from objectives.cost import count
from objectives.execution import USE, place, watched
from objectives.objective import OBJECTIVES, known
from objectives.outcome import Outcome
from objectives.plasticity import ratio
from objectives.size import weights
from objectives.task import Task
from search.finetune import in_fast_layout
from search.latency.stopwatch import Clocked
from spaces.errors import StudyFileError
from spaces.ledger import Ledger
from spaces.policy import nearest
from spaces.profile import CompressionProfile


def measure(network: nn.Module, task: Task, device: str, limit: int | None = None) -> dict[str, float]:
    """What needs data: the mean score on the validation split, how often gates open, and the task's own metrics.

    Args:
        network: Finished, or a copy that is looked at.
        task: Gives the data.
        device: Where to compute.
        limit: At most so many samples; None for all.

    The network is moved to the device and back to the CPU.
    """
    network.to(device)
    if limit is not None:
        in_fast_layout(network)
    with watched(network) as opened:
        measured = {"accuracy": mean_score(network, task, "validation", device, limit)}
    measured |= opened
    measured |= extra_scores(network, task, "validation")
    network.cpu()
    if limit is not None:
        network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return measured


def scores_of(outcome: Outcome, measures: Sequence[str]) -> dict[str, float]:
    """The named measures of an outcome, from the closed list or of the task's own.

    Raises:
        StudyFileError: If a name is neither; the message names the nearest.
    """
    scores = {}
    for name in measures:
        if name in OBJECTIVES and (name in outcome.measured or not OBJECTIVES[name].timed):
            scores[name] = OBJECTIVES[name].measure(outcome)
        elif name in outcome.measured:
            scores[name] = outcome.measured[name]
        elif name in OBJECTIVES:
            raise StudyFileError(f"{name} must be timed by a study, but was not: name it among the study's objectives")
        else:
            raise StudyFileError(f"there is no objective {name!r}: {nearest(name, [*OBJECTIVES, *outcome.measured])}")
    return scores


def metrics_of(outcome: Outcome, ledger: Ledger) -> dict[str, float]:
    """Every figure of an outcome worth a curve, by its MLflow name; the ledger is that of the training so far."""
    accuracy = outcome.measured["accuracy"]
    metrics = {OBJECTIVES[name].metric: OBJECTIVES[name].measure(outcome) for name in known(outcome)}
    metrics |= {name: value for name, value in outcome.measured.items() if name.startswith("latency/")}
    metrics |= {
        "quality/drop": outcome.baseline.get("accuracy", accuracy) - accuracy,
        "plasticity/ratio": ratio(ledger),
        "plasticity/created": float(ledger.created()),
        "plasticity/pruned": float(ledger.pruned()),
    }
    if opened := [value for name, value in outcome.measured.items() if name.startswith(USE)]:
        whole = sum(layer.macs for layer in count(outcome.network, outcome.inputs).values())
        metrics["routing/skipped"] = 1 - metrics["compute/macs"] / whole if whole else 0.0
        metrics["routing/mean_use"] = sum(opened) / len(opened)
        metrics |= {f"{USE}{place(n)}": value for n, value in outcome.measured.items() if n.startswith(USE)}
    for policy, receipt in ledger.receipts.items():
        metrics |= {f"{policy}/{name}": value for name, value in receipt.items()}
    return metrics


def measure_baseline(
    task: Task, measures: Sequence[str] = (), *, device: str = "cpu", clocked: Clocked | None = None
) -> dict[str, float]:
    """The measures of the network before compression, and ``weights``, the number of its connections.

    All of the closed list is measured, whether asked for or not: it costs little and every report compares with it.
    Only what needs a clock is left out where `clocked` does not say how to time it.

    Raises:
        StudyFileError: If a name is neither in the closed list nor a metric of the task.
    """
    network = task.network().eval()
    measured = measure(network, task, device) | {"survived": 0.0, "ever_pruned": 0.0}
    if clocked is not None:
        measured |= clocked.stopwatch(network, task.example_inputs()).measure_baseline()
    count = float(weights(network))
    outcome = Outcome(network, {"weights": count}, Ledger(), CompressionProfile(), measured, task.example_inputs())
    own = [name for name in measured if name not in ("survived", "ever_pruned")]
    return scores_of(outcome, list(dict.fromkeys([*known(outcome), *own, *measures]))) | {"weights": count}


def layer_rows(ledger: Ledger, active: Mapping[str, int], network: nn.Module) -> tuple[dict[str, object], ...]:
    """One row per layer: how many connections it had, has, and how many came and went; bits where any are fewer."""
    bits = layer_bits(network) if coded(network) else {}
    rows = (
        {
            "layer": layer,
            "weights": start,
            "active": active.get(layer, 0),
            "sparsity": 1 - active.get(layer, 0) / start if start else 0.0,
            "created": sum(e.created for e in ledger.events if e.layer == layer),
            "pruned": sum(e.pruned for e in ledger.events if e.layer == layer),
        }
        for layer, start in ledger.active_at_start.items()
    )
    return tuple(row | _bits(bits.get(str(row["layer"]).rpartition(".")[0])) for row in rows)


def _bits(layer: LayerBits | None) -> dict[str, object]:
    return {} if layer is None else {"bits": layer.bits, "activation_bits": layer.input_bits}
