"""A layer whose numbers have a precision of their own: the layer itself, in place, with its own parameters.

While it trains, weights and inputs are rounded with straight-through gradients; in evaluation it computes on the
codes themselves, exactly as the finished layer does. It starts in float32, where it is the layer it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from search.surgery import granularity_codes as codes
from search.surgery.granularity_rows import coded, decoded, segments

#: How fast a static range follows what is seen.
_FOLLOWS = 0.05


@dataclass
class Seen:
    """What a layer has seen of its inputs since the last decision, summed over batches."""

    count: int = 0
    variance: Tensor = field(default_factory=lambda: torch.zeros(()))
    square: Tensor = field(default_factory=lambda: torch.zeros(()))
    noise: Tensor = field(default_factory=lambda: torch.zeros(()))

    def mean(self) -> tuple[float, float, float]:
        """Variance, mean square, and the mean square of the rounding error at 8 bits."""
        n = max(1, self.count)
        return float(self.variance) / n, float(self.square) / n, float(self.noise) / n

    def state(self) -> Tensor:
        """(4,) float64."""
        return torch.tensor([self.count, *map(float, (self.variance, self.square, self.noise))], dtype=torch.float64)

    @classmethod
    def from_state(cls, state: Tensor) -> Seen:
        """The inverse of :meth:`state`."""
        return cls(int(state[0]), *(value.float() for value in state[1:]))


@dataclass(frozen=True)
class Moves:
    """How a finished layer goes on choosing among the levels nested in 8 bits.

    Args:
        levels: In bits, from fine to coarse.
        thresholds: Ratios of variances below which a unit goes down and above which it goes up.
        dwell: Batches that a unit stays at a level at least.
        variance: The running mean of the input's variance.
    """

    levels: tuple[int, ...]
    thresholds: tuple[float, float]
    dwell: int
    variance: float


@dataclass
class Grain:
    """How fine a layer is now.

    Args:
        counts: Output channels of each unit, in order.
        bits: The level of each unit.
        activations: ``none``, ``dynamic`` or ``static``.
        half: The type of 16 bits.
        range: The largest |input| of a static range, a scalar; None where none has been seen.
        ladder: The levels that a mixture is made of.
        mixture: (units, levels) one-hot with a gradient, while a choice is learned.
        watching: Whether inputs are looked at.
        bypassed: Whether the layer computes as if it were none of ours.
        moves: How the finished layer goes on choosing; None where it does not.
    """

    counts: tuple[int, ...]
    bits: list[int]
    activations: str
    half: torch.dtype
    range: Tensor | None = None
    ladder: tuple[int, ...] = ()
    mixture: Tensor | None = None
    watching: bool = False
    bypassed: bool = False
    moves: Moves | None = None
    seen: Seen = field(default_factory=Seen)

    def __getstate__(self) -> dict[str, Any]:
        # A copy has no part in the training step that the mixture's gradient belongs to.
        return {**self.__dict__, "mixture": None if self.mixture is None else self.mixture.detach()}

    def row_bits(self) -> list[int]:
        """The level of every output channel."""
        return [bits for bits, count in zip(self.bits, self.counts, strict=True) for _ in range(count)]

    def held_bits(self) -> list[int]:
        """The level at which every output channel is held: one that moves is held at 8 bits."""
        return [8] * sum(self.counts) if self.stays_moving else self.row_bits()

    @property
    def stays_moving(self) -> bool:
        """Whether the finished layer goes on choosing."""
        return self.moves is not None and max(self.bits) <= 8


class GranularityUnit:
    """What all layers of ours share: the precision, and the two ways of computing at it."""

    grain: Grain
    weight: Any
    bias: Any
    training: bool

    #: How many of an input's last dimensions make up a sample.
    sample_dims = 1

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer does with any weight of as many inputs."""
        raise NotImplementedError

    def plain_forward(self, x: Tensor) -> Tensor:
        """What the layer does in full precision."""
        return self.compute(x, self.weight, self.bias)

    def granular_forward(self, x: Tensor) -> Tensor:
        """The layer at its level."""
        grain = self.grain
        if grain.bypassed:
            return self.plain_forward(x)
        if self.training:
            result = self._rounded(x, grain.mixture)
        elif torch.is_grad_enabled():
            # Some criteria ask for gradients in evaluation mode.
            with torch.no_grad():
                exact = self._exact(x)
            result = codes.straight_through(self._rounded(x, None), exact)
        else:
            result = self._exact(x)
        if grain.watching:
            watch(grain, x, self.sample_dims)
        return result

    def x_scale(self, x: Tensor) -> Tensor:
        """The value of code 1 of an input."""
        if self.grain.activations == "static" and self.grain.range is not None:
            return self.grain.range.to(x.dtype) / codes.LARGEST
        return codes.input_scale(x, self.sample_dims)

    def _exact(self, x: Tensor) -> Tensor:
        """In evaluation: on the codes."""
        grain, parts, bits = self.grain, [], self.grain.row_bits()
        for kind, start, stop in segments(bits):
            weight, bias = self.weight[start:stop], None if self.bias is None else self.bias[start:stop]
            if kind == "full":
                parts.append(self.compute(x, weight, bias))
            elif kind == "half":
                rounded = x if grain.activations == "none" else x.to(grain.half).to(x.dtype)
                parts.append(self.compute(rounded, codes.quantized(weight, 16, grain.half), bias))
            else:
                parts.append(self._on_codes(x, *coded(weight, bits[start:stop]), bias))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -self.sample_dims)

    def _on_codes(self, x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
        weight = weight.to(x.dtype)
        if self.grain.activations == "none":
            return self.compute(x, weight * codes.rows(scale, weight), bias)
        x_scale = self.x_scale(x)
        sums = self.compute(codes.encode_input(x, x_scale), weight, None)
        sums.mul_(codes.along(scale, sums, -self.sample_dims))
        return codes.rescaled(sums, x_scale, bias, -self.sample_dims)

    def _rounded(self, x: Tensor, mixture: Tensor | None) -> Tensor:
        """In training: rounded, with straight-through gradients."""
        grain = self.grain
        if mixture is not None:
            return self._mixed(x, mixture)
        parts, bits = [], grain.row_bits()
        for kind, start, stop in segments(bits):
            weight, bias = self.weight[start:stop], None if self.bias is None else self.bias[start:stop]
            value = x
            if kind == "half" and grain.activations != "none":
                value = codes.straight_through(x, x.detach().to(grain.half).to(x.dtype))
            elif kind == "coded":
                value = self._rounded_input(x)
            if kind != "full":
                levels = bits[start:stop]
                rounded = codes.quantized(weight, 16, grain.half) if kind == "half" else decoded(weight, levels)
                weight = codes.straight_through(weight, rounded)
            parts.append(self.compute(value, weight, bias))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -self.sample_dims)

    def _rounded_input(self, x: Tensor) -> Tensor:
        return x if self.grain.activations == "none" else codes.straight_through_input(x, self.x_scale(x))

    def _mixed(self, x: Tensor, mixture: Tensor) -> Tensor:
        """The weights of the chosen level, with a gradient for the choice."""
        grain = self.grain
        share = torch.repeat_interleave(mixture, torch.tensor(grain.counts, device=mixture.device), dim=0)
        weight = torch.zeros_like(self.weight)
        for place, bits in enumerate(grain.ladder):
            weight = weight + codes.rows(share[:, place], weight) * codes.quantized(self.weight, bits, grain.half)
        weight = weight + (self.weight - self.weight.detach())
        return self.compute(self._rounded_input(x) if max(grain.bits) <= 8 else x, weight, self.bias)


