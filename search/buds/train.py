"""Training buds: one stream of samples, of which each bud takes those of its sub-task and a few of the others.

First only the plasticity layers train, while inherited weights stay as they are, bit by bit. Then the weakest inherited
connections go for good, and everything trains.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, fx, nn

from objectives.task import Inputs, Task, call, move
from search.buds.cut import Cut, places, watched
from search.buds.find import Stages, Subtasks, pool
from search.buds.graft import is_plastic, thaw
from search.buds.loss import Rows, bud_loss
from search.buds.match import Block
from search.finetune import DivergedError, in_fast_layout, stream
from search.recipe import Recipe, learning_rate_at
from search.surgery.connectivity import Connectivity
from search.surgery.optimizer import TrainingOptimizer
from spaces.budding import BuddingPolicy

POLICY = BuddingPolicy.name
#: The norm to which longer gradients of the plasticity layers are cut.
LONGEST = 1.0
#: The smallest batch of a bud.
FEWEST = 16
_NORMS = nn.modules.batchnorm._BatchNorm


class Growth:
    """One bud in training.

    Args:
        network: From `search.buds.graft.graft`.
        hidden: Example of what flows into it.
        policy: How it is trained.
        recipe: The constants.
        share: Of all samples, those of its sub-task.
        held: Where it is held to its parent.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        hidden: Tensor,
        policy: BuddingPolicy,
        recipe: Recipe,
        share: float = 1.0,
        held: Sequence[Block] = (),
    ) -> None:
        self.share, self.held = share, tuple(held)
        self.network, self._policy, self._recipe = network, policy, recipe
        self._place = (places(network, inputs=(hidden,)) or [None])[-1]  # type: ignore[list-item]
        last = [self._place.node] if self._place else []
        self._seen = watched(network, [*(block.bud for block in self.held), *last])
        self.connectivity = Connectivity(network)
        self._optimizer = TrainingOptimizer.from_recipe(network.parameters(), recipe)
        self.connectivity.optimizer = self._optimizer
        self.joint = False
        self.waiting: Rows | None = None
        self.steps = 0
        self.loss = math.nan

    def train(self, rows: Rows, task: Task, rate: float, autocast: torch.autocast) -> None:
        """One optimizer step.

        Raises:
            DivergedError: If the loss is not finite.
        """
        # BatchNorm's statistics are inherited as well: while the rest is frozen so are they.
        self._seen.train(self.joint)
        rows = replace(rows, hidden=_laid_out(rows.hidden), blocks=tuple(_laid_out(block) for block in rows.blocks))
        with autocast:
            outputs, seen = self._seen(rows.hidden)
        last = pool(seen[-1], self._place.dim).float() if self._place else outputs.flatten(1)
        blocks = seen[: len(self.held)]
        loss = bud_loss(task, self._policy, outputs.float(), last, rows, self._recipe.temperature, blocks)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        if not self.joint:
            # Under frozen statistics nothing holds back a step that is too long.
            nn.utils.clip_grad_norm_(self._optimizer.parameters, LONGEST)
        self.connectivity.mask_gradients()
        self._optimizer.step(rate)
        self.steps += 1
        if self.steps % 16 == 1:
            self.loss = float(loss.detach())
            if not math.isfinite(self.loss):
                raise DivergedError(f"a bud's loss became {self.loss}: lower finetuning.learning_rate")

    def release(self) -> None:
        """Drop the weakest inherited connections and let the others train."""
        if self.joint:
            return
        self.joint = True
        self._optimizer.adopt(thaw(self.network))
        for name, where in self._weakest().items():
            self.connectivity.prune(name, where, POLICY, "magnitude")

    def as_in_the_end(self) -> fx.GraphModule:
        """A copy without the connections that will have gone by the end: trials are compared as what they lead to."""
        twin = copy.deepcopy(self.network).eval()
        if not self.joint:
            with torch.no_grad():
                for name, where in self._weakest().items():
                    twin.get_parameter(name).masked_fill_(where, 0)
        return twin

    def _weakest(self) -> dict[str, Tensor]:
        """The inherited connections that go: by rank over all layers, ties by their place, no layer left empty."""
        inherited = {n: w.detach() for n, w in self.connectivity.weights.items() if not is_plastic(n)}
        sizes = torch.cat([weight.abs().flatten() for weight in inherited.values()])
        goes = round(self._policy.pruning * sizes.numel())
        if goes == 0:
            return {}
        chosen = torch.zeros(sizes.numel(), dtype=torch.bool, device=sizes.device)
        chosen[sizes.argsort(stable=True)[:goes]] = True
        found, start = dict[str, Tensor](), 0
        for name, weight in inherited.items():
            part = chosen[start : start + weight.numel()]
            start += weight.numel()
            if bool(part.all()):
                part = part.clone()
                part[weight.abs().flatten().argmax()] = False
            found[name] = part.view(weight.shape)
        return found

    def state(self) -> dict[str, Tensor]:
        """Everything that changes; the inverse of :meth:`load_state`."""
        state = {f"network/{name}": value for name, value in self.network.state_dict().items()}
        state |= {f"optimizer/{name}": value for name, value in self._optimizer.state().items()}
        state |= {f"connectivity/{name}": value for name, value in self.connectivity.state().items()}
        state |= {"joint": torch.tensor(self.joint), "steps": torch.tensor(self.steps)}
        if self.waiting is not None:
            state |= {f"waiting/{name}": value for name, value in self.waiting.tensors().items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there as if nothing had happened."""
        if bool(state["joint"]) and not self.joint:
            self.joint = True
            self._optimizer.adopt(thaw(self.network))
        self.network.load_state_dict(under("network", state))
        self._optimizer.load_state(under("optimizer", state))
        self.connectivity.load_state(under("connectivity", state), {})
        self.steps = int(state["steps"])
        waiting = under("waiting", state)
        self.waiting = Rows.of(waiting) if waiting else None


class Growing:
    """All buds of a network in training, side by side.

    Args:
        cut: The parent in two parts, on `device`.
        stages: Of its tail, with the ends of the blocks that buds are held to.
        subtasks: What its inputs fall into, on `device`.
        growths: One bud per sub-task, on `device`.
        task: Gives the samples.
        policy: How buds are trained.
        recipe: The constants.
        steps: How many batches of the task the buds see in all, >= 1.
        seed: Decides the order of the samples, and which of the others each bud sees.
        device: Where to train.
    """

    def __init__(
        self,
        cut: Cut,
        stages: Stages,
        subtasks: Subtasks,
        growths: Sequence[Growth],
        task: Task,
        policy: BuddingPolicy,
        recipe: Recipe,
        *,
        steps: int,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.cut, self._stages, self._subtasks, self.growths = cut, stages, subtasks, tuple(growths)
        self._task, self._policy, self._recipe = task, policy, recipe
        self.steps, self._seed, self._device = steps, seed, device
        self._generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self._batch = 0

    @property
    def loss(self) -> float:
        """The mean of the buds' latest losses; NaN before the first."""
        known = [growth.loss for growth in self.growths if math.isfinite(growth.loss)]
        return sum(known) / len(known) if known else math.nan

    def train(self, until: int) -> None:
        """Go on up to a step.

        Raises:
            DivergedError: If a loss is not finite.
        """
        batches = stream(self._task, self._seed, skip=self.step)
        while self.step < until:
            inputs, targets = next(batches)
            if self.step >= self._policy.plastic * self.steps:
                for growth in self.growths:
                    growth.release()
            rows, ends, members = self._rows(move(inputs, self._device), targets.to(self._device))
            self._batch = self._batch or len(rows)
            for index, growth in enumerate(self.growths):
                blocks = tuple(block.narrowed(ends[block.parent]) for block in growth.held)
                self._feed(growth, replace(rows, blocks=blocks), members == index)
            self.step += 1
        if until >= self.steps:
            for growth in self.growths:
                growth.release()  # also where the plasticity layers had the whole budget

    @torch.no_grad()
    def _rows(self, inputs: Inputs, targets: Tensor) -> tuple[Rows, Mapping[str, Tensor], Tensor]:
        """A batch as the parent sees it, what flows at the ends of its blocks, and the sub-task of each sample."""
        with self._autocast():
            hidden = call(self.cut.stem, inputs)
            taught, features, last, ends = self._stages.whole(hidden)
        inside = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
        return Rows(hidden, targets, taught.float(), last.float(), inside), ends, self._subtasks.assign(features)

    def _feed(self, growth: Growth, rows: Rows, own: Tensor) -> None:
        """Hand a bud its samples and the share of others; it steps whenever it has a batch of them."""
        count, share = int(own.sum()), self._policy.outside
        wanted = round(count * share / (1 - share) + float(torch.rand((), generator=self._generator)) - 0.5)
        others = (~own).nonzero()[:, 0]
        pick = torch.randperm(len(others), generator=self._generator)[: max(0, wanted)]
        chosen = torch.cat([own.nonzero()[:, 0], others[pick.to(others.device)]])
        mine = replace(rows, inside=own).take(chosen)
        waiting = mine if growth.waiting is None else growth.waiting.and_(mine)
        rate = learning_rate_at(self.step, self.steps, self._recipe.learning_rate)
        # About one step per batch of the task, whatever the size of the sub-task: a rare one must learn as well.
        size = min(self._batch, max(FEWEST, round(self._batch * growth.share / (1 - share))))
        while len(waiting) >= size:
            growth.train(waiting.take(slice(0, size)), self._task, rate, self._autocast())
            waiting = waiting.take(slice(size, None))
        growth.waiting = waiting if len(waiting) else None

    def _autocast(self) -> torch.autocast:
        kind = torch.device(self._device).type
        return torch.autocast(kind, dtype=torch.bfloat16, enabled=self._recipe.precision == "bf16")

    def state(self) -> dict[str, Tensor]:
        """Everything that changes; the inverse of :meth:`load_state`."""
        state = {
            "step": torch.tensor(self.step),
            "batch": torch.tensor(self._batch),
            "generator": self._generator.get_state(),
            "torch": torch.get_rng_state(),
        }
        for index, growth in enumerate(self.growths):
            state |= {f"bud{index}/{name}": value for name, value in growth.state().items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there as if nothing had happened."""
        self.step, self._batch = int(state["step"]), int(state["batch"])
        self._generator.set_state(state["generator"].to(torch.uint8))
        torch.set_rng_state(state["torch"].to(torch.uint8))
        for index, growth in enumerate(self.growths):
            growth.load_state(under(f"bud{index}", state))


@torch.no_grad()
def settle(network: nn.Module, parts: Iterable[Tensor]) -> None:
    """Take BatchNorm's running statistics anew, as plain means over what flows into a bud.

    Args:
        network: Left in evaluation mode.
        parts: (batch, ...) each; nothing happens where there is none.
    """
    norms = [m for m in network.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    parts = [part for part in parts if len(part) > 1]
    network.eval()
    if not norms or not parts:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    for part in parts:
        network(part)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()


def _laid_out(x: Tensor) -> Tensor:
    """In the layout in which a bud trains fastest, and in the same one after an interruption: sums depend on it."""
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def in_layout(network: fx.GraphModule, device: str) -> fx.GraphModule:
    """The network where and as it trains fastest."""
    in_fast_layout(network.to(device))
    return network


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The entries below a prefix, without it."""
    return {n.removeprefix(f"{prefix}/"): value for n, value in state.items() if n.startswith(f"{prefix}/")}
