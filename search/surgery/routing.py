"""Routing at work: gates that learn, sample by sample, which blocks of the network are worth running."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from objectives.execution import Gate, computed_for, gated, gates
from objectives.mode import evaluating
from objectives.task import call, move
from search.surgery.mechanism import Clock, Mechanism, Receipt
from search.surgery.routing_blocks import Block, blocks, inner_channels, node_macs
from search.surgery.routing_gate import Annealing, RoutingGate
from search.surgery.routing_graph import HOLDER, add_skip, gate_name, insert, skip_weights
from search.surgery.routing_static import remove_blocks
from search.surgery.site import Site
from spaces.errors import NetworkError
from spaces.routing import STATIC, RoutingPolicy

#: Training batches on which it is seen which gates have turned static.
BATCHES = 8
#: Bits: a gate whose entropy is above this may yet change its mind.
SURE = 0.3
#: Slope that the cost always has for a gate's value, beside that of its probability.
LEAK = 0.01
#: Norm to which the gradient of one gate is clipped.
STEEPEST = 0.1


@dataclass(frozen=True)
class _Use:
    """What one gate does with some samples.

    Args:
        open: Per choice, the share of the samples for which it is open.
        entropy: Mean over samples of the entropy of one choice, in bits: how sure the gate is.
        spread: Entropy of the mean choice, in bits: 0 where all samples fare alike.
    """

    open: tuple[float, ...]
    entropy: float
    spread: float


class Routing(Mechanism):
    """Carries out a :class:`RoutingPolicy`."""

    name = "routing"

    def __init__(self, policy: RoutingPolicy) -> None:
        self.policy = policy
        self._settled = 0
        self._refused: set[str] = set()

    def attach(self, site: Site) -> None:
        if site.graph is None:
            raise NetworkError(f"routing needs a network that torch.fx can trace: {site.untraceable}")
        self.site = site
        self._decisions = self.policy.decision_steps(site.steps)
        self._annealing = Annealing(site.generator, hard=self.policy.mode == "hard")
        self._blocks = self._chosen(site.graph)
        self._skips: list[str] = []
        cpu = copy.deepcopy(site.graph).cpu()
        total = sum(node_macs(cpu, tuple(x.cpu() for x in site.example_inputs)).values())
        self._share = {gate_name(block): block.macs / total for block in self._blocks}
        # The last one first: what an earlier block hands on, once it is gated, is then what a later one reads.
        for block in reversed(self._blocks):
            self._add(site, site.graph, block)
        held = site.graph.get_submodule(HOLDER)._modules
        for name in reversed(list(held)):
            held[name] = held.pop(name)
        if site.task is not None and self.policy.mode != "static":
            for gate, pooled in self._heard(lambda gate, x: gate.pooled(x), step=0):
                gate.standardize(pooled)
        site.rewired()
        site.barred = self._bars
        self._use: dict[str, _Use] = {}
        if self.policy.mode == "static":
            for gate in self._gates().values():
                gate.forced = (1,)

    def before_forward(self, clock: Clock) -> None:
        progress = self.policy.progress(clock.step, clock.steps)
        self._annealing.tau = self.policy.tau_at(clock.step, clock.steps)
        self._annealing.noise = self.policy.noise * progress
        self._target = self.policy.target_at(clock.step, clock.steps)

    def penalty(self) -> Tensor | None:
        """lambda (expected cost - target)^2 + confidence * mean H(p) + l1 * sum of |w| over added skips."""
        cost, entropies, loss = torch.zeros(()), [], None
        fixed = 1 - sum(self._share.values())
        for name, gate in self._gates().items():
            if gate.fixed:
                fixed += self._share[name] * float((torch.tensor(gate.forced) * gate.parts().cpu()).sum())
                continue
            z_BU = gate.latest
            if z_BU is None:
                continue
            gate.latest = None
            p_BU = torch.sigmoid(z_BU / self._annealing.tau)
            # What inference will pay, with the gradient of the probability; a little more, so that none is ever stuck.
            slope_BU = p_BU + LEAK * z_BU
            g_BU = gate.choices(z_BU.detach()) - slope_BU.detach() + slope_BU
            free_U = torch.tensor([f < 0 for f in gate.forced or [-1] * gate.units], device=z_BU.device)
            cost = cost.to(z_BU.device) + self._share[name] * (g_BU.mean(0) * gate.parts()).sum()
            entropies.append(entropy(z_BU / self._annealing.tau)[:, free_U].mean())
        if entropies:
            loss = self.policy.cost_weight * (fixed + cost - self._target).square()
            loss = loss + self.policy.confidence * torch.stack(entropies).mean()
        if self.site.graph is not None and self.policy.l1 > 0:
            for weight in skip_weights(self.site.graph, self._skips):
                loss = self.policy.l1 * weight.abs().sum() + (0 if loss is None else loss)
        return loss

    def after_backward(self, clock: Clock) -> None:
        # One steep batch would otherwise throw a gate so far open, or shut, that it never moves again.
        for gate in self._gates().values():
            torch.nn.utils.clip_grad_norm_(gate.parameters(), STEEPEST)

    def after_step(self, clock: Clock) -> None:
        if clock.step not in self._decisions:
            return
        self._settled += 1
        if self.policy.mode == "static":
            share = (self._decisions.index(clock.step) + 1) / len(self._decisions)
            remove_blocks(self.site, self._share, 1 - (1 - self.policy.target_cost) * share, clock.step)
            self._use = {n: _Use((float(g.forced[0]),), 0.0, 0.0) for n, g in self._gates().items()}
        elif self.site.task is not None:
            self._use = self._looked(clock.step)
            self._settle(last=clock.step == self._decisions[-1])

    def project(self, site: Site) -> None:
        """The gates as they are, and what runs as often as the policy aims at; or the blocks gone that are to go."""
        if self.policy.mode == "static":
            remove_blocks(site, self._share, self.policy.target_cost, self._settled)
            return
        free = {name: gate for name, gate in gates(site.network).items() if isinstance(gate, RoutingGate)}
        fixed, open_share = 1 - sum(self._share.values()), 0.0
        for name, gate in free.items():
            parts = gate.parts().tolist()
            for unit, part in enumerate(parts):
                forced = gate.forced[unit] if gate.forced else -1
                fixed += self._share[name] * part * (forced == 1)
                open_share += self._share[name] * part * (forced < 0)
        use = min(1.0, max(0.0, (self.policy.target_cost - fixed) / open_share)) if open_share else 1.0
        for gate in free.values():
            shares = [use if f < 0 else float(f) for f in gate.forced or (-1,) * gate.units]
            gate.claim = (torch.tensor(shares) * gate.parts().cpu()).sum()

    def finish(self) -> Receipt:
        self.site.barred = None
        for gate in self._gates().values():
            gate.annealing = gate.latest = None
        names = {gate_name(block): block.name for block in self._blocks}
        receipt = {"decisions": float(self._settled), "gates": float(len(names)), "refused": float(len(self._refused))}
        every = self._use.values()
        receipt["shut"] = float(sum(self._forced(name, 0) for name in names))
        receipt["always_open"] = float(sum(self._forced(name, 1) for name in names))
        receipt["dynamic"] = receipt["gates"] - receipt["shut"] - receipt["always_open"]
        receipt["entropy"] = sum(use.entropy for use in every) / max(1, len(self._use))
        receipt["spread"] = sum(use.spread for use in every) / max(1, len(self._use))
        for name, use in self._use.items():
            skipped = 1 - sum(use.open) / len(use.open)
            receipt |= {
                f"skipped/{names[name]}": skipped,
                f"entropy/{names[name]}": use.entropy,
                f"spread/{names[name]}": use.spread,
            }
        return receipt

    def state(self) -> dict[str, Tensor]:
        state = {"settled": torch.tensor(self._settled)}
        for name, gate in self._gates().items():
            state[f"forced/{name}"] = torch.tensor(gate.forced or [-1] * gate.units)
        for name, use in self._use.items():
            state[f"use/{name}"] = torch.tensor([use.entropy, use.spread, *use.open], dtype=torch.float64)
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._settled = int(state["settled"])
        for name, gate in self._gates().items():
            forced = tuple(state[f"forced/{name}"].tolist())
            gate.forced = forced if any(f >= 0 for f in forced) else ()
        for key, value in state.items():
            if key.startswith("use/"):
                certain, spread, *open_ = value.tolist()
                self._use[key.removeprefix("use/")] = _Use(tuple(open_), certain, spread)

    # -- putting gates in -------------------------------------------------------------------------------------------

    def _chosen(self, traced: fx.GraphModule) -> list[Block]:
        policy, inputs = self.policy, self.site.example_inputs
        # Counted on the CPU, where every operation can be.
        cpu, inputs = copy.deepcopy(traced).cpu(), tuple(x.cpu() for x in inputs)
        if policy.unit == "channel_group":
            found = inner_channels(cpu, inputs)
            found = [block for block in found if _width(block) >= policy.groups]
        else:
            found = [b for b in blocks(cpu, inputs) if policy.blocks == "all" or b.kind != "plain"]
        first = 1 if policy.exclude in ("first", "both") else 0
        last = len(found) - (1 if policy.exclude in ("last", "both") else 0)
        if first >= last:
            what = "a block with a shortcut" if policy.blocks == "residual" or policy.unit != "block" else "a block"
            raise NetworkError(
                f"routing needs {what} that an input can bypass, but the network has {len(found)} with exclude "
                f"{policy.exclude}: use blocks all, exclude none, or leave routing off"
            )
        return found[first:last]

    def _add(self, site: Site, traced: fx.GraphModule, block: Block) -> None:
        policy = self.policy
        if block.kind == "plain":
            weight = add_skip(traced, block)
            site.connectivity.adopt(weight, lr_factor=1.0)
            everything = torch.ones_like(site.connectivity.weights[weight], dtype=torch.bool)
            site.connectivity.create(weight, everything, self.name, "skip")
            self._skips.append(weight)
        grouped = policy.unit == "channel_group"
        entry, end = block.shapes
        gate = RoutingGate(
            channels=entry[-1 if block.last else 1],
            ndim=len(end),
            units=policy.groups if grouped else 1,
            hidden=policy.hidden,
            attends=policy.pooling == "attention",
            last=block.last,
            width=_width(block) if grouped else 0,
        )
        gate.start(policy.bias, site.generator)
        gate.annealing = self._annealing
        insert(traced, block, gate)
        if site.optimizer is not None and policy.mode != "static":
            site.optimizer.adopt(list(gate.parameters()), policy.lr_factor)

    def _gates(self) -> dict[str, RoutingGate]:
        found: dict[str, Gate] = gates(self.site.network)
        return {name: gate for name, gate in found.items() if isinstance(gate, RoutingGate)}

    def _bars(self, start: fx.Node, end: fx.Node) -> bool:
        """Whether an edge would start strictly inside of a block and end outside of it."""
        if self.site.graph is None:
            return False
        for name, _, product, inner in gated(self.site.graph):
            inside = computed_for(inner, {product})
            if start in inside and end not in inside:
                self._refused.add(f"{name} {start.name} {end.name}")
                return True
        return False

    # -- what turned static -----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _looked(self, step: int) -> dict[str, _Use]:
        """What every gate does with some training samples, in evaluation."""
        tau = self.policy.tau_end
        uses = {}
        names = {gate: name for name, gate in self._gates().items()}
        for gate, z_BU in self._heard(lambda gate, x: gate.scores(x), step):
            name, mean_U = names[gate], gate.choices(z_BU).mean(0)
            spread = float(binary_entropy(mean_U).mean())
            uses[name] = _Use(tuple(mean_U.tolist()), float(entropy(z_BU / tau).mean()), spread)
        return uses

    @torch.no_grad()
    def _heard(self, what: Callable[[RoutingGate, Tensor], Tensor], step: int) -> list[tuple[RoutingGate, Tensor]]:
        """Something of what every gate reads, over some training samples, in evaluation; (samples, ...) by gate."""
        found: dict[RoutingGate, list[Tensor]] = {gate: [] for gate in self._gates().values()}

        def listen(gate: nn.Module, args: tuple[Tensor, ...]) -> None:
            assert isinstance(gate, RoutingGate)
            found[gate].append(what(gate, args[0]))

        handles = [gate.register_forward_pre_hook(listen) for gate in found]
        try:
            with evaluating(self.site.network):
                for inputs, _ in self.site.batches(BATCHES, step):
                    call(self.site.network, move(inputs, self.site.device))
        finally:
            for handle in handles:
                handle.remove()
        return [(gate, torch.cat(values)) for gate, values in found.items()]

    def _settle(self, *, last: bool) -> None:
        """Fix what hardly any sample takes, and at the end also what nearly all take."""
        for name, use in self._use.items():
            gate = self._gates()[name]
            forced = list(gate.forced or [-1] * gate.units)
            for unit, share in enumerate(use.open):
                if forced[unit] < 0 and share < STATIC and (last or use.entropy < SURE):
                    forced[unit] = 0
                elif forced[unit] < 0 and share > 1 - STATIC and last:
                    forced[unit] = 1
            if any(f >= 0 for f in forced):
                gate.forced = tuple(forced)

    def _forced(self, name: str, value: int) -> bool:
        forced = self._gates()[name].forced
        return bool(forced) and all(f == value for f in forced)


def entropy(z: Tensor) -> Tensor:
    """Entropy, in bits, of a choice whose probability is sigmoid(z)."""
    p = torch.sigmoid(z)
    return (F.softplus(-z) * p + F.softplus(z) * (1 - p)) / math.log(2)


def binary_entropy(p: Tensor) -> Tensor:
    """Entropy, in bits, of a choice of probability p; 0 where it is certain."""
    return -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p)) / math.log(2)


def _width(block: Block) -> int:
    return block.shapes[1][-1 if block.last else 1]