class GranularLinear(GranularityUnit, nn.Linear):
    """A linear layer with a precision."""

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x, weight, bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch calls it so
        return self.granular_forward(input)


class _Convolution(GranularityUnit):
    _conv_forward: Any

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self._conv_forward(x, weight, bias)
        return result


class GranularConv1d(_Convolution, nn.Conv1d):
    """A convolution with a precision."""

    sample_dims = 2

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch calls it so
        return self.granular_forward(input)


class GranularConv2d(_Convolution, nn.Conv2d):
    """A convolution with a precision."""

    sample_dims = 3

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch calls it so
        return self.granular_forward(input)


class GranularConv3d(_Convolution, nn.Conv3d):
    """A convolution with a precision."""

    sample_dims = 4

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch calls it so
        return self.granular_forward(input)


#: What a layer becomes. Only these very classes: a subclass may compute something else.
KINDS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: GranularLinear,
    nn.Conv1d: GranularConv1d,
    nn.Conv2d: GranularConv2d,
    nn.Conv3d: GranularConv3d,
}
_BACK = {ours: theirs for theirs, ours in KINDS.items()}


def put_on(layer: nn.Module, grain: Grain) -> None:
    """Make a layer one of ours, in place: the object, its parameters and its hooks stay."""
    layer.__class__ = KINDS[type(layer)]
    layer.grain = grain  # type: ignore[assignment]


def take_off(network: nn.Module) -> dict[str, Grain]:
    """Make all layers what they were, in place; say how fine they were, by name."""
    found = units(network)
    for layer in found.values():
        layer.__class__ = _BACK[type(layer)]
    return {name: layer.__dict__.pop("grain") for name, layer in found.items()}


def units(network: nn.Module) -> dict[str, Any]:
    """The layers of ours in a network, by name: each is a layer of torch.nn and a `GranularityUnit`."""
    return {name: module for name, module in network.named_modules() if isinstance(module, GranularityUnit)}


def grains(network: nn.Module) -> dict[str, Grain]:
    """How fine each layer of ours is, by name; what is returned can be changed."""
    return {name: module.grain for name, module in network.named_modules() if isinstance(module, GranularityUnit)}


@contextmanager
def bypassed(network: nn.Module) -> Iterator[None]:
    """Let all layers of ours compute in full precision: rounding makes much of differences in the last digit."""
    found = list(grains(network).values())
    before = [grain.bypassed for grain in found]
    for grain in found:
        grain.bypassed = True
    try:
        yield
    finally:
        for grain, was in zip(found, before, strict=True):
            grain.bypassed = was


@torch.no_grad()
def watch(grain: Grain, x: Tensor, sample_dims: int) -> None:
    """Book what an input is like; the range that a static layer works with is that of earlier batches."""
    x = x.detach().float()
    seen = grain.seen
    variance, mean = torch.var_mean(x, correction=0)
    if grain.activations == "static":
        peak = x.abs().amax()
        grain.range = peak if grain.range is None else torch.lerp(grain.range, peak, _FOLLOWS)
        scale = grain.range / codes.LARGEST
    else:
        scale = codes.input_scale(x, sample_dims)
    seen.count += 1
    seen.variance = seen.variance.to(x.device) + variance
    seen.square = seen.square.to(x.device) + variance + mean.square()
    seen.noise = seen.noise.to(x.device) + scale.square().mean() / 12
