"""The network as a trial takes it: traced where torch.fx can trace it, as it is where not."""

from __future__ import annotations

from torch import Tensor, nn

from objectives.maskable import maskable
from search.surgery.graph import trace
from spaces.errors import TraceError


def prepared(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[nn.Module, str]:
    """The traced network and "", or the network itself and why it cannot be traced."""
    try:
        traced = trace(network, example_inputs)
    except TraceError as error:
        return network, str(error)
    if maskable(traced).keys() != maskable(network).keys():
        # A network that is itself one layer of torch.nn dissolves into functions when it is traced.
        return network, "the network is a single layer of torch.nn: wrap it in a module that calls it"
    return traced, ""
