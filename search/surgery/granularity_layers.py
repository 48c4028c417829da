"""What a layer with a precision becomes in the finished network: codes and scales as buffers, bit for bit as computed.

Rows of 8 bits are stored as int8, rows of 4 and 2 bits are packed into bytes, rows of 16 bits in their own type. There
are no parameters: such a layer runs, it is not trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.surgery import granularity_codes as codes
from search.surgery.granularity_kernels import Kernel, kernel_for
from search.surgery.granularity_rows import LEVELS, Rows, checked, coded, packed, positions, unpacked
from spaces.errors import ExportError

_HALVES: Mapping[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
_KINDS = ("none", "dynamic", "static")
_HELD = ("int8", "int4", "int2", "float16", "float32", "scale")


@dataclass
class _Working:
    """What is unpacked once and used in every call."""

    key: tuple[object, ...]
    weight: Tensor
    scale: Tensor
    half: Tensor | None
    full: Tensor | None
    order: Tensor | None
    kernel: Kernel | None


class CodedLayer(nn.Module):
    """A layer that is held as codes.

    Args:
        shape: Of the weight as it would be in float32: output channels first.
        bias: Whether there is one.
        rows: Levels of the output channels, in order, as runs of (bits, how many).
        activations: ``none``, ``dynamic`` or ``static``.
        half: ``bf16`` or ``fp16``: the type of 16 bits.
        kernel_from: The smallest batch from which the kernel for integers is used, where this machine has one; 0 for
            never. What comes out is the same, bit for bit.

    Raises:
        ExportError: If the rows are not those of the shape.
    """

    _working: _Working | None
    sample_dims = 1

    def __init__(
        self, shape: Sequence[int], bias: bool, rows: Rows, activations: str, half: str, kernel_from: int
    ) -> None:
        super().__init__()
        self.rows = checked(rows, shape[0])
        if activations not in _KINDS or half not in _HALVES or not isinstance(kernel_from, int):
            raise ExportError(
                f"a layer of codes must have activations {', '.join(_KINDS)} and half {', '.join(_HALVES)}, but has "
                f"{str(activations)[:20]} and {str(half)[:20]}: export it again"
            )
        self.shape, self.activations, self.half_type, self.kernel_from = tuple(shape), activations, half, kernel_from
        inner = math.prod(shape[1:])
        for bits in (8, 4, 2):
            if count := self._count(bits):
                dtype = torch.int8 if bits == 8 else torch.uint8
                self.register_buffer(f"int{bits}", torch.zeros(count, math.ceil(inner * bits / 8), dtype=dtype))
        if count := self._count(8) + self._count(4) + self._count(2):
            self.register_buffer("scale", torch.ones(count))
            if activations == "static":
                self.register_buffer("range", torch.ones(()))
        if count := self._count(16):
            self.register_buffer("float16", torch.zeros(count, *shape[1:], dtype=_HALVES[half]))
        if count := self._count(32):
            self.register_buffer("float32", torch.zeros(count, *shape[1:]))
        self.register_buffer("bias", torch.zeros(shape[0]) if bias else None)
        self._working = None

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """What the layer does with any weight of as many inputs."""
        raise NotImplementedError

    def kernel(self, weight: Tensor, scale: Tensor) -> Kernel | None:
        """The kernel of this machine for these codes, or None."""
        raise NotImplementedError

    # -- what it holds ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def hold(self, weight: Tensor, bias: Tensor | None, input_range: Tensor | None) -> None:
        """Take up the weights of a layer in float32, each row at its level."""
        at = {bits: positions(self.rows, bits) for bits in LEVELS}
        scales = []
        for bits in (8, 4, 2):
            if len(at[bits]):
                values, scale = coded(weight[at[bits]], [bits] * len(at[bits]))
                setattr(self, f"int{bits}", packed(values.flatten(1), bits))
                scales.append(scale.float())
        if scales:
            self.scale = torch.cat(scales)
        if len(at[16]):
            self.float16 = weight[at[16]].to(_HALVES[self.half_type]).contiguous()
        if len(at[32]):
            self.float32 = weight[at[32]].clone().contiguous()
        if bias is not None:
            self.bias = bias.detach().clone()
        if input_range is not None and hasattr(self, "range"):
            self.range = input_range.detach().float().reshape(()).clone()

    def values(self) -> Tensor:
        """(O, ...) float32: what the codes stand for, in the order of the output channels."""
        working = self._unpacked()
        parts = [working.weight.float() * codes.rows(working.scale, working.weight)] if len(working.weight) else []
        parts += [part.float() for part in (working.half, working.full) if part is not None]
        whole = torch.cat(parts)
        return whole if working.order is None else whole[working.order]

    @property
    def weight_bits(self) -> float:
        """Mean bits of a weight."""
        return sum(bits * count for bits, count in self.rows) / self.shape[0]

    @property
    def bit_products(self) -> float:
        """Bits of a weight times bits of what it multiplies, on average over the rows."""
        return sum(bits * self.input_bits(bits) * count for bits, count in self.rows) / self.shape[0]

    def input_bits(self, bits: int) -> int:
        """Bits of the input that rows of so many bits read."""
        if self.activations == "none" or bits > 16:
            return 32
        return 16 if bits == 16 else 8

    # -- what it computes -------------------------------------------------------------------------------------------

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch calls it so
        if not (torch.is_grad_enabled() and input.requires_grad):
            return self.run(input)
        # Whatever comes before may be trained: the gradient is that of the values which the codes stand for.
        with torch.no_grad():
            exact = self.run(input)
        return codes.straight_through(self.compute(input, self.values().to(input.dtype), self.bias), exact)

    def run(self, input: Tensor) -> Tensor:  # noqa: A002 - as in `forward`
        """The layer's output, without a gradient."""
        working, parts, dim = self._unpacked(), [], -self.sample_dims
        if len(working.weight) == self.shape[0] and working.order is None:
            return self._on_codes(input, working, self.bias)
        if len(working.weight):
            parts.append(self._on_codes(input, working, None))
        if working.half is not None:
            rounded = input if self.activations == "none" else input.to(working.half.dtype).to(input.dtype)
            parts.append(self.compute(rounded, working.half.to(input.dtype), None))
        if working.full is not None:
            parts.append(self.compute(input, working.full.to(input.dtype), None))
        result = parts[0] if len(parts) == 1 else torch.cat(parts, dim)
        if working.order is not None:
            result = result.index_select(result.dim() + dim, working.order)
        return result if self.bias is None else result.add_(codes.along(self.bias, result, dim))

    def x_scale(self, x: Tensor) -> Tensor:
        """The value of code 1 of an input."""
        if self.activations == "static":
            return self.range.to(x.dtype) / codes.LARGEST
        return codes.input_scale(x, self.sample_dims)

    def _on_codes(self, x: Tensor, working: _Working, bias: Tensor | None) -> Tensor:
        scale, dim = working.scale.to(x.dtype), -self.sample_dims
        if self.activations == "none":
            weight = working.weight.to(x.dtype)
            return self.compute(x, weight * codes.rows(scale, weight), bias)
        kernel = working.kernel
        if kernel is not None and 0 < self.kernel_from <= x.shape[0] and kernel.takes(x):
            return kernel.run(x, self.x_scale, bias)
        x_scale = self.x_scale(x)
        sums = self.compute(codes.encode_input(x, x_scale), working.weight.to(x.dtype), None)
        return codes.rescaled(sums.mul_(codes.along(scale, sums, dim)), x_scale, bias, dim)

    def _unpacked(self) -> _Working:
        held = (self._buffers.get(name) for name in _HELD)
        key = tuple((id(value), value._version, value.device) for value in held if value is not None)
        if self._working is None or self._working.key != key:
            integers = [
                unpacked(getattr(self, f"int{bits}"), bits, math.prod(self.shape[1:])).view(-1, *self.shape[1:])
                for bits in (8, 4, 2)
                if self._count(bits)
            ]
            device = next(value.device for value in self._buffers.values() if value is not None)
            empty = torch.zeros(0, *self.shape[1:], dtype=torch.int8, device=device)
            weight = torch.cat(integers) if integers else empty
            at = [position for bits in (8, 4, 2, 16, 32) for position in positions(self.rows, bits).tolist()]
            order = None if at == sorted(at) else torch.tensor(at, device=device).argsort()
            scale = cast(Tensor, self._buffers.get("scale", torch.ones(0, device=device)))
            self._working = _Working(
                key,
                weight,
                scale,
                self._buffers.get("float16"),
                self._buffers.get("float32"),
                order,
                self.kernel(weight, scale) if len(weight) and self.activations != "none" else None,
            )
        return self._working

    def _count(self, bits: int) -> int:
        return sum(count for level, count in self.rows if level == bits)

    def __getstate__(self) -> dict[str, Any]:
        # What a kernel has packed belongs to it and cannot be copied.
        return {**self.__dict__, "_working": None}

    def extra_repr(self) -> str:
        rows = ", ".join(f"{count} of {bits} bits" for bits, count in self.rows)
        return f"{'x'.join(map(str, self.shape))}, {rows}, activations={self.activations}"


