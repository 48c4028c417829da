"""What may be asked of a network: policies, the profile they make up, and the space that is searched. No torch here."""

from __future__ import annotations

from collections.abc import Mapping

from spaces.policy import Policy
from spaces.pruning import PruningPolicy
from spaces.reconnection import ReconnectionPolicy

#: Every policy by its name, in the order in which mechanisms act.
POLICIES: Mapping[str, type[Policy]] = {
    "pruning": PruningPolicy,
    "reconnection": ReconnectionPolicy,
}
