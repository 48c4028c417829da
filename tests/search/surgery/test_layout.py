"""Where layers are: shapes, sources and distances, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from search.surgery.graph import trace
from search.surgery.layout import Graph
from spaces.errors import NetworkError
from tests.search.zoo import ZOO, bred


class Net(nn.Module):
    """a -> b -> c with a skip over b, then d twice and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 1)
        self.norm, self.d = nn.BatchNorm2d(4), nn.Conv2d(6, 6, 1)
        self.aside, self.head = nn.Linear(2, 2), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.norm(self.a(x)))
        c = self.c(a + self.b(a))
        logits: Tensor = self.head(self.d(self.d(c)).mean((2, 3)))
        return logits + torch.tanh(self.aside(logits))


@pytest.fixture
def graph() -> Graph:
    inputs = (torch.randn(2, 3, 5, 5),)
    return Graph(trace(Net().eval(), inputs), inputs)


def test_calls_come_in_the_order_in_which_they_run(graph: Graph) -> None:
    assert [call.module for call in graph.calls.values()] == ["a", "norm", "b", "c", "d", "d", "head", "aside"]
    assert graph.layers == ("a", "b", "c", "d", "head", "aside")


def test_shapes_are_those_of_the_outputs(graph: Graph) -> None:
    shapes = {call.module: call.shape for call in graph.calls.values()}
    assert shapes["a"] == shapes["norm"] == shapes["b"] == (2, 4, 5, 5)
    assert shapes["c"] == shapes["d"] == (2, 6, 5, 5)
    assert shapes["head"] == shapes["aside"] == (2, 2)


def test_sources_are_the_calls_right_before(graph: Graph) -> None:
    (c,) = graph.calls_of("c")
    assert {graph.calls[name].module for name in c.sources} == {"norm", "b"}
    assert graph.calls_of("a")[0].sources == ()
    first, second = graph.calls_of("d")
    assert second.sources == (first.node,)


@pytest.mark.parametrize(
    ("start", "end", "distance"),
    [
        *(("a", "a", 0), ("a", "norm", 0), ("a", "b", 1), ("a", "c", 1), ("b", "c", 1), ("a", "d", 2)),
        *(("a", "head", 4), ("d", "head", 1), ("norm", "aside", 5), ("b", "a", None), ("head", "d", None)),
    ],
)
def test_a_distance_counts_the_layers_on_the_shortest_path(
    graph: Graph, start: str, end: str, distance: int | None
) -> None:
    assert graph.distance(start, end) == distance


def test_the_neighbourhood_of_a_layer_is_what_a_radius_reaches(graph: Graph) -> None:
    assert graph.within("a", 2) == {"b": 1, "c": 1, "d": 2}
    assert graph.within("a", 0) == {}


def test_a_module_that_is_not_there_is_named(graph: Graph) -> None:
    with pytest.raises(NetworkError, match="'nowhere'"):
        graph.distance("a", "nowhere")


@pytest.mark.parametrize("name", ["resnet_option_a", "vit_multihead", "torch_encoder", "lstm"])
def test_distances_obey_the_triangle(name: str) -> None:
    network, inputs = bred(name)
    graph = Graph(trace(network, inputs), inputs)
    between = {(a, b): graph.distance(a, b) for a in graph.layers for b in graph.layers}
    for (a, b), direct in between.items():
        for c in graph.layers:
            first, second = between[a, c], between[c, b]
            if first is not None and second is not None:
                assert direct is not None
                assert direct <= first + second


@pytest.mark.parametrize("name", ZOO)
def test_looking_at_a_network_changes_nothing(name: str) -> None:
    network, inputs = bred(name)
    traced = trace(network, inputs).train()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    graph = Graph(traced, inputs)
    assert graph.layers
    assert traced.training
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
