"""Networks with gates that open for a given share of given samples."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from objectives.execution import gates
from search.surgery.connectivity import Connectivity
from search.surgery.network import prepared
from search.surgery.routing import Routing
from search.surgery.routing_gate import RoutingGate
from search.surgery.site import Site
from spaces import RoutingPolicy
from spaces.profile import CompressionProfile


def site_of(network: nn.Module, x: Tensor, policy: RoutingPolicy) -> Site:
    """A network with untrained gates; the routing that put them in has let go."""
    inputs = (x[:2],)
    traced, _ = prepared(network.eval(), inputs)
    generator = torch.Generator().manual_seed(0)
    site = Site(traced, CompressionProfile.of(policy), Connectivity(traced), generator, 10, inputs)
    routing = Routing(policy)
    routing.attach(site)
    routing.finish()
    return site


@torch.no_grad()
def opened(site: Site, share: float, x: Tensor, seed: int) -> Site:
    """A copy whose gates choose by what they read: each choice is open for about a share of the samples."""
    site = site.copy()
    site.network.eval()
    generator = torch.Generator().manual_seed(seed)
    for gate in gates(site.network).values():
        assert isinstance(gate, RoutingGate)
        gate.second.copy_(torch.randn(gate.second.shape, generator=generator))
        gate.center.copy_(torch.randn(gate.center.shape, generator=generator) * 0.1)
        gate.scale.copy_(torch.rand(gate.scale.shape, generator=generator) + 0.5)
        seen: list[Tensor] = []
        handle = gate.register_forward_pre_hook(lambda g, args, seen=seen: seen.append(g.scores(args[0])))
        site.network(x)
        handle.remove()
        z_BU = torch.cat(seen).sort(0).values
        shut = round((1 - share) * len(z_BU))
        # In the middle between two samples, so that no rounding decides.
        below = z_BU[shut - 1] if shut > 0 else z_BU[0] - 1
        above = z_BU[shut] if shut < len(z_BU) else z_BU[-1] + 1
        gate.bias.sub_((below + above) / 2)
    return site
