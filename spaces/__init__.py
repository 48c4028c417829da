"""What may be asked of a network: policies, the profile they make up, and the space that is searched. No torch here."""

from __future__ import annotations

from collections.abc import Mapping

from spaces.budding import BuddingPolicy
from spaces.finetuning import FinetuningPolicy
from spaces.granularity import GranularityPolicy
from spaces.policy import Policy
from spaces.pruning import PruningPolicy
from spaces.reconnection import ReconnectionPolicy
from spaces.resonance import ResonancePolicy
from spaces.routing import RoutingPolicy

#: Every policy by its name, in the order in which mechanisms act; fine-tuning, which has no mechanism, is last.
POLICIES: Mapping[str, type[Policy]] = {
    "pruning": PruningPolicy,
    "reconnection": ReconnectionPolicy,
    "routing": RoutingPolicy,
    "granularity": GranularityPolicy,
    "resonance": ResonancePolicy,
    "budding": BuddingPolicy,
    "finetuning": FinetuningPolicy,
}

__all__ = [
    "POLICIES",
    "BuddingPolicy",
    "FinetuningPolicy",
    "GranularityPolicy",
    "Policy",
    "PruningPolicy",
    "ReconnectionPolicy",
    "ResonancePolicy",
    "RoutingPolicy",
]
