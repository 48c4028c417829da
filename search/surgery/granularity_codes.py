"""The arithmetic of whole numbers: weights as codes with a scale per channel, inputs as codes with a range per sample.

A sum of products of codes is a whole number, and float32 holds whole numbers up to 2^24: what a kernel for integers
computes and what float32 computes on the same codes are the same bits, whatever the order of the sums. So a layer
that is simulated gives exactly what a layer with a kernel gives.

Dimensions: O outputs, K all that one output sums over, B batch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

#: The largest code of eight bits; -128 is left out, so that a weight and its negative are alike.
LARGEST = 127
#: Ranges below this count as this: a channel of zeros has codes 0 and a scale that is harmless.
_TINY = 1e-30


def scales(weight: Tensor) -> Tensor:
    """The value of code 1 per output channel, at 8 bits.

    Args:
        weight: (O, ...) float.

    Returns:
        (O,), > 0.
    """
    return weight.detach().flatten(1).abs().amax(1).clamp_min(_TINY) / LARGEST


def encode(weight: Tensor, scale: Tensor) -> Tensor:
    """The codes of 8 bits.

    Args:
        weight: (O, ...) float.
        scale: (O,), from `scales`.

    Returns:
        (O, ...) int8 in [-127, 127]; 0 stays 0.
    """
    return torch.round(weight.detach() / rows(scale, weight)).clamp_(-LARGEST, LARGEST).to(torch.int8)


def nested(codes: Tensor, bits: int) -> Tensor:
    """The codes of fewer bits that lie in those of 8: a shift, no requantization.

    Args:
        codes: int8, from `encode`.
        bits: 8, 4 or 2.

    Returns:
        int8 in [-2^(bits-1), 2^(bits-1) - 1]; one code is worth ``2^(8-bits)`` times the scale.
    """
    if bits == 8:
        return codes
    shift = 8 - bits
    # In 16 bits, because 127 + 8 does not fit into 8.
    wide = (codes.to(torch.int16) + (1 << (shift - 1))) >> shift
    return wide.clamp_(-(1 << (bits - 1)), (1 << (bits - 1)) - 1).to(torch.int8)


def decode(codes: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The values that nested codes stand for, in the scale's type."""
    return codes.to(scale.dtype) * rows(scale * (1 << (8 - bits)), codes)


def quantized(weight: Tensor, bits: int, half: torch.dtype) -> Tensor:
    """A weight as it is at a level, in its own type.

    Args:
        weight: (O, ...) float.
        bits: 32, 16, 8, 4 or 2.
        half: The type of 16 bits.
    """
    if bits >= 32:
        return weight.detach()
    if bits == 16:
        return weight.detach().to(half).to(weight.dtype)
    scale = scales(weight)
    return decode(nested(encode(weight, scale), bits), scale, bits)


def input_scale(x: Tensor, dims: int) -> Tensor:
    """The value of code 1 of an input: per sample, or per token.

    Args:
        x: (B, ...) float.
        dims: How many of the last dimensions make up one sample: channels and positions of a convolution's, the
            features of a token.

    Returns:
        Of x's dimensions, 1 where the range is taken over.
    """
    x, over = x.detach(), list(range(-dims, 0))
    return torch.maximum(x.amax(over, keepdim=True), -x.amin(over, keepdim=True)).clamp_min_(_TINY).div_(LARGEST)


def encode_input(x: Tensor, scale: Tensor) -> Tensor:
    """The codes of an input, whole numbers in its own type, in [-127, 127]."""
    return torch.div(x, scale).round_().clamp_(-LARGEST, LARGEST)


def rescaled(sums: Tensor, x_scale: Tensor, bias: Tensor | None, dim: int, out: Tensor | None = None) -> Tensor:
    """Sums of products of codes as the values that they stand for.

    Args:
        sums: Float, each a whole number times the value of code 1 of its output's weights; overwritten.
        x_scale: From `input_scale`; it broadcasts.
        bias: (O,).
        dim: Which dimension of `sums` is O.
        out: Where to put the result, None for anywhere.
    """
    if bias is None:
        return sums.mul_(x_scale) if out is None else torch.mul(sums, x_scale, out=out)
    return torch.addcmul(along(bias, sums, dim), sums, x_scale, out=out)


def rows(values: Tensor, like: Tensor) -> Tensor:
    """(O,) as (O, 1, ..., 1), with the dimensions of `like`."""
    return values.view(-1, *[1] * (like.dim() - 1))


def along(values: Tensor, like: Tensor, dim: int) -> Tensor:
    """(O,) with the dimensions of `like`, its own at `dim`."""
    shape = [1] * like.dim()
    shape[dim] = -1
    return values.view(shape)


def straight_through(x: Tensor, value: Tensor) -> Tensor:
    """`value`, with the gradient of `x` (Bengio et al. 2013)."""
    result: Tensor = _StraightThrough.apply(x, value)  # type: ignore[no-untyped-call]
    return result


def straight_through_input(x: Tensor, scale: Tensor) -> Tensor:
    """An input as its codes say, with a gradient of 1 within the range and 0 where it is cut off."""
    result: Tensor = _Clipped.apply(x, scale)  # type: ignore[no-untyped-call]
    return result


class _StraightThrough(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


class _Clipped(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor) -> Tensor:
        codes = torch.round(x / scale)
        ctx.save_for_backward(codes.abs() <= LARGEST)
        return codes.clamp_(-LARGEST, LARGEST).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None


def excess_bits(weight: Tensor) -> Tensor:
    """Bits that the range takes beyond the signal: log2(max|w| / rms(w)), on average over the output channels."""
    flat = weight.flatten(1)
    on = (flat != 0).sum(1).clamp_min(1)
    power = flat.square().sum(1) / on
    alive = power > 0
    peak = flat.abs().amax(1)
    ratio = torch.where(alive, peak / power.clamp_min(1e-30).sqrt(), torch.ones_like(peak))
    return ratio.log2().mean()
