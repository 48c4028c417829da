"""A network in the forms that only accelerators run fast: int8, 4 bits, fp8, and 2:4 sparsity in hardware.

The kernels are torchao's and PyTorch's own. On a CPU none of them is offered: there they would be slower, or nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping

import torch
from torch import nn

from spaces.errors import ExportError

#: Compute capability (major, minor) below which a form has no kernel.
FORMS: Mapping[str, tuple[int, int]] = {
    "bf16": (8, 0),
    "int8": (7, 5),
    "int4": (8, 0),
    "fp8": (8, 9),
    "2:4": (8, 0),
}
_TORCHAO = ("int8", "int4", "fp8")


def unavailable(form: str) -> str:
    """Why a form cannot be made here, one line; "" where it can."""
    if form not in FORMS:
        return f"there is no form {form!r}: use {', '.join(FORMS)}"
    if not torch.cuda.is_available():
        return "it needs a GPU, but PyTorch finds none"
    if torch.cuda.get_device_capability() < FORMS[form]:
        wanted, found = FORMS[form], torch.cuda.get_device_capability()
        return f"it needs compute capability {wanted[0]}.{wanted[1]}, but the GPU has {found[0]}.{found[1]}"
    if form in _TORCHAO and importlib.util.find_spec("torchao") is None:
        return "torchao must be installed, but is not: pip install 'pleach[gpu]'"
    return ""


def accelerated(network: nn.Module, form: str) -> nn.Module:
    """The network in a form, edited in place, on the GPU, in bfloat16 between the layers.

    Args:
        network: Its linear layers are changed; for ``2:4`` only those whose weights keep the pattern already are, and
            ``dense 2:4`` is their dense twin, which projects every weight first: for comparison.
        form: Of `FORMS`, or ``dense 2:4``.

    Raises:
        ExportError: If the form cannot be made here.
    """
    reason = unavailable("2:4" if form == "dense 2:4" else form)
    if reason:
        raise ExportError(f"the form {form} cannot be made: {reason}")
    network = network.to("cuda", torch.bfloat16).eval()
    if form == "bf16":
        return network
    if form.endswith("2:4"):
        for module in network.modules():
            if isinstance(module, nn.Linear):
                weight = two_of_four(module.weight.detach())
                held = weight if form == "dense 2:4" else torch.sparse.to_sparse_semi_structured(weight)
                module.weight = nn.Parameter(held, requires_grad=False)
        return network
    quantization = importlib.import_module("torchao.quantization")
    configs: Mapping[str, Callable[[], object]] = {
        "int8": lambda: quantization.Int8DynamicActivationInt8WeightConfig(),
        "int4": lambda: quantization.Int4WeightOnlyConfig(group_size=128),
        "fp8": lambda: quantization.Float8DynamicActivationFloat8WeightConfig(),
    }
    quantization.quantize_(network, configs[form]())
    return network


def two_of_four(weight_OI: torch.Tensor) -> torch.Tensor:
    """The weight with the two smallest of every four inputs at 0; unchanged where it keeps the pattern already."""
    groups = weight_OI.reshape(-1, 4)
    keep = torch.zeros_like(groups, dtype=torch.bool).scatter_(1, groups.abs().topk(2, dim=1).indices, True)
    return torch.where(keep, groups, torch.zeros_like(groups)).reshape(weight_OI.shape)
