"""Layers of codes that go on choosing: after every batch each unit may move by one level, which costs a shift.

The rule is the seed's: up where the input's variance is high against its running mean, down where it is low; the
thresholds are those that training ended with. A batch runs at the level that was decided from earlier batches, and the
state is explicit: `reset` takes it back to where it was exported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from search.resources import ResourceManager
from search.surgery import granularity_codes as codes
from search.surgery.granularity_layers import CodedConvolution, CodedLayer, CodedLinear
from spaces.errors import ExportError

#: How fast the running mean of the variance follows.
_FOLLOWS = 0.1
_LEVELS = (8, 4, 2)


class MovingLayer(CodedLayer):
    """A layer whose units move among 8 bits and the levels nested in them.

    Attributes:
        cap: The finest level that any unit may have, in bits: what a resource manager allows.
    """

    cap = 8

    def move_among(self, levels: Sequence[int], counts: Sequence[int], thresholds: Sequence[float], dwell: int) -> None:
        """Make room for the state.

        Args:
            levels: In bits, from fine to coarse, all of them nested in 8.
            counts: Output channels of each unit.
            thresholds: Ratios below which a unit goes down and above which it goes up.
            dwell: Batches that a unit stays at a level at least.

        Raises:
            ExportError: If these are not such levels, counts and thresholds.
        """
        good = [*levels] == [bits for bits in _LEVELS if bits in levels] and levels and len(thresholds) == 2
        whole = all(type(count) is int and count > 0 for count in counts) and sum(counts) == self.shape[0]
        if not good or not whole or self.rows != ((8, self.shape[0]),) or type(dwell) is not int:
            raise ExportError(
                "a layer that moves must have levels among 8, 4 and 2, all rows in units, two thresholds and a dwell, "
                "but has not: export it again"
            )
        self.levels, self.counts, self.dwell = tuple(levels), tuple(counts), dwell
        self.thresholds = (float(thresholds[0]), float(thresholds[1]))
        units = len(counts)
        self.register_buffer("level", torch.full((units,), levels[0], dtype=torch.int64))
        self.register_buffer("start_level", torch.full((units,), levels[0], dtype=torch.int64))
        self.register_buffer("since", torch.zeros(units, dtype=torch.int64))
        self.register_buffer("variance", torch.zeros(()))
        self.register_buffer("start_variance", torch.zeros(()))
        self._shifted: tuple[object, Tensor, Tensor] | None = None

    def begin(self, bits: Sequence[int], variance: float) -> None:
        """Start from these levels, and from this running mean of the input's variance."""
        self.start_level = torch.tensor(list(bits), dtype=torch.int64)
        self.start_variance = torch.tensor(float(variance))
        self.reset()

    def reset(self) -> None:
        """Forget what has been seen: levels and running mean are as they were exported."""
        self.level, self.variance = self.start_level.clone(), self.start_variance.clone()
        self.since = torch.zeros_like(self.level)

    @property
    def weight_bits(self) -> float:
        """Mean bits of a weight at the present levels."""
        return sum(bits * count for bits, count in zip(self.present(), self.counts, strict=True)) / self.shape[0]

    @property
    def bit_products(self) -> float:
        """Bits of a weight times bits of what it multiplies."""
        return self.weight_bits * self.input_bits(8)

    def present(self) -> list[int]:
        """The level at which each unit runs the next batch: what it chose, as far as the cap allows."""
        allowed = [bits for bits in self.levels if bits <= self.cap] or [self.levels[-1]]
        return [min(bits, allowed[0]) for bits in self.level.tolist()]

    def run(self, input: Tensor) -> Tensor:  # noqa: A002 - torch calls it so
        weight, scale = self._now()
        weight, scale, dim = weight.to(input.dtype), scale.to(input.dtype), -self.sample_dims
        if self.activations == "none":
            result = self.compute(input, weight * codes.rows(scale, weight), self.bias)
        else:
            x_scale = self.x_scale(input)
            sums = self.compute(codes.encode_input(input, x_scale), weight, None)
            result = codes.rescaled(sums.mul_(codes.along(scale, sums, dim)), x_scale, self.bias, dim)
        self._decide(input)
        return result

    @torch.no_grad()
    def _decide(self, x: Tensor) -> None:
        """From this batch to the levels of the next."""
        variance = x.float().var(correction=0)
        ratio = torch.where(self.variance > 0, variance / self.variance, torch.ones_like(variance))
        self.variance = torch.lerp(self.variance, variance, _FOLLOWS) if self.variance > 0 else variance
        ladder = torch.tensor(self.levels, device=self.level.device)
        place = (self.level[:, None] == ladder).int().argmax(1)
        low, high = self.thresholds
        step = (ratio < low).int() - (ratio > high).int()
        free = self.since + 1 >= self.dwell
        moved = ladder[(place + torch.where(free, step, 0)).clamp(0, len(self.levels) - 1)]
        self.since = torch.where(moved == self.level, self.since + 1, 0)
        self.level = moved

    def _now(self) -> tuple[Tensor, Tensor]:
        """Codes and scales at the present levels: shifted where a level has changed, kept where not."""
        working, levels = self._unpacked(), self.present()
        if self._shifted is None or self._shifted[0] != (working.key, levels):
            parts = working.weight.split(list(self.counts))  # type: ignore[no-untyped-call]
            shifted = torch.cat([codes.nested(part, bits) for part, bits in zip(parts, levels, strict=True)])
            factors = [1 << (8 - bits) for bits, count in zip(levels, self.counts, strict=True) for _ in range(count)]
            scale = working.scale * torch.tensor(factors, device=working.scale.device)
            self._shifted = ((working.key, levels), shifted, scale)
        return self._shifted[1], self._shifted[2]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_shifted": None}


