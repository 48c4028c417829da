"""Granularity at work: layers get a precision, and a controller moves it while they train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.mode import evaluating
from objectives.task import call, move
from search.surgery import granularity_codes as codes
from search.surgery.granularity_controllers import Controller, InputVariance, Learned, controller_for
from search.surgery.granularity_levels import View, mean, steady, within
from search.surgery.granularity_places import eligible, groups_of
from search.surgery.granularity_rows import kind_of
from search.surgery.granularity_units import Grain, GranularityUnit, Moves, Seen, grains, put_on, units
from search.surgery.mechanism import Clock, Mechanism, Receipt
from search.surgery.site import Site
from spaces.granularity import GranularityPolicy

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
#: Mean square of the relative error of rounding to 16 bits: a third of a unit of 2^-9 (2^-12), squared.
_HALF_NOISE = {torch.bfloat16: 2.0**-18 / 3, torch.float16: 2.0**-24 / 3}
#: What float32 is taken to add, so that a ratio can always be formed.
_FLOOR = 1e-20
#: Batches that are looked at before training, and how fast the running mean of a variance follows.
_PROBED = 2
_FOLLOWS = 0.1
#: How much the finest level is preferred at the start.
_PREFERENCE = 3.0


class Granularity(Mechanism):
    """Carries out a :class:`GranularityPolicy`.

    A unit is a layer, or a group of its output channels; every layer holds how fine its units are, so that a copy of
    the network is as fine as the network. A batch runs at the level that was decided from earlier batches.

    Args:
        policy: What is asked for.
    """

    name = "granularity"

    def __init__(self, policy: GranularityPolicy) -> None:
        self.policy = policy
        self._half = _HALVES[policy.half]
        self._controller: Controller = controller_for(policy)
        self._decided = self._switches = 0
        self._logits: nn.Parameter | None = None

    def attach(self, site: Site) -> None:
        self.site = site
        self._decisions = self.policy.decision_steps(site.steps)
        names, self._left_alone = eligible(site)
        for layer in names.values():
            grain = Grain(groups_of(layer, self.policy.group), [], self.policy.activations, self._half)
            grain.bits = [32] * len(grain.counts)
            put_on(layer, grain)
        work = self._probe(site)
        total = sum(work.values()) or 1.0
        self._owners = [(name, unit) for name, grain in grains(site.network).items() for unit in range(len(grain.bits))]
        ends = {next(iter(names)), next(reversed(names))} if self.policy.ends == "eight" and names else set()
        ladder = self.policy.ladder
        self._ladders = [tuple(b for b in ladder if name not in ends or b >= 8) for name, _ in self._owners]
        layers = grains(site.network)
        self._shares = [
            work.get(name, 0.0) / total * layers[name].counts[unit] / sum(layers[name].counts)
            for name, unit in self._owners
        ]
        #: What each unit wants; caps may hold it lower.
        self._wanted = [32] * len(self._owners)
        self._given = list(self._wanted)
        self._since = [0] * len(self._owners)
        self._running: dict[str, float] = {name: grain.seen.mean()[0] for name, grain in layers.items()}
        self._ratios = dict.fromkeys(layers, 1.0)
        self._inputs: dict[str, tuple[float, float, float]] = {n: grain.seen.mean() for n, grain in layers.items()}
        if isinstance(self._controller, Learned) and self._owners:
            start = torch.zeros(len(self._owners), len(ladder))
            start[:, 0] = _PREFERENCE
            barred = [[level not in own for level in ladder] for own in self._ladders]
            self._barred = torch.tensor(barred, device=site.device)
            self._logits = nn.Parameter(start.to(site.device))
            if site.optimizer is not None:
                site.optimizer.adopt([self._logits], self.policy.gate_rate)
        for grain in layers.values():
            grain.seen = Seen()

    @property
    def settled(self) -> bool:
        """Whether the last decision has been made."""
        return self._decided >= len(self._decisions)

    # -- in the loop ------------------------------------------------------------------------------------------------

    def before_forward(self, clock: Clock) -> None:
        self._given = list(self._wanted)
        if self.site.resources is not None:
            ladders = [own if 32 in own else (32, *own) for own in self._ladders]
            wanted = {f"{name}[{unit}]": bits for (name, unit), bits in zip(self._owners, self._wanted, strict=True)}
            self._given = list(self.site.resources.given(wanted, ladders))
        self._apply(self.site, self._given)
        for grain in grains(self.site.network).values():
            grain.watching = not self.settled
        if self._logits is not None and not self.settled:
            self._sample(self._preferred())

    def penalty(self) -> Tensor | None:
        """The weight of the policy times the sum of cost share times expected bits.

        Where levels are learned these are the expected bits themselves; elsewhere the bits that a layer's range takes
        beyond its mean square, log2(max|w| / rms(w)) on average over the channels: the fewer, the coarser it can be.
        """
        if self.policy.penalty == 0 or not self._owners or (self._logits is not None and self.settled):
            return None
        if self._logits is not None:
            bits = torch.tensor(self.policy.ladder, device=self._logits.device, dtype=self._logits.dtype)
            shares = torch.tensor(self._shares, device=self._logits.device, dtype=self._logits.dtype)
            return self.policy.penalty * (shares * (F.softmax(self._preferred(), 1) * bits).sum(1)).sum()
        shares_by_layer: dict[str, float] = {}
        for (name, _), share in zip(self._owners, self._shares, strict=True):
            shares_by_layer[name] = shares_by_layer.get(name, 0.0) + share
        layers = units(self.site.network)
        excess = [share * codes.excess_bits(layers[name].weight) for name, share in shares_by_layer.items()]
        return self.policy.penalty * torch.stack(excess).sum()

    def after_step(self, clock: Clock) -> None:
        for grain in grains(self.site.network).values():
            grain.mixture = None
        if clock.step in self._decisions and not self.settled:
            self._decide()

    def _decide(self) -> None:
        self._look()
        last = self._decided == len(self._decisions) - 1
        budget = self.policy.budget_at(self._decided, len(self._decisions))
        self._decided += 1
        views = self._views(self.site, hold=not last)
        wanted = self._controller.wanted(views, budget)
        levels = within(views, wanted, budget) if last else steady(views, wanted, budget)
        for unit, level in enumerate(levels):
            self._since[unit] += 1
            if level != self._wanted[unit]:
                self._since[unit] = 0
                self._switches += 1
        self._wanted = list(levels)
        self._apply(self.site, self._allowed(levels))
        if last:
            self._let_go()

    def _keep_moving(self) -> None:
        """Tell every layer how it goes on choosing, if it is to."""
        if not self.policy.dynamic or not isinstance(self._controller, InputVariance):
            return
        for i, (name, _) in enumerate(self._owners):
            levels = tuple(level for level in self._ladders[i] if level <= 8)
            thresholds = self._controller.thresholds()
            grain = grains(self.site.network)[name]
            grain.moves = Moves(levels, thresholds, self.policy.dwell, self._running[name])

    def _look(self) -> None:
        """Take in what has been seen since the last decision."""
        for name, grain in grains(self.site.network).items():
            if grain.seen.count:
                self._inputs[name] = grain.seen.mean()
                variance, running = self._inputs[name][0], self._running[name]
                self._ratios[name] = variance / running if running > 0 else 1.0
                self._running[name] = (1 - _FOLLOWS) * running + _FOLLOWS * variance
            grain.seen = Seen()

    def _views(self, site: Site, hold: bool) -> list[View]:
        layers, found = units(site.network), []
        scores = self._preferred().tolist() if self._logits is not None else None
        ladder = self.policy.ladder
        noises = {name: self._noises(layer, self._inputs[name]) for name, layer in layers.items()}
        for i, (name, unit) in enumerate(self._owners):
            own = self._ladders[i]
            held = hold and self._wanted[i] in own and self._since[i] < self.policy.dwell
            chosen = tuple(scores[i][ladder.index(level)] for level in own) if scores is not None else ()
            noise = tuple(noises[name][unit][level] for level in own)
            found.append(View(self._shares[i], own, self._wanted[i], noise, self._ratios[name], chosen, held))
        return found

    @torch.no_grad()
    def _noises(self, layer: Any, inputs: tuple[float, float, float]) -> list[dict[int, float]]:
        """Per unit of a layer and per level, the noise over signal of what it multiplies: weights' plus inputs'."""
        weight, grain = layer.weight.detach(), layer.grain
        _, square, noise = inputs
        found: list[dict[int, float]] = [{} for _ in grain.counts]
        power = [float(part.double().square().sum()) for part in weight.split(list(grain.counts))]
        for level in self.policy.ladder:
            error = (codes.quantized(weight, level, self._half) - weight).double()
            errors = [float(part.square().sum()) for part in error.split(list(grain.counts))]
            heard = 0.0
            if self.policy.activations != "none":
                coarse = noise / square if square > 0 else 0.0
                heard = {"full": 0.0, "half": _HALF_NOISE[self._half], "coded": coarse}[kind_of(level)]
            for unit, own in enumerate(found):
                own[level] = (errors[unit] / power[unit] if power[unit] > 0 else 0.0) + heard + _FLOOR * 2.0**-level
        return found

    def _preferred(self) -> Tensor:
        """(units, levels): the learned preferences; -inf for a level that a unit may not have."""
        if self._logits is None:
            raise ValueError("preferences are learned by the learned controller only: set controller = learned")
        return self._logits.masked_fill(self._barred, -math.inf)

    def _sample(self, logits: Tensor) -> None:
        """Choose a level per unit at random by its preference, with a gradient for the preference (Gumbel softmax)."""
        uniform = torch.rand(logits.shape, generator=self.site.generator).clamp_(1e-9, 1 - 1e-7).to(logits.device)
        if self.site.resources is not None:
            ladder = torch.tensor(self.policy.ladder, device=logits.device)
            most = torch.tensor([max(own[-1], cap) for own, cap in zip(self._ladders, self._given, strict=True)])
            logits = logits.masked_fill(ladder > most.to(logits.device)[:, None], -math.inf)
        soft = F.softmax(logits - (-uniform.log()).log(), 1)
        hard = F.one_hot(soft.argmax(1), logits.shape[1]).to(soft.dtype)
        choice = hard + soft - soft.detach()
        picked, start = hard.argmax(1).tolist(), 0
        for grain in grains(self.site.network).values():
            stop = start + len(grain.bits)
            grain.ladder, grain.mixture = self.policy.ladder, choice[start:stop]
            grain.bits = [self.policy.ladder[place] for place in picked[start:stop]]
            start = stop

    # -- levels -----------------------------------------------------------------------------------------------------

    def _apply(self, site: Site, levels: list[int]) -> None:
        layers = grains(site.network)
        for name in layers:
            layers[name].bits = [0] * len(layers[name].bits)
        for (name, unit), level in zip(self._owners, levels, strict=True):
            layers[name].bits[unit] = level

    def _allowed(self, levels: Sequence[int]) -> list[int]:
        """The levels, held to what the last batch might have."""
        caps = self.site.resources.allowed if self.site.resources is not None else ()
        return [min(level, cap) for level, cap in zip(levels, caps, strict=True)] if caps else list(levels)

    def project(self, site: Site) -> None:
        if not self.settled:
            views = self._views(site, hold=False)
            twin = controller_for(self.policy)
            twin.load_state(self._controller.state())
            levels = within(views, twin.wanted(views, self.policy.bits), self.policy.bits)
            self._apply(site, self._allowed(levels))

    @torch.no_grad()
    def _probe(self, site: Site) -> dict[str, float]:
        """Look at a few batches before training; the multiply-accumulates per sample of each layer."""
        work: dict[str, float] = {}

        def counting(name: str, layer: Any) -> Any:
            def hook(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
                work[name] = work.get(name, 0.0) + output[0].numel() * layer.weight[0].numel()

            return hook

        layers = units(site.network)
        handles = [layer.register_forward_hook(counting(name, layer)) for name, layer in layers.items()]
        for grain in grains(site.network).values():
            grain.watching = True
        try:
            with evaluating(site.network):
                batches = [inputs for inputs, _ in site.batches(_PROBED, 0)] if site.task is not None else []
                for inputs in batches or [site.example_inputs]:
                    call(site.network, move(inputs, site.device))
        finally:
            for handle in handles:
                handle.remove()
            for grain in grains(site.network).values():
                grain.watching = False
        return work

    # -- the end, and saving ----------------------------------------------------------------------------------------

    def finish(self) -> Receipt:
        self._let_go()
        self._keep_moving()
        weights = {name: layer.weight.numel() for name, layer in units(self.site.network).items()}
        layers = grains(self.site.network)
        now = [layers[name].bits[unit] for name, unit in self._owners]
        sizes = [weights[name] * layers[name].counts[unit] / sum(layers[name].counts) for name, unit in self._owners]
        views = [View(share, (32,), 32, (1.0,)) for share in self._shares]
        return {
            "decisions": float(self._decided),
            "switches": float(self._switches),
            "units": float(len(self._owners)),
            "left_alone": float(self._left_alone),
            "overrides": float(len(self.site.resources.overrides) if self.site.resources is not None else 0),
            "mean_bits": mean(views, now),
            "weight_bits": sum(b * s for b, s in zip(now, sizes, strict=True)) / (sum(sizes) or 1.0),
        }

    def _let_go(self) -> None:
        for grain in grains(self.site.network).values():
            grain.watching, grain.mixture = False, None
        if self._logits is not None and self.site.optimizer is not None and self.settled:
            self._logits.requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        layers = grains(self.site.network)
        rows = [
            [layers[name].bits[unit], self._wanted[i], self._since[i]] for i, (name, unit) in enumerate(self._owners)
        ]
        state = {
            "counts": torch.tensor([self._decided, self._switches]),
            "units": torch.tensor(rows, dtype=torch.int64).reshape(-1, 3),
        }
        for place, name in enumerate(layers):
            seen, values = layers[name].seen, [self._running[name], self._ratios[name], *self._inputs[name]]
            state[f"layer/{place}"] = torch.cat([seen.state(), torch.tensor(values, dtype=torch.float64)])
            if (peak := layers[name].range) is not None:
                state[f"range/{place}"] = peak.clone()
        if self._logits is not None:
            state["logits"] = self._logits.detach().clone()
        return state | {f"controller/{name}": value for name, value in self._controller.state().items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._decided, self._switches = state["counts"].tolist()
        rows = state["units"].tolist()
        self._wanted, self._since = [row[1] for row in rows], [row[2] for row in rows]
        self._apply(self.site, [row[0] for row in rows])
        for place, (name, grain) in enumerate(grains(self.site.network).items()):
            values = state[f"layer/{place}"]
            grain.seen = Seen.from_state(values[:4])
            running, ratio, *inputs = values[4:].tolist()
            self._running[name], self._ratios[name] = running, ratio
            self._inputs[name] = (inputs[0], inputs[1], inputs[2])
            if f"range/{place}" in state:
                grain.range = state[f"range/{place}"].to(self.site.device).clone()
        if self._logits is not None:
            self._logits.copy_(state["logits"].to(self._logits.device))
        own = {k.removeprefix("controller/"): v for k, v in state.items() if k.startswith("controller/")}
        self._controller.load_state(own)


__all__ = ["Granularity", "GranularityUnit"]
