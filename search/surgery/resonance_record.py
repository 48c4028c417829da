"""What resonance did, decision by decision: small, JSON-able, and part of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields

import torch
from torch import Tensor

from search.surgery.ranking import positions

#: Classes of frequency that a spectrum is told in, from 0 to half a cycle per step.
CLASSES = 16


@dataclass(frozen=True)
class Decision:
    """One decision.

    Args:
        step: The optimizer step.
        threshold: T, a quantile of each layer's frequencies.
        amplitude: A, of the threshold's wave.
        target: The sparsity that was wanted.
        sparsity: Of the governed weights, after the decision.
        disabled: Connections switched off.
        restored: Connections switched on.
        overridden: Proposals that were not carried out.
        resonant: Share of the governed connections with a significant peak.
        steady: Share that is protected.
        pace: At which the target rose, of the planned pace.
    """

    step: float
    threshold: float
    amplitude: float
    target: float
    sparsity: float
    disabled: float
    restored: float
    overridden: float
    resonant: float
    steady: float
    pace: float


COLUMNS = tuple(field.name for field in fields(Decision))


class ResonanceRecord:
    """All decisions, each layer's last spectrum, and its threshold in cycles per step over the decisions.

    Args:
        layers: Names of the governed weights.
    """

    def __init__(self, layers: tuple[str, ...]) -> None:
        self.layers = layers
        self.decisions: list[Decision] = []
        self.spectra: dict[str, Tensor] = {name: torch.zeros(CLASSES, dtype=torch.int64) for name in layers}
        self._cycles: list[list[float]] = []

    def add(self, decision: Decision, cycles: Mapping[str, float]) -> None:
        """Take down one decision, and each layer's threshold in cycles per step."""
        self.decisions.append(decision)
        self._cycles.append([cycles[name] for name in self.layers])

    def spectrum(self, name: str, frequency: Tensor, resonant: Tensor) -> None:
        """Take down how many connections of a layer oscillate in each class of frequencies."""
        self.spectra[name] = torch.histc(frequency[positions(resonant)], CLASSES, 0, 0.5).to(torch.int64).cpu()

    def mean_sparsity(self, last: int) -> float:
        """Over the last so many decisions; 0 before the first."""
        rows = self.decisions[-last:]
        return sum(row.sparsity for row in rows) / len(rows) if rows else 0.0

    def trace(self) -> dict[str, object]:
        """JSON-able: ``columns`` and ``decisions`` (rows), ``edges`` of the classes in cycles per step, and per layer
        ``spectra`` (resonant connections per class at the last decision) and ``thresholds`` (cycles per step)."""
        return {
            "columns": list(COLUMNS),
            "decisions": [list(astuple(row)) for row in self.decisions],
            "edges": [0.5 * i / CLASSES for i in range(CLASSES + 1)],
            "spectra": {name: counts.tolist() for name, counts in self.spectra.items()},
            "thresholds": {name: [row[i] for row in self._cycles] for i, name in enumerate(self.layers)},
        }

    def state(self) -> dict[str, Tensor]:
        rows = torch.tensor([astuple(row) for row in self.decisions], dtype=torch.float64).reshape(-1, len(COLUMNS))
        cycles = torch.tensor(self._cycles, dtype=torch.float64).reshape(-1, len(self.layers))
        spectra = torch.stack(list(self.spectra.values()))
        return {"decisions": rows, "cycles": cycles, "spectra": spectra}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.decisions = [Decision(*row) for row in state["decisions"].tolist()]
        self._cycles = state["cycles"].tolist()
        self.spectra = {name: row.clone() for name, row in zip(self.layers, state["spectra"], strict=True)}