class MovingLinear(MovingLayer, CodedLinear):
    """A linear layer that goes on choosing its precision; see `MovingLayer`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        activations: str,
        levels: tuple[int, ...],
        counts: tuple[int, ...],
        thresholds: tuple[float, ...],
        dwell: int,
    ) -> None:
        CodedLinear.__init__(self, in_features, out_features, bias, ((8, out_features),), activations, "bf16")
        self.move_among(levels, counts, thresholds, dwell)


class MovingConvolution(MovingLayer, CodedConvolution):
    """A convolution that goes on choosing its precision; see `MovingLayer`."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: tuple[int, ...],
        stride: tuple[int, ...],
        padding: tuple[int, ...] | str,
        dilation: tuple[int, ...],
        groups: int,
        bias: bool,
        padding_mode: str,
        activations: str,
        levels: tuple[int, ...],
        counts: tuple[int, ...],
        thresholds: tuple[float, ...],
        dwell: int,
    ) -> None:
        geometry = (in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode)
        CodedConvolution.__init__(self, *geometry, ((8, out_channels),), activations, "bf16")
        self.move_among(levels, counts, thresholds, dwell)


def moving(network: nn.Module) -> dict[str, MovingLayer]:
    """The layers of a network that go on choosing, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, MovingLayer)}


def govern(network: nn.Module, manager: ResourceManager) -> RemovableHandle:
    """Hold a network's layers to a budget before every batch; remove the handle to let them go.

    Args:
        network: With layers that move; others cannot be held.
        manager: Reads, allows and writes down.
    """
    layers = moving(network)

    def hold(*_: object) -> None:
        wanted = {f"{n}[{unit}]": b for n, layer in layers.items() for unit, b in enumerate(layer.level.tolist())}
        ladders = [layer.levels for layer in layers.values() for _ in layer.counts]
        manager.given(wanted, ladders)
        allowed = dict(zip(wanted, manager.allowed, strict=True))
        for name, layer in layers.items():
            layer.cap = allowed[f"{name}[0]"]

    return network.register_forward_pre_hook(hold)
