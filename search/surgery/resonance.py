"""Resonance at work: connections whose gradients oscillate below a moving threshold are switched off for a while."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from search.surgery.edges import HOLDER as EDGES
from search.surgery.mechanism import Clock, Mechanism, Receipt
from search.surgery.pruning import Pruning
from search.surgery.resonance_controller import AmplitudeController, TargetPath, rise_of
from search.surgery.resonance_history import GradientHistory
from search.surgery.resonance_lag import LagHistory
from search.surgery.resonance_layer import LayerMemory, Switch
from search.surgery.resonance_projection import allowed, project
from search.surgery.resonance_rank import Ranking, by_magnitude, ranking
from search.surgery.resonance_record import CLASSES, Decision, ResonanceRecord
from search.surgery.resonance_reference import Reference
from search.surgery.resonance_spectrum import signal_of
from search.surgery.resonance_wave import wave_at
from search.surgery.selection import best_entry, highest, lowest
from search.surgery.site import Site
from spaces.errors import NetworkError
from spaces.resonance import ResonancePolicy


class Resonance(Mechanism):
    """Carries out a :class:`ResonancePolicy`.

    Args:
        policy: What is asked for.
        pruning: The pruning mechanism that works on the same network, if any: what it has cut stays cut, its N:M
            pattern holds, and the end is the sparser of the two.
    """

    name = "resonance"

    def __init__(self, policy: ResonancePolicy, pruning: Pruning | None = None) -> None:
        self.policy = policy
        self.pruning = pruning

    def attach(self, site: Site) -> None:
        self.site = site
        policy = self.policy
        self._decisions = policy.decision_steps(site.steps)
        self._names = _governed(site.connectivity.weights, policy.exclude)
        weights = {name: site.connectivity.weights[name] for name in self._names}
        self._total = sum(weight.numel() for weight in weights.values())
        self._memories = {name: LayerMemory(weight) for name, weight in weights.items()}
        average = max(1, policy.averaged(site.steps))
        kind = LagHistory if policy.estimator == "lag1" else GradientHistory
        self._history: LagHistory | GradientHistory | None = kind(weights, policy.history, average)
        span = policy.history * average
        self._listens = {s for d in self._decisions for s in range(max(0, d - span + 1), d + 1)}
        self._level = None if policy.significance == "off" else float(policy.significance)
        self.controller = AmplitudeController(policy.base, policy.kp, policy.ki)
        self.path = TargetPath(policy.sparsity, rise_of(len(self._decisions), policy.period, policy.cooling))
        self.reference = Reference(policy.cooling)
        self.record = ResonanceRecord(tuple(self._names))
        self._projected = 0
        self._settled = False
        self._bytes = self._history.bytes() + sum(memory.bytes() for memory in self._memories.values())

    @property
    def floor(self) -> int:
        """Connections of the whole network that stay active at the end, were it for this policy alone."""
        return self.site.connectivity.size - round(self.policy.sparsity * self._total)

    @property
    def sparsity(self) -> float:
        """Share of the governed connections that is off now."""
        return 1 - sum(self.site.connectivity.active[name] for name in self._names) / self._total

    def after_backward(self, clock: Clock) -> None:
        if self._history is None:
            return
        if clock.step in self._listens:
            if clock.step - 1 not in self._listens:
                self._history.restart()
            self._history.record({name: self._gradient(name) for name in self._names})
        if clock.step in self._decisions:
            if self._history.full:
                self._decide(clock.step)
            if clock.step == self._decisions[-1]:
                self._projected = self._project(self.site, self.pruning is not None and self.pruning.settled)
                self._settle()

    def end_of_iteration(self, clock: Clock, score: float | None) -> None:
        self.path.steer(score)

    def project(self, site: Site) -> None:
        if not self._settled:
            # Pruning has brought the copy to its end before.
            self._project(site, pruned=True)

    def finish(self) -> Receipt:
        rows, period = self.record.decisions, self.policy.period
        last = rows[-1] if rows else None
        return {
            "decisions": float(len(rows)),
            "active": float(sum(self.site.connectivity.active[name] for name in self._names)),
            "governed": float(self._total),
            "disabled": sum(row.disabled for row in rows),
            "restored": sum(row.restored for row in rows),
            "overridden": sum(row.overridden for row in rows),
            "projected": float(self._projected),
            "projection": self._projected / self._total,
            "before_projection": self.record.mean_sparsity(period),
            "target": last.target if last else 0.0,
            "threshold": last.threshold if last else 0.0,
            "amplitude": last.amplitude if last else 0.0,
            "integral": self.controller.integral,
            "clipped": float(self.controller.clipped),
            "pace": self.path.pace,
            "resonant": last.resonant if last else 0.0,
            "steady": last.steady if last else 0.0,
            "averaged": float(self.policy.averaged(self.site.steps)),
            "bytes_per_weight": self._bytes / self._total,
            # What comes back with its stored value changes outputs.
            "stored": sum(row.restored for row in rows) if self.policy.resume == "stored" else 0.0,
        }

    def figures(self) -> Mapping[str, float]:
        """Where the threshold and its controller stand, and the share of the connections per class of frequencies."""
        if not self.record.decisions:
            return {}
        last = self.record.decisions[-1]
        counts = torch.stack(list(self.record.spectra.values())).sum(0) / self._total
        spectrum = {f"spectrum/{0.5 * (i + 0.5) / CLASSES:.4f}": float(share) for i, share in enumerate(counts)}
        return {
            "threshold": last.threshold,
            "amplitude": last.amplitude,
            "target": last.target,
            "sparsity": last.sparsity,
            "active": float(sum(self.site.connectivity.active[name] for name in self._names)),
            "decisions": float(len(self.record.decisions)),
        } | spectrum

    def trace(self) -> dict[str, object]:
        """All decisions and spectra, JSON-able: see :meth:`ResonanceRecord.trace`."""
        return self.record.trace()

    def state(self) -> dict[str, Tensor]:
        numbers = [self.controller.integral, self.controller.clipped, self.path.progress, self.path.pace]
        score = [] if self.path.score is None else [self.path.score]
        state = {
            "numbers": torch.tensor([*numbers, self._projected, self._settled], dtype=torch.float64),
            "score": torch.tensor(score, dtype=torch.float64),
        }
        state |= {f"record/{name}": value for name, value in self.record.state().items()}
        state |= {f"reference/{name}": value for name, value in self.reference.state().items()}
        for name, memory in self._memories.items():
            state |= {f"count/{name}": memory.count.clone(), f"stored/{name}": memory.stored.clone()}
        if self._history is not None:
            state |= {f"history/{name}": value for name, value in self._history.state().items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        integral, clipped, progress, pace, projected, settled = state["numbers"].tolist()
        self.controller.integral, self.controller.clipped = integral, int(clipped)
        self.path.progress, self.path.pace = progress, pace
        self.path.score = float(state["score"][0]) if state["score"].numel() else None
        self._projected = int(projected)
        self.record.load_state(_under("record", state))
        self.reference.load_state(_under("reference", state))
        if settled:
            self._settle()
            return
        for name, memory in self._memories.items():
            memory.count.copy_(state[f"count/{name}"])
            memory.stored.copy_(state[f"stored/{name}"])
        if self._history is not None:
            self._history.load_state(_under("history", state))

    # -- one decision -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _decide(self, step: int) -> None:
        policy, number = self.policy, len(self.record.decisions)
        target = max(self.path.advance(number), self._due())
        wave = wave_at(number, shape=policy.wave, bits=policy.bits, period=policy.period)
        amplitude = self.controller.amplitude(target, self.reference.sparsity - self.sparsity)
        self.reference.decide(*self._levels(self.controller.forward(target), wave))
        threshold, returning = self._levels(amplitude, wave)
        totals = dict.fromkeys(("disabled", "restored", "overridden", "resonant", "steady"), 0)
        cycles = {}
        for name in self._names:
            ranked = self._ranking(name)
            mask = self.site.connectivity.masks[name]
            reaches, returns = ranked.reaches(threshold), ranked.reaches(returning)
            switch = self._memories[name].decide(mask, reaches, returns, policy.cooling)
            disabled, restored = self._switch(name, ranked, switch)
            totals["disabled"] += disabled
            totals["restored"] += restored
            asked = int(switch.disable.count_nonzero()) + int(switch.restore.count_nonzero())
            totals["overridden"] += asked - disabled - restored
            totals["resonant"] += int(ranked.signal.resonant.count_nonzero())
            totals["steady"] += int(ranked.signal.steady.count_nonzero())
            cycles[name] = ranked.cycles(reaches)
            self.record.spectrum(name, ranked.signal.frequency, ranked.signal.resonant)
        shares = {name: totals.pop(name) / self._total for name in ("resonant", "steady")}
        counts = {name: float(count) for name, count in totals.items()}
        row = Decision(
            float(step), threshold, amplitude, target, self.sparsity, pace=self.path.pace, **counts, **shares
        )
        self.record.add(row, cycles)

    def _levels(self, amplitude: float, wave: float) -> tuple[float, float]:
        """The threshold, and where a connection must stand to come back.

        What is off comes back where it would hold at the wave's crest, too. Against the threshold of the moment, all of
        it would come back in every trough, and no amplitude could raise the mean sparsity above (1 + base) / 2.
        """
        crest = self.policy.base + amplitude
        return self.policy.base + amplitude * wave, crest + self.policy.hysteresis * (1 - crest)

    def _switch(self, name: str, ranked: Ranking, switch: Switch) -> tuple[int, int]:
        """Carry out what a decision asks of a layer, as far as the others allow; how many went and came."""
        connectivity, memory = self.site.connectivity, self._memories[name]
        weight, mask = connectivity.weights[name], connectivity.masks[name]
        goes, comes = memory.shaped(switch.disable), memory.shaped(switch.restore)
        spared = connectivity.spared.get(name)
        free = connectivity.free(name)
        may_go = mask if spared is None else mask & ~spared
        may_go = may_go if free is None else may_go & free
        scores = memory.shaped(ranked.key)
        goes = goes & may_go
        comes = allowed(connectivity, self.pruning, name, scores, comes)
        if self.policy.criterion != "resonance":
            goes, comes = self._control(name, goes, comes, may_go)
        if int(goes.count_nonzero()) == connectivity.active[name]:
            goes = goes & ~best_entry(scores, mask)
        stored = self.policy.resume == "stored"
        values = memory.shaped(memory.stored).clone() if stored else None
        memory.switched(weight, memory.flat(goes), memory.flat(comes), stored)
        disabled = connectivity.prune(name, goes, "resonance", self.policy.criterion)
        restored = connectivity.create(name, comes, "resonance", self.policy.criterion, values)
        return disabled, restored

    def _control(self, name: str, goes: Tensor, comes: Tensor, may_go: Tensor) -> tuple[Tensor, Tensor]:
        """As many, chosen by magnitude or by lot: what a control of equal churn would switch."""
        connectivity, memory = self.site.connectivity, self._memories[name]
        if self.policy.criterion == "random":
            scores = torch.rand(goes.shape, generator=self.site.generator).to(goes.device)
        else:
            scores = memory.shaped(memory.magnitude(connectivity.weights[name]))
        # These have had their turn, whatever the control takes in their place.
        memory.count.masked_fill_(memory.flat(goes), 0)
        own = memory.shaped(memory.own(connectivity.masks[name]))
        absent = allowed(connectivity, self.pruning, name, scores, own)
        return lowest(scores, int(goes.count_nonzero()), may_go), highest(scores, int(comes.count_nonzero()), absent)

    def _ranking(self, name: str) -> Ranking:
        memory, weight = self._memories[name], self.site.connectivity.weights[name]
        magnitude = memory.magnitude(weight)
        history = self._history
        if history is None or not history.full:
            return by_magnitude(magnitude)
        if isinstance(history, LagHistory):
            signal = history.signal(name, self._level)
        else:
            signal = signal_of(history, name, weight.numel(), self._level)
        return ranking(signal, magnitude, self.policy.keep)

    def _due(self) -> float:
        """The sparsity that pruning asks for by now: resonance does not fall below it."""
        if self.pruning is None or self.pruning.policy.granularity == "channel":
            return 0.0
        goes = self.site.connectivity.size - self.pruning.floor
        return min(1.0, self.pruning.progress * goes / self._total)

    def _gradient(self, name: str) -> Tensor:
        weight = self.site.connectivity.weights[name]
        gradient = weight.grad if weight.grad is not None else torch.zeros_like(weight)
        return self._memories[name].flat(gradient)

    # -- the end ----------------------------------------------------------------------------------------------------

    def _project(self, site: Site, pruned: bool) -> int:
        """To the exact end; to pruning's, too, where that has been reached and is the sparser one."""
        keep = self.floor
        if pruned and self.pruning is not None and self.pruning.policy.granularity != "channel":
            keep = min(keep, self.pruning.floor)
        positions = {name: self._position(name, site) for name in self._names}
        stored = self.policy.resume == "stored"
        return project(site.connectivity, self.pruning, self._memories, positions, keep, stored)

    def _position(self, name: str, site: Site) -> Tensor:
        memory = self._memories[name]
        if self.policy.criterion == "random":
            weight = site.connectivity.weights[name]
            return memory.flat(torch.rand(weight.shape, generator=site.generator).to(weight.device))
        if self.policy.criterion == "magnitude":
            return by_magnitude(memory.magnitude(site.connectivity.weights[name])).positions()
        return self._ranking(name).positions()

    def _settle(self) -> None:
        """Nothing changes any more: the memory is free."""
        self._settled = True
        self._history = None
        self._memories = {}


def _governed(weights: Iterable[str], exclude: str) -> list[str]:
    """The weights a policy may touch: all but edges, and the first and the last layer where it excludes them."""
    names = [name for name in weights if not name.startswith(f"{EDGES}.")]
    first = 1 if exclude in ("first", "both") else 0
    last = len(names) - (1 if exclude in ("last", "both") else 0)
    if not names[first:last]:
        raise NetworkError(
            f"resonance.exclude = {exclude} must leave a layer, but the network has {len(names)}: use exclude none"
        )
    return names[first:last]


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{prefix}/"): value for key, value in state.items() if key.startswith(f"{prefix}/")}
