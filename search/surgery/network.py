"""The network as a trial takes it: traced where torch.fx can trace it, as it is where not."""

from __future__ import annotations

from torch import Tensor, nn

from search.surgery.graph import trace
from spaces.errors import TraceError


def prepared(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> tuple[nn.Module, str]:
    """The traced network and "", or the network itself and why it cannot be traced."""
    try:
        return trace(network, example_inputs), ""
    except TraceError as error:
        return network, str(error)