class CodedLinear(CodedLayer):
    """A linear layer that is held as codes; see `CodedLayer`."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool,
        rows: Rows,
        activations: str,
        half: str,
        kernel_from: int = 0,
    ) -> None:
        super().__init__((out_features, in_features), bias, rows, activations, half, kernel_from)
        self.in_features, self.out_features = in_features, out_features

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def kernel(self, weight: Tensor, scale: Tensor) -> Kernel | None:
        return kernel_for(weight, scale, None)


class CodedConvolution(CodedLayer):
    """A convolution over 1, 2 or 3 dimensions that is held as codes; see `CodedLayer` and ``torch.nn.Conv2d``."""

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
        rows: Rows,
        activations: str,
        half: str,
        kernel_from: int = 0,
    ) -> None:
        dimensions = len(kernel_size)
        kinds: dict[int, Any] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
        with torch.device("meta"):
            shape = kinds[dimensions](
                in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode
            )
        super().__init__(tuple(shape.weight.shape), bias, rows, activations, half, kernel_from)
        self.in_channels, self.out_channels, self.kernel_size = in_channels, out_channels, kernel_size
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups, self.padding_mode, self.sample_dims = groups, padding_mode, dimensions + 1
        # The layer without its weights does what the layer does, whatever its padding.
        self.__dict__["_geometry"] = shape

    def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        result: Tensor = self.__dict__["_geometry"]._conv_forward(x, weight, bias)
        return result

    def kernel(self, weight: Tensor, scale: Tensor) -> Kernel | None:
        return kernel_for(weight, scale, self.__dict__["_geometry"])
