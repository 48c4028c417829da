"""Telling the sub-task of a request from the stem: a linear classifier that knows how far it has been."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

#: The most features that are looked at, and the most positions along one extent.
FEATURES, POSITIONS = 1024, 8
#: How far beyond the farthest training sample a request may lie, as a factor.
REACH = 1.25
#: One sample in so many is kept back to say how sure the router may be.
HELD_BACK = 5


class Router(nn.Module):
    """What flows out of the stem (batch, ...) to the likelihood of each sub-task (batch, K), and whether it is known.

    Args:
        features: How many there are, see `features_of`.
        subtasks: K.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor
    reach: Tensor

    def __init__(self, features: int, subtasks: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("weight", torch.zeros(subtasks, features))
        self.register_buffer("bias", torch.zeros(subtasks))
        self.register_buffer("reach", torch.tensor(math.inf))

    @torch.no_grad()
    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Likelihoods (batch, K) that sum to 1, and (batch,) whether the input lies where training samples did.

        What is no number is never known, and has no likelihood that means anything.
        """
        x = (features_of(hidden).float() - self.mean) / self.scale
        known = x.square().mean(1) <= self.reach  # false for NaN as well
        return F.softmax(F.linear(x, self.weight, self.bias), dim=1), known

    @property
    def macs(self) -> int:
        """Multiply-accumulates per request."""
        return self.weight.numel()


def features_of(hidden: Tensor) -> Tensor:
    """(batch, features): what flows there on a coarse grid; of sequences each channel's mean and largest value."""
    if hidden.ndim == 2:
        return hidden
    if hidden.ndim == 4:
        cells = max(1, FEATURES // hidden.shape[1])
        side = max(1, min(POSITIONS, math.isqrt(cells), *hidden.shape[2:]))
        return F.adaptive_avg_pool2d(hidden.float(), side).flatten(1)
    flat = hidden.float().flatten(2) if hidden.ndim > 3 else hidden.float()
    dim = 2 if hidden.ndim > 3 else 1  # (batch, tokens, channels); a 1d signal gives its positions instead
    return torch.cat([flat.mean(dim), flat.amax(dim)], 1)


def fit(kind: str, x: Tensor, subtasks: Tensor, count: int) -> Router:
    """A router fitted to samples.

    Args:
        kind: ``logistic`` or ``centroid``.
        x: From `features_of`, (samples, features).
        subtasks: (samples,) int64, in [0, count).
        count: K.
    """
    router = Router(x.shape[1], count)
    router.mean.copy_(x.mean(0))
    router.scale.copy_(x.std(0).clamp_min(1e-6))
    z = ((x - router.mean) / router.scale).double().numpy()
    labels = subtasks.numpy()
    back = np.arange(len(z)) % HELD_BACK == 0
    weight, bias = (_logistic if kind == "logistic" else _centroid)(z[~back], labels[~back], count)
    heat = _temperature(z[back] @ weight.T + bias, labels[back])
    router.weight.copy_(torch.from_numpy(weight / heat))
    router.bias.copy_(torch.from_numpy(bias / heat))
    router.reach.fill_(float(np.square(z).mean(1).max()) * REACH)
    return router


def _logistic(z: NDArray[np.float64], labels: NDArray[np.int64], count: int) -> tuple[NDArray[np.float64], ...]:
    present = np.unique(labels)
    weight, bias = np.zeros((count, z.shape[1])), np.full(count, -50.0)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias
    model = LogisticRegression(C=0.05, max_iter=300).fit(z, labels)
    found, shift = model.coef_, model.intercept_
    if len(present) == 2:  # one row says it for both
        found, shift = np.concatenate([-found, found]) / 2, np.concatenate([-shift, shift]) / 2
    weight[present], bias[present] = found, shift
    return weight, bias


def _centroid(z: NDArray[np.float64], labels: NDArray[np.int64], count: int) -> tuple[NDArray[np.float64], ...]:
    """-|z - c|^2 / 2 but for what is the same for all: linear in z."""
    present = np.unique(labels)
    centres = np.zeros((count, z.shape[1]))
    for label in present:
        centres[label] = z[labels == label].mean(0)
    bias = -0.5 * np.square(centres).sum(1)
    bias[np.setdiff1d(np.arange(count), present)] = -1e4
    return centres, bias


def _temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """By what to divide the logits so that samples that were not fitted are as likely as they are said to be."""
    heats = np.geomspace(0.1, 100.0, 61)
    losses = []
    for heat in heats:
        scaled = logits / heat
        top = scaled.max(1, keepdims=True)
        logs = scaled - top - np.log(np.exp(scaled - top).sum(1, keepdims=True))
        losses.append(-float(logs[np.arange(len(labels)), labels].mean()) if len(labels) else 0.0)
    return float(heats[int(np.argmin(losses))]) if len(labels) else 1.0


def shares(likely: Tensor, known: Tensor, present: Tensor, confidence: float, blend: int) -> Tensor:
    """What each bud has to say in the answer to each request.

    Args:
        likely: (batch, K), rows sum to 1.
        known: (batch,) boolean.
        present: (K,) boolean: for which sub-tasks there is a bud now.
        confidence: Of the likeliest buds as many answer as together are at least so likely ...
        blend: ... but no more than this; where they are too few, none does.

    Returns:
        (batch, K), rows sum to 1, or to 0 where the parent answers.
    """
    order = likely.argsort(dim=1, descending=True, stable=True)
    ranked = likely.gather(1, order)
    together = ranked.cumsum(1)
    # A bud is asked where those before it do not suffice.
    asked = (together - ranked) < confidence
    asked[:, 0] = True
    count = asked.sum(1)
    enough = (together.gather(1, (count - 1).unsqueeze(1)).squeeze(1) >= confidence - 1e-6) & (count <= blend)
    chosen = torch.zeros_like(likely).scatter(1, order, asked.to(likely.dtype)) * likely
    # Where one of them has gone, what is left of the blend would not be what was asked for.
    complete = ((chosen > 0) <= present).all(1)
    answered = enough & complete & known
    weights = chosen / chosen.sum(1, keepdim=True).clamp_min(1e-30)
    return torch.where(answered.unsqueeze(1), weights, torch.zeros_like(weights))
