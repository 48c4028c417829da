"""The training loop under surgery: forward, penalties, backward, mechanisms, masked step. It owns no policy."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.task import Batch, Task, call, move, samples
from search.recipe import Recipe, learning_rate_at
from search.surgery.mechanism import Clock, Mechanism
from search.surgery.site import Site
from spaces.errors import TaskError

#: Batches from which BatchNorm's statistics are taken anew.
RECALIBRATION = 16
_NORMS = nn.modules.batchnorm._BatchNorm


class DivergedError(Exception):
    """The loss is not a number any more; the trial fails, the study goes on."""


class Finetuning:
    """Trains a site for a fixed number of steps, in iterations.

    Args:
        site: The network under surgery, with its optimizer.
        mechanisms: In the order in which they act.
        task: Gives batches and the loss.
        recipe: The constants.
        start: The first learning rate; it falls linearly to 0 over ``site.steps``.
        seed: Decides the order of the batches, and nothing else.
        teacher: The unpruned network, for distillation; None without.
        device: Where the network is.
        between: Called between steps.
    """

    def __init__(
        self,
        site: Site,
        mechanisms: Sequence[Mechanism],
        task: Task,
        recipe: Recipe,
        *,
        start: float,
        seed: int,
        teacher: nn.Module | None = None,
        device: str = "cpu",
        between: Callable[[], None] | None = None,
    ) -> None:
        if site.optimizer is None:
            raise ValueError("site.optimizer must be set before training, but is None: give the site an optimizer")
        self._site, self._mechanisms, self._task, self._recipe = site, mechanisms, task, recipe
        self._optimizer = site.optimizer
        self._start, self._seed, self._device, self._between = start, seed, device, between
        self._teacher = in_fast_layout(teacher.to(device)).eval() if teacher is not None else None
        self.step = 0
        self.loss = math.nan

    def clock(self, iteration: int) -> Clock:
        """Where the loop is now."""
        return Clock(self.step, self._site.steps, iteration)

    def train(self, until: int, iteration: int) -> None:
        """Train up to step `until` of the site's steps.

        Raises:
            DivergedError: If the loss is not finite.
        """
        site = self._site
        site.connectivity.iteration = iteration
        site.network.train()
        total, count = torch.zeros((), device=self._device), 0
        batches = stream(self._task, self._seed, skip=self.step)
        while self.step < until:
            total += self._one_step(next(batches), self.clock(iteration))
            count += 1
            self.step += 1
            if self._between is not None:
                self._between()
            # Asking for the value makes an accelerator wait, so not at every step.
            if count % 32 == 0 or self.step == until:
                self.loss = float(total) / count
                if not math.isfinite(self.loss):
                    raise DivergedError(f"the loss became {self.loss} by step {self.step}: lower the learning rate")

    def _one_step(self, batch: Batch, clock: Clock) -> Tensor:
        inputs, targets = move(batch[0], self._device), batch[1].to(self._device, non_blocking=True)
        for mechanism in self._mechanisms:
            mechanism.before_forward(clock)
        with self._autocast():
            outputs = call(self._site.network, inputs).float()
        loss = self._task.loss(outputs, targets)
        if self._teacher is not None:
            with torch.no_grad(), self._autocast():
                taught = call(self._teacher, inputs).float()
            share = self._recipe.distillation
            loss = (1 - share) * loss + share * distillation(outputs, taught, self._recipe.temperature)
        for mechanism in self._mechanisms:
            penalty = mechanism.penalty()
            if penalty is not None:
                loss = loss + penalty
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for mechanism in self._mechanisms:
            mechanism.after_backward(clock)
        self._site.connectivity.mask_gradients()
        self._optimizer.step(learning_rate_at(clock.step, clock.steps, self._start))
        for mechanism in self._mechanisms:
            mechanism.after_step(clock)
        return loss.detach()

    def _autocast(self) -> torch.autocast:
        """The forward pass in the recipe's precision; weights, gradients and the optimizer stay float32."""
        return autocast(self._device, self._recipe.precision)

    def state(self) -> dict[str, Tensor]:
        """Where the loop is; the inverse of :meth:`load_state`."""
        return {"step": torch.tensor(self.step), "torch": torch.get_rng_state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from there as if nothing had happened."""
        self.step = int(state["step"])
        torch.set_rng_state(state["torch"].to(torch.uint8))


def autocast(device: str, precision: str) -> torch.autocast:
    """Forward passes in this precision."""
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, enabled=precision == "bf16")


def in_fast_layout(network: nn.Module) -> nn.Module:
    """The same network with its 2d convolutions' weights channels-last: a quarter faster to train on a CPU."""
    for parameter in network.parameters():
        # What torch offers for a whole module refuses 3d convolutions.
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return network


def stream(task: Task, seed: int, skip: int = 0) -> Iterator[Batch]:
    """Training batches without end, epoch after epoch, each in its own order; the first `skip` are left out."""
    epoch = 0
    while True:
        digest = hashlib.sha256(f"{seed}/{epoch}".encode()).digest()
        empty = True
        for batch in task.batches("train", shuffle_seed=int.from_bytes(digest[:4], "big")):
            empty = False
            if skip > 0:
                skip -= 1
            else:
                yield batch
        if empty:
            raise TaskError("the train split must have at least one batch, but has none: check batches('train')")
        epoch += 1


def steps_per_epoch(task: Task) -> int:
    """Batches of one pass over the training split, counted where the iterable has no length."""
    batches = task.batches("train", shuffle_seed=0)
    length = getattr(batches, "__len__", None)
    return int(length()) if length is not None else sum(1 for _ in batches)


def distillation(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Kullback-Leibler divergence of softened classes, times T² (Hinton et al. 2015, section 2).

    Args:
        outputs: (..., classes) or (batch, classes, ...): the student's; a single column is compared by squares.
        taught: The teacher's, of the same shape.
        temperature: T > 0.
    """
    if outputs.ndim < 2 or outputs.shape[1] == 1:
        return F.mse_loss(outputs, taught)
    student = F.log_softmax(outputs / temperature, dim=1)
    teacher = F.log_softmax(taught / temperature, dim=1)
    divergence = (teacher.exp() * (teacher - student)).sum(1).mean()
    return divergence * temperature**2


@torch.no_grad()
def recalibrate(
    network: nn.Module,
    task: Task,
    seed: int,
    device: str,
    batches: int = RECALIBRATION,
    enough: int | None = None,
    precision: str = "fp32",
) -> None:
    """Take BatchNorm's running statistics anew, as plain means over some training batches.

    Args:
        network: On `device`; its modes stay as they are.
        task: Whose batches.
        seed: Which of them.
        device: Where to run.
        batches: How many.
        enough: With so many samples fewer batches do.
        precision: Of the forward passes; the statistics themselves are float32.
    """
    norms = [m for m in network.modules() if isinstance(m, _NORMS) and m.track_running_stats]
    if not norms:
        return
    modes = [(module, module.training) for module in network.modules()]
    momenta = [norm.momentum for norm in norms]
    rng = torch.get_rng_state()
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    seen = 0
    for _, (inputs, _targets) in zip(range(batches), task.batches("train", shuffle_seed=seed), strict=False):
        with autocast(device, precision):
            call(network, move(inputs, device))
        seen += samples(inputs)
        if enough is not None and seen >= enough:
            break
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, training in modes:
        module.training = training
    torch.set_rng_state(rng)
