"""From a network under surgery to a plain one: masks become zeros, masked channels are removed for real."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from search.surgery import channels
from search.surgery.channel import Channel
from search.surgery.granularity_finish import enter_rounded, replace_units
from search.surgery.granularity_kernels import choose
from search.surgery.granularity_units import take_off
from search.surgery.mechanism import Mechanism
from search.surgery.routing_graph import settle
from search.surgery.site import Site
from spaces.errors import NetworkError


def finalize(site: Site, mechanisms: Sequence[Mechanism]) -> nn.Module:
    """Let the mechanisms go and return the plain network that computes what the network under surgery does.

    Each mechanism's receipt goes into ``site.receipts``; active weights that are exactly 0 are entered in the books as
    pruned, after which the ledger counts the non-zeros of what is returned.

    Returns:
        A module of its own, in eval mode on the CPU.

    Raises:
        NetworkError: If removing channels changes the outputs, which the groups' verification should have ruled out.
    """
    for mechanism in mechanisms:
        site.receipts[mechanism.name] = dict(mechanism.finish())
    network = plain(site)
    choose(network, tuple(x.cpu() for x in site.example_inputs))
    return network


def plain(site: Site) -> nn.Module:
    """The plain network of a site whose mechanisms have let go, or of a copy that none works on."""
    settle(site)
    enter_rounded(site.network, site.connectivity)
    site.connectivity.enter_zeros()
    network: nn.Module = copy.deepcopy(site.network).eval().cpu()
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.zero_grad(set_to_none=True)
    closed = list(site.connectivity.closed.values())
    # Channels go in full precision: rounding would make much of differences in the last digit.
    taken = take_off(network)
    if closed:
        _remove(network, closed, site)
    replace_units(network, taken, closed)
    return network


def _remove(network: nn.Module, closed: Sequence[Channel], site: Site) -> None:
    inputs = tuple(x.cpu() for x in site.example_inputs)
    with torch.no_grad():
        expected = network(*inputs)
    channels.remove(network, closed, inputs)
    with torch.no_grad():
        difference = float((network(*inputs) - expected).abs().max())
    if difference > 1e-4 * max(1.0, float(expected.abs().max())):
        raise NetworkError(
            f"removing {len(closed)} channels must not change the outputs, but does by {difference:.2g}: "
            "use granularity weight for this network"
        )
