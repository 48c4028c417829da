"""Where the layers of a traced network are: their order, the shapes between them, and how far apart they stand."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from objectives.maskable import maskable
from objectives.mode import evaluating
from spaces.errors import NetworkError


@dataclass(frozen=True)
class Call:
    """One call of one module.

    Args:
        node: Name of the fx node, unique.
        module: Qualified name of the module; one that is used twice has two calls.
        shape: Of its output on the example inputs, dimension 0 the batch; of the first tensor where it gives several;
            () where it gives none.
        sources: Nodes of the calls whose outputs it works on, with nothing but functions between.
        maskable: Whether it holds weights whose entries are connections: what counts as a layer in a distance.
    """

    node: str
    module: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    maskable: bool


class Graph:
    """What surgery must know of a traced network.

    Args:
        traced: From `search.surgery.graph.trace`; made again when the graph is rewritten.
        example_inputs: ``traced(*example_inputs)`` runs.

    Attributes:
        calls: Every call of a module by node name, in the order in which they run.
        shapes: Shape of every tensor in the graph by node name; of the first where a node gives several.
        several: Nodes that give several tensors.
    """

    calls: Mapping[str, Call]
    shapes: Mapping[str, tuple[int, ...]]
    several: frozenset[str]

    def __init__(self, traced: fx.GraphModule, example_inputs: tuple[Tensor, ...]) -> None:
        recorder = _Shapes(traced)
        with evaluating(traced), torch.random.fork_rng(devices=[]):
            recorder.run(*(x.clone() for x in example_inputs))
        self.shapes, self.several = recorder.shapes, frozenset(recorder.several)
        self._nodes: dict[str, fx.Node] = {node.name: node for node in traced.graph.nodes}
        holders = {name.rpartition(".")[0] for name in maskable(traced)}
        self.calls = {
            node.name: Call(
                node=node.name,
                module=str(node.target),
                shape=self.shapes.get(node.name, ()),
                sources=tuple(_sources(node)),
                # A transformer layer of torch.nn is one module that holds several maskable ones.
                maskable=any(each == node.target or each.startswith(f"{node.target}.") for each in holders),
            )
            for node in traced.graph.nodes
            if node.op == "call_module"
        }
        self._reached: dict[str, dict[str, int]] = {}

    def calls_of(self, module: str) -> list[Call]:
        """The calls of a module, in the order in which they run.

        Raises:
            NetworkError: If the graph calls no module of that name.
        """
        found = [call for call in self.calls.values() if call.module == module]
        if not found:
            raise NetworkError(
                f"the graph calls no module {module!r}: use one of {', '.join(list(self.layers)[:5])} ..."
            )
        return found

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the maskable modules, in the order in which they first run."""
        return tuple(dict.fromkeys(call.module for call in self.calls.values() if call.maskable))

    def distance(self, start: str, end: str) -> int | None:
        """How many maskable layers stand on the shortest path from one module's output to another's, `end` included.

        Neighbours are 1 apart, a module is 0 from itself, and what stands behind `start` is None away.

        Raises:
            NetworkError: If the graph calls no module of that name.
        """
        ends = [call.node for call in self.calls_of(end)]
        if start == end:
            return 0
        found = [d for call in self.calls_of(start) for e in ends if (d := self._from(call.node).get(e)) is not None]
        return min(found, default=None)

    def within(self, start: str, radius: int) -> dict[str, int]:
        """The maskable layers at most `radius` further on than `start`, with their distances, nearest first."""
        found = {end: self.distance(start, end) for end in self.layers if end != start}
        near = {end: d for end, d in found.items() if d is not None and d <= radius}
        return dict(sorted(near.items(), key=lambda item: item[1]))

    def _from(self, start: str) -> dict[str, int]:
        """Distances of all nodes from one: breadth-first where only layers cost a step."""
        if start not in self._reached:
            distance, waiting = {start: 0}, deque([self._nodes[start]])
            while waiting:
                node = waiting.popleft()
                for user in node.users:
                    call = self.calls.get(user.name)
                    step = 1 if call is not None and call.maskable else 0
                    if distance[node.name] + step < distance.get(user.name, len(self._nodes)):
                        distance[user.name] = distance[node.name] + step
                        (waiting.append if step else waiting.appendleft)(user)
            self._reached[start] = distance
        return self._reached[start]


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of everything that comes by."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.several: set[str] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        first = result
        if isinstance(result, tuple | list):
            self.several.add(n.name)
        while isinstance(first, tuple | list) and first:
            first = first[0]
        if isinstance(first, Tensor):
            self.shapes[n.name] = tuple(first.shape)
        return result


def _sources(node: fx.Node) -> list[str]:
    found: dict[str, None] = {}
    seen, waiting = {node}, deque(node.all_input_nodes)
    while waiting:
        source = waiting.popleft()
        if source in seen:
            continue
        seen.add(source)
        if source.op == "call_module":
            found[source.name] = None
        else:
            waiting.extend(source.all_input_nodes)
    return list(found)
