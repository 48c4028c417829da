"""The kernels for whole numbers that this machine has, and whether a layer gains by them.

Both give exactly the sums that float32 gives on the same codes as long as these stay below 2^24 (always up to 1,040
products, in practice far beyond), so that taking one changes no output. Which batches gain is measured, not assumed:
`choose` times both ways on the network's own inputs.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from search.surgery import granularity_codes as codes

_BATCHES = (1, 8, 64)
#: A kernel must be faster by this factor to be taken: less is noise.
_GAIN = 1.1
#: The code that stands for 0 where codes have no sign.
_MOVED = 128
#: Numbers of an input that are worked on at once: 1 MB, which a core's cache holds with what comes of them.
_AT_ONCE = 2**18


class Kernel(ABC):
    """A layer of codes computed by a kernel for integers, some samples at a time so that they stay in the cache.

    Args:
        weight: int8, output channels first.
        scale: (O,): what code 1 is worth in each.
    """

    name: ClassVar[str]
    #: How many of an input's last dimensions make up a sample.
    sample_dims = 1

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self._scale = scale

    @abstractmethod
    def takes(self, x: Tensor) -> bool:
        """Whether it can do this input."""

    @abstractmethod
    def sums(self, values: Tensor) -> Tensor:
        """Sums of products of codes times the weights' scale, float32.

        Args:
            values: Codes of inputs, whole numbers in float32; overwritten.
        """

    def run(self, x: Tensor, x_scale: Callable[[Tensor], Tensor], bias: Tensor | None) -> Tensor:
        """The layer's output.

        Args:
            x: float32, dimension 0 the batch.
            x_scale: What code 1 is worth in an input.
            bias: (O,).
        """
        step = max(1, _AT_ONCE // max(1, x[0].numel()))
        whole: Tensor | None = None
        for start in range(0, len(x), step):
            part = x[start : start + step]
            scale = x_scale(part)
            sums = self.sums(codes.encode_input(part, scale))
            if step >= len(x):
                return codes.rescaled(sums, scale, bias, -self.sample_dims)
            if whole is None:
                layout = torch.channels_last if sums.dim() == 4 else torch.contiguous_format
                whole = torch.empty((len(x), *sums.shape[1:]), dtype=sums.dtype, memory_format=layout)
            codes.rescaled(sums, scale, bias, -self.sample_dims, out=whole[start : start + step])
        return torch.empty(0) if whole is None else whole


class MatrixKernel(Kernel):
    """int8 times int8 in int32, by ``torch._int_mm``."""

    name = "int8 matrix product"

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        super().__init__(weight, scale)
        self._weight = weight.t()

    def takes(self, x: Tensor) -> bool:
        return x.dim() > 1 and _plain(x)

    def sums(self, values: Tensor) -> Tensor:
        flat = values.reshape(-1, values.shape[-1]).to(torch.int8)
        sums = torch._int_mm(flat, self._weight).to(torch.float32).mul_(self._scale)
        return sums.view(*values.shape[:-1], -1)


class ConvolutionKernel(Kernel):
    """uint8 times int8 in int32, by oneDNN: codes of inputs are moved up by 128, which is its zero.

    Args:
        weight: (O, I, height, width) int8.
        scale: (O,).
        layer: Whose stride, padding and dilation hold.
    """

    name = "int8 convolution (oneDNN)"
    sample_dims = 3

    def __init__(self, weight: Tensor, scale: Tensor, layer: Any) -> None:
        super().__init__(weight, scale)
        self._geometry = [list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups]
        self._zero = torch.zeros(len(weight), dtype=torch.int64)
        self._weight = torch.ops.onednn.qconv_prepack(weight, scale, 1.0, _MOVED, *self._geometry, None)

    def takes(self, x: Tensor) -> bool:
        return x.dim() == 4 and _plain(x)

    def sums(self, values: Tensor) -> Tensor:
        moved = values.add_(_MOVED).to(torch.uint8, memory_format=torch.channels_last)
        after: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
        result: Tensor = torch.ops.onednn.qconv_pointwise(
            moved, 1.0, _MOVED, self._weight, self._scale, self._zero, None, *self._geometry, *after
        )
        return result


def kernel_for(weight: Tensor, scale: Tensor, layer: Any) -> Kernel | None:
    """The kernel for a layer's codes.

    Args:
        weight: (O, K) or (O, I, height, width) int8.
        scale: (O,) float32.
        layer: The convolution, None for a linear layer.

    Returns:
        None where this machine has none for such a layer.
    """
    if weight.device.type != "cpu" or scale.dtype != torch.float32:
        return None
    if layer is None:
        return MatrixKernel(weight, scale) if "matrix" in available() else None
    plain = isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return ConvolutionKernel(weight, scale, layer) if plain and "convolution" in available() else None


@cache
def available() -> frozenset[str]:
    """The kernels of this machine that give exactly what float32 gives on a small example."""
    generator = torch.Generator().manual_seed(0)
    found = set()
    for name, shape, layer in (
        ("matrix", (16, 24), None),
        ("convolution", (16, 8, 3, 3), nn.Conv2d(8, 16, 3, padding=1, stride=2)),
    ):
        weight = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
        inputs = torch.randint(-127, 128, (2, shape[1], 5, 5)[: len(shape)], generator=generator).float()
        try:
            scale = torch.rand(len(weight), generator=generator)
            if layer is None:
                expected = (inputs @ weight.float().t()).mul_(scale)
                sums = MatrixKernel(weight, scale).sums(inputs)
            else:
                expected = layer._conv_forward(inputs, weight.float(), None).mul_(codes.along(scale, inputs, 1))
                sums = ConvolutionKernel(weight, scale, layer).sums(inputs)
        # An operator that is missing or refuses this machine: there is no kernel then.
        except (RuntimeError, AttributeError, NotImplementedError):
            continue
        if torch.equal(sums, expected):
            found.add(name)
    return frozenset(found)


@torch.no_grad()
def choose(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """Time every layer of codes with and without its kernel, and let it use the kernel from the batch that gains.

    Args:
        network: Finished, on the CPU; its layers' ``kernel_from`` are set.
        inputs: ``network(*inputs)`` runs; samples are repeated to make up batches.

    Returns:
        By layer, how many times faster it is with its kernel at the largest batch; layers without one are left out.
    """
    found = {name: module for name, module in network.named_modules() if hasattr(module, "kernel_from")}
    # A layer that goes on choosing packs no weights: they change.
    layers = {name: module for name, module in found.items() if not hasattr(module, "reset")}
    if not layers:
        return {}
    seen: dict[str, Tensor] = {}

    def watching(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            seen[name] = arguments[0]

        return hook

    handles = [layer.register_forward_pre_hook(watching(name)) for name, layer in layers.items()]
    try:
        network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    for each in found.values():
        if hasattr(each, "reset"):
            each.reset()  # it has seen this batch, but starts where training left it
    gains: dict[str, float] = {}
    for name, x in seen.items():
        layer: Any = layers[name]
        working = layer._unpacked()
        if working.kernel is None or not working.kernel.takes(x):
            layer.kernel_from = 0
            continue
        layer.kernel_from, best = 0, {}
        for batch in reversed(_BATCHES):
            sample = x[torch.arange(batch) % len(x)].contiguous()
            best[batch] = _gain(layer, sample)
            if best[batch] < _GAIN:
                break
            layer.kernel_from = batch
        gains[name] = best[_BATCHES[-1]]
    return gains


def execution_of(module: nn.Module, batch: int = 64) -> str:
    """How a layer runs: ``float32``, ``simulated``, or the name of the kernel that does it.

    Args:
        module: A layer of a finished network.
        batch: For which batch; kernels are used where they gain.
    """
    layer: Any = module
    if not hasattr(layer, "kernel_from") or not hasattr(layer, "rows"):
        return "float32"
    levels = {bits for bits, _ in layer.rows}
    if levels == {32}:
        return "float32"
    kernel = layer._unpacked().kernel
    if kernel is not None and 0 < layer.kernel_from <= batch and levels <= {8, 4, 2}:
        return str(kernel.name)
    return "simulated"


def _gain(layer: Any, x: Tensor) -> float:
    """How many times faster a layer is with its kernel than as codes in float32."""
    chosen, seconds = layer.kernel_from, []
    for layer.kernel_from in (1, 0):
        seconds.append(processor_seconds(lambda: layer.run(x)))
    layer.kernel_from = chosen
    return seconds[1] / max(seconds[0], 1e-12)


def _plain(values: Tensor) -> bool:
    """Whether inputs are what a kernel takes, and nobody counts or follows the operations: no counter knows these."""
    followed = torch._C._len_torch_dispatch_stack() > 0
    return values.dtype == torch.float32 and values.device.type == "cpu" and values.numel() > 0 and not followed


def processor_seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """The least of some timings, after one that is not counted.

    Of one thread it is the processor's time, which others on the machine lengthen least; of several the clock's.
    """
    now = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    work()
    best = float("inf")
    for _ in range(repeats):
        start = now()
        work()
        best = min(best, now() - start)
    return best
