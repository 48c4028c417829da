"""New edges while the network trains: which pairs of layers, which of their units, and when one has to go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from search.surgery.affinity import Alignment, PairCorrelation, PairGradient, divergence, taps
from search.surgery.criteria import WINDOW
from search.surgery.edges import Candidate, Edge, candidates, insert, remove, whole
from search.surgery.layout import Graph
from search.surgery.selection import highest_overall
from search.surgery.site import Site
from spaces.errors import NetworkError
from spaces.pruning import PruningPolicy
from spaces.reconnection import ReconnectionPolicy


class EdgeGrowth:
    """Adds edges within the policy's radius, fills them, and removes those that have lost all their connections.

    Args:
        policy: Radius, number of edges and what they connect.
        criterion: What makes a pair worth joining.
        site: The network under surgery.

    Raises:
        NetworkError: If the network is not traced, or no edge can join any two of its layers.
    """

    def __init__(self, policy: ReconnectionPolicy, criterion: str, site: Site) -> None:
        if site.graph is None:
            raise NetworkError(f"reconnection.radius must be 0 for this network: {site.untraceable}")
        self._policy, self._criterion, self._site = policy, criterion, site
        self.edges: list[Edge] = []
        self._added = self._removed = 0
        self._refused: set[str] = set()
        pruning = site.profile.get(PruningPolicy)
        self._masks_channels = policy.granularity == "channel" or (
            pruning is not None and pruning.granularity == "channel"
        )
        if not self._candidates():
            raise NetworkError(
                f"reconnection.radius = {policy.radius} needs two layers that an edge can join, but the network has "
                "none so near to one another: use radius 0"
            )

    def cycle(self, step: int, budget: int) -> int:
        """Remove empty edges, add at most one, create connections.

        Args:
            step: Of the training; decides which batches are looked at.
            budget: How many pairs of units to connect, where edges connect pairs.

        Returns:
            How many connections were created.
        """
        self._remove_empty()
        pool = self._pool()
        if not pool:
            return 0
        scores = self._scores(pool, step)
        if self._policy.edge_granularity == "weight":
            return self._connect_pairs(pool, scores, budget)
        if len(self.edges) >= self._policy.skips:
            return 0
        standing = {edge.name for edge in self.edges}
        fresh = [candidate for candidate in pool if candidate.name not in standing]
        if not fresh:
            return 0
        best = max(fresh, key=lambda candidate: self._rank(candidate, scores, None))
        return self._connect_whole(best)

    def finish(self) -> dict[str, float]:
        """Remove empty edges for good and say what was done."""
        self._remove_empty()
        distances = [float(edge.distance) for edge in self.edges]
        return {
            "edges": float(len(self.edges)),
            "edges_added": float(self._added),
            "edges_removed": float(self._removed),
            "edges_refused": float(len(self._refused)),
            "edge_distance": max(distances, default=0.0),
        }

    def structure(self) -> list[dict[str, Any]]:
        """The edges that stand, in the order in which they were added."""
        return [asdict(edge) for edge in self.edges]

    def rebuild(self, structure: object) -> None:
        """Add the same edges to a network that has none yet; weights and masks are loaded afterwards."""
        for row in structure if isinstance(structure, list) else []:
            wanted = Edge(**row)
            found = [c for c in self._candidates() if (c.source, c.target) == (wanted.source, wanted.target)]
            self._add(found[0], identity=wanted.identity)

    # -- choosing ---------------------------------------------------------------------------------------------------

    def _candidates(self) -> list[Candidate]:
        if self._site.graph is None:
            return []
        graph = Graph(self._site.graph, tuple(x.to(self._site.device) for x in self._site.example_inputs))
        found = candidates(graph, self._site.graph, self._policy.radius)
        if (barred := self._site.barred) is not None:
            nodes = {node.name: node for node in self._site.graph.graph.nodes}
            inside = {c.name for c in found if barred(nodes[c.source_node], nodes[c.target_node])}
            standing = {edge.name for edge in self.edges}
            self._refused |= inside - standing
        return [candidate for candidate in found if candidate.name not in self._refused]

    def _pool(self) -> list[Candidate]:
        """Pairs that may be joined now: any while there is room for an edge, else those that are joined already."""
        found = self._candidates()
        if len(self.edges) < self._policy.skips:
            return found
        standing = {edge.name for edge in self.edges}
        return [candidate for candidate in found if candidate.name in standing]

    def _scores(self, pool: Sequence[Candidate], step: int) -> dict[str, tuple[Tensor, float]]:
        """Per candidate the worth of each pair of units, and its own rank where the criterion ranks pairs of layers."""
        site = self._site
        if self._criterion == "random":
            return {c.name: (torch.rand(c.channels[::-1], generator=site.generator), 0.0) for c in pool}
        if site.graph is None or site.task is None:
            return {}
        count = 2 * WINDOW if self._criterion == "momentum" else WINDOW
        pairs: dict[str, PairGradient | PairCorrelation] = {
            c.name: PairCorrelation(c) if self._criterion == "correlation" else PairGradient(c) for c in pool
        }
        alignments = {c.name: Alignment(c) for c in pool} if self._criterion == "divergence" else {}
        gradients = self._criterion != "correlation"
        for values, slopes in taps(
            site.graph, site.task, site.batches(count, step), pool, site.device, gradients=gradients
        ):
            for watch in (*pairs.values(), *alignments.values()):
                watch.add(values, slopes)
        ranks = dict.fromkeys(pairs, 0.0)
        if alignments:
            found = divergence([(c.distance, alignments[c.name].value()) for c in pool])
            ranks = {c.name: rank for c, rank in zip(pool, found, strict=True)}
        return {name: (watch.scores().cpu(), ranks[name]) for name, watch in pairs.items()}

    def _rank(
        self, candidate: Candidate, scores: Mapping[str, tuple[Tensor, float]], best: int | None
    ) -> tuple[float, float]:
        """How much a whole edge is worth: its own rank first, then the mean of its (best) pairs."""
        pairs, rank = scores[candidate.name]
        if best is not None:
            return rank, float(pairs.flatten().topk(min(best, pairs.numel())).values.mean())
        square = candidate.channels[0] == candidate.channels[1] and self._policy.edge_granularity == "channel"
        return rank, float(pairs.diagonal().mean() if square else pairs.mean())

    # -- joining ----------------------------------------------------------------------------------------------------

    def _connect_pairs(self, pool: Sequence[Candidate], scores: Mapping[str, tuple[Tensor, float]], budget: int) -> int:
        """Connect the best absent pairs over the standing edges and at most one new one."""
        if budget <= 0:
            return 0
        standing = {edge.name for edge in self.edges}
        fresh = [candidate for candidate in pool if candidate.name not in standing]
        if fresh and len(self.edges) < self._policy.skips:
            self._add(max(fresh, key=lambda candidate: self._rank(candidate, scores, budget)), identity=False)
        connectivity = self._site.connectivity
        wanted = {
            edge.weight: scores[edge.name][0].reshape(connectivity.weights[edge.weight].shape)
            for edge in self.edges
            if edge.name in scores
        }
        among = {name: connectivity.revivable(name).cpu() for name in wanted}
        if not wanted:
            return 0
        chosen = highest_overall(wanted, budget, among)
        return sum(
            connectivity.create(name, where.to(connectivity.weights[name].device), "reconnection", self._criterion)
            for name, where in chosen.items()
        )

    def _connect_whole(self, candidate: Candidate) -> int:
        same = candidate.channels[0] == candidate.channels[1]
        edge = self._add(candidate, identity=same and self._policy.edge_granularity == "channel")
        if edge is None:
            return 0
        weight = self._site.connectivity.weights[edge.weight]
        return self._site.connectivity.create(edge.weight, whole(edge, weight), "reconnection", self._criterion)

    def _add(self, candidate: Candidate, *, identity: bool) -> Edge | None:
        """Put the edge into the graph; None where a masked channel could then not be removed any more."""
        site = self._site
        if candidate.distance > self._policy.radius or site.graph is None:
            raise NetworkError(f"an edge may span {self._policy.radius} layers, but {candidate.name} spans more")
        edge = insert(site.graph, candidate, identity=identity, depthwise=not self._masks_channels)
        if not site.rewired():
            remove(site.graph, edge)
            site.rewired()
            self._refused.add(candidate.name)
            return None
        site.connectivity.adopt(edge.weight, whole(edge, site.network.get_parameter(edge.weight)))
        site.recouple()
        self.edges.append(edge)
        self._added += 1
        return edge

    def _remove_empty(self) -> None:
        connectivity = self._site.connectivity
        for edge in [edge for edge in self.edges if connectivity.active[edge.weight] == 0]:
            connectivity.retire(edge.weight, "reconnection", "empty")
            if self._site.graph is not None:
                remove(self._site.graph, edge)
            self._site.rewired()
            self.edges.remove(edge)
            self._removed += 1
