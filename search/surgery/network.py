"""The network as a trial takes it: traced where torch.fx can trace it, as it is where not."""

from __future__ import annotations

from torch import Tensor, nn

from objectives.maskable import maskable
from search.surgery.graph import REMEDY, trace
from spaces.errors import TraceError


def prepared(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[nn.Module, str]:
    """The traced network and "", or the network itself and why it cannot be traced."""
    try:
        traced = trace(network, example_inputs)
    except TraceError as error:
        return network, str(error)
    before, after = maskable(network), maskable(traced)
    if before.keys() == after.keys():
        return traced, ""
    owner = next(iter(before.keys() ^ after.keys())).rpartition(".")[0]
    if not owner:
        # It dissolves into functions when it is traced.
        return network, "the network is a single layer of torch.nn: wrap it in a module that calls it"
    kind = type(network.get_submodule(owner)).__qualname__
    return network, (
        f"the layer {owner} ({kind}) must compute as its class in torch.nn does, but has a forward and parameters of "
        f"its own: {REMEDY}"
    )
