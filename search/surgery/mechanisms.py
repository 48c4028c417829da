"""Which mechanism carries out which policy, in the one order in which they attach and act."""

from __future__ import annotations

from search.surgery.granularity import Granularity
from search.surgery.mechanism import Mechanism
from search.surgery.pruning import Pruning
from search.surgery.reconnection import Reconnection
from search.surgery.resonance import Resonance
from search.surgery.routing import Routing
from spaces.granularity import GranularityPolicy
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from spaces.reconnection import ReconnectionPolicy
from spaces.resonance import ResonancePolicy
from spaces.routing import RoutingPolicy


def mechanisms_for(profile: CompressionProfile) -> list[Mechanism]:
    """The mechanisms of a profile's policies, none of them attached yet."""
    found: list[Mechanism] = []
    if (routing := profile.get(RoutingPolicy)) is not None:
        found.append(Routing(routing))
    if (granularity := profile.get(GranularityPolicy)) is not None:
        found.append(Granularity(granularity))
    pruning = None
    if (policy := profile.get(PruningPolicy)) is not None:
        pruning = Pruning(policy)
        found.append(pruning)
    if (reconnection := profile.get(ReconnectionPolicy)) is not None:
        found.append(Reconnection(reconnection, pruning))
    if (resonance := profile.get(ResonancePolicy)) is not None:
        found.append(Resonance(resonance, pruning))
    return found
