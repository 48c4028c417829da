"""New edges: heard by nobody when they come, never farther than the radius, gone without a trace."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from search.surgery.affinity import Alignment, PairCorrelation, PairGradient, divergence, hsic_1, taps
from search.surgery.edges import adapted, candidates, insert, remove
from search.surgery.finalize import finalize
from search.surgery.graph import trace
from search.surgery.layout import Graph
from search.surgery.reconnection import Reconnection
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.errors import NetworkError
from spaces.profile import CompressionProfile
from tests import contracts
from tests.nets import Blobs, mlp, tiny_cnn
from tests.search.surgery.harness import operate

TASK = Blobs()
X = TASK.example_inputs()


class Pyramid(nn.Module):
    """Extents and widths that change: edges must pool and project."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 3, padding=1)
        self.b = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 4, 2, stride=2)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        x = torch.relu(self.a(x))
        x = torch.relu(self.up(torch.relu(self.b(x))))
        return self.head(x.mean((2, 3)))


def traced(network: Any, inputs: Any) -> Any:
    graph_module = trace(network.eval(), inputs)
    return graph_module, Graph(graph_module, inputs)


@pytest.mark.parametrize("network", [tiny_cnn(), Pyramid()], ids=["cnn", "pyramid"])
@pytest.mark.parametrize("radius", [1, 2, 3, 4])
def test_no_candidate_is_farther_than_the_radius_and_none_changes_an_output(network: Any, radius: Any) -> None:
    module, graph = traced(network, X)
    before, code = module(*X), module.code
    found = candidates(graph, module, radius)
    assert found
    edges = []
    for candidate in found:
        assert 1 <= candidate.distance <= radius
        assert candidate.distance == graph.distance(candidate.source, candidate.target)
        edges.append(insert(module, candidate, identity=candidate.channels[0] == candidate.channels[1]))
        assert torch.equal(module(*X), before)
    module(*X).square().sum().backward()
    for edge in edges:
        assert module.get_parameter(edge.weight).grad.abs().sum() > 0, "a new edge must be able to learn"
    for edge in edges:
        remove(module, edge)
    assert torch.equal(module(*X), before)
    assert module.code == code, "what is removed leaves no trace"


def test_extents_are_bridged_by_pooling_and_repeating() -> None:
    module, graph = traced(Pyramid(), X)
    by_ends = {(c.source, c.target): c for c in candidates(graph, module, 4)}
    assert adapted(by_ends["a", "b"], torch.ones(2, 4, 8, 8)).shape == (2, 4, 4, 4)
    assert adapted(by_ends["b", "up"], torch.ones(2, 6, 4, 4)).shape == (2, 6, 8, 8)
    assert adapted(by_ends["a", "head"], torch.ones(2, 4, 8, 8)).shape == (2, 4)


def test_an_edge_computes_the_map_it_says() -> None:
    module, graph = traced(mlp(), (torch.randn(4, 8),))
    candidate = next(c for c in candidates(graph, module, 2) if (c.source, c.target) == ("0", "4"))
    edge = insert(module, candidate, identity=False)
    x = torch.randn(4, 8)
    before = module(x)
    weight = module.get_parameter(edge.weight)
    with torch.no_grad():
        weight[1, 3] = 2.0
    hidden = torch.relu(module.get_submodule("0")(x))
    expected = before.clone()
    expected[:, 1] += 2 * hidden[:, 3]
    assert torch.allclose(module(x), expected, atol=1e-6)


def test_the_same_edge_twice_and_an_edge_that_is_not_there_are_refused() -> None:
    module, graph = traced(tiny_cnn(), X)
    candidate = candidates(graph, module, 1)[0]
    edge = insert(module, candidate, identity=False)
    with pytest.raises(NetworkError, match="stands already"):
        insert(module, candidate, identity=False)
    remove(module, edge)
    with pytest.raises(NetworkError, match="add it first"):
        remove(module, edge)


# -- what a pair is worth --------------------------------------------------------------------------------------------


def look(watch: Any, module: Any, pairs: Any, gradients: Any) -> None:
    batches = TASK.batches("train", shuffle_seed=0)
    for values, slopes in taps(module, TASK, itertools.islice(batches, 3), pairs, "cpu", gradients=gradients):
        watch.add(values, slopes)


def test_pair_gradient_is_the_gradient_that_the_edge_would_have() -> None:
    module, graph = traced(tiny_cnn(), X)
    for candidate in candidates(graph, module, 3):
        watch = PairGradient(candidate)
        look(watch, module, [candidate], gradients=True)
        edge = insert(module, candidate, identity=False)
        module.zero_grad()
        for x, y in itertools.islice(TASK.batches("train", shuffle_seed=0), 3):
            (TASK.loss(module(x), y) / 3).backward()  # type: ignore[no-untyped-call]
        found = module.get_parameter(edge.weight).grad.flatten(1).abs()
        torch.testing.assert_close(watch.scores(), found, rtol=1e-3, atol=1e-6)
        remove(module, edge)


def test_looking_leaves_gradients_and_statistics_as_they_were() -> None:
    module, graph = traced(tiny_cnn(), X)
    module.train()
    module(*X).square().sum().backward()
    before = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    state = {name: value.clone() for name, value in module.state_dict().items()}
    pairs = candidates(graph, module, 2)
    look(PairGradient(pairs[0]), module, pairs, gradients=True)
    assert all(torch.equal(parameter.grad, before[n]) for n, parameter in module.named_parameters())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert module.training


def test_streamed_correlation_is_that_of_all_samples_at_once() -> None:
    module, graph = traced(tiny_cnn(), X)
    candidate = next(c for c in candidates(graph, module, 2) if c.distance == 2)
    watch = PairCorrelation(candidate)
    kept = []

    class Keep:
        def add(self, values: Any, slopes: Any) -> None:
            kept.append((values[candidate.source_node], values[candidate.target_node]))

    for each in (watch, Keep()):
        look(each, module, [candidate], gradients=False)
    x = torch.cat([adapted(candidate, a) for a, _ in kept])
    y = torch.cat([b for _, b in kept])
    x = x.movedim(1, -1).reshape(-1, x.shape[1]) if x.ndim == 4 else x
    y = y.movedim(1, -1).reshape(-1, y.shape[1]) if y.ndim == 4 else y
    both = torch.corrcoef(torch.cat([y, x], 1).double().T)[: y.shape[1], y.shape[1] :]
    torch.testing.assert_close(watch.scores().double(), both.abs(), rtol=1e-4, atol=1e-5)


def test_unbiased_hsic_by_hand_and_zero_on_average_for_noise() -> None:
    # n = 4, all off-diagonal entries 1: trace 12, sums 12 and 12: 12 + 144/6 - 12*... worked out below.
    ones = torch.ones(4, 4, dtype=torch.float64)
    # tr(KL) = 12; 1'K1 1'L1 / ((n-1)(n-2)) = 144/6 = 24; 2/(n-2) 1'KL1 = 1 * (3*3*4) = 36; (12 + 24 - 36)/(4*1) = 0.
    assert hsic_1(ones, ones) == pytest.approx(0.0)
    generator = torch.Generator().manual_seed(0)
    values = []
    for _ in range(300):
        a, b = (torch.randn(12, 5, generator=generator, dtype=torch.float64) for _ in range(2))
        values.append(hsic_1(a @ a.T, b @ b.T))
    mean, spread = sum(values) / 300, torch.tensor(values).std() / math.sqrt(300)
    assert abs(mean) < 4 * spread, "the estimator must be unbiased"


def test_alignment_is_one_for_rotated_features_and_small_for_noise() -> None:
    module, graph = traced(mlp(), (torch.randn(4, 8),))
    candidate = candidates(graph, module, 1)[0]
    same, other = Alignment(candidate), Alignment(candidate)
    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]
    for _ in range(8):
        x = torch.randn(32, 16, generator=generator)
        noise = torch.randn(32, 16, generator=generator)
        same.add({candidate.source_node: x, candidate.target_node: 3 * x @ rotation}, {})
        other.add({candidate.source_node: x, candidate.target_node: noise}, {})
    assert same.value() == pytest.approx(1.0, abs=1e-5)
    assert abs(other.value()) < 0.1


@given(st.lists(st.integers(1, 4), min_size=3, max_size=12), st.floats(-1, 0), st.floats(0, 1))
def test_divergence_sees_no_more_than_what_the_trend_leaves(distances: Any, slope: Any, start: Any) -> None:
    along = [(d, start + slope * d) for d in distances]
    assert all(abs(value) < 1e-5 for value in divergence(along))
    if len(set(distances)) > 1:
        odd = [*along, (distances[0], start + slope * distances[0] - 5.0)]
        residuals = divergence(odd)
        assert max(residuals) == residuals[-1], "the pair that is less alike than its distance explains diverges most"


# -- the policy ------------------------------------------------------------------------------------------------------

CHOICES = [
    (criterion, granularity, edge, pruned)
    for criterion, granularity, edge, pruned in itertools.product(
        ("gradient", "momentum", "correlation", "divergence", "random"),
        ("weight", "channel"),
        ("weight", "channel", "layer"),
        ("weight", "channel"),
    )
    if not (granularity == "channel" and edge == "weight")
]


def profile(criterion: Any, granularity: Any, edge: Any, pruned: Any, **knobs: Any) -> Any:
    values = {
        "criterion": criterion,
        "granularity": granularity,
        "edge_granularity": edge,
        "radius": 2,
        "interval": 0.1,
    }
    return CompressionProfile.of(
        PruningPolicy(sparsity=0.6, granularity=pruned), ReconnectionPolicy.from_values(values | knobs)
    )


@pytest.mark.parametrize("choice", CHOICES, ids="-".join)
def test_laws_hold_with_edges(choice: Any, tmp_path: Any) -> None:
    asked = profile(*choice)
    contracts.attaching_keeps_outputs(TASK, asked)
    contracts.finalized_equals_attached(TASK, asked)
    contracts.interrupted_equals_whole(TASK, asked, tmp_path, at=9)


@settings(max_examples=6, deadline=None)
@given(st.sampled_from(CHOICES), st.integers(1, 4), st.integers(1, 3))
def test_edges_stay_within_radius_and_number(choice: Any, radius: Any, skips: Any) -> None:
    site, mechanisms = operate(TASK, profile(*choice, radius=radius, skips=skips), 16)
    finalize(site, mechanisms)
    receipt = site.receipts["reconnection"]
    assert receipt["edges"] <= skips
    assert receipt["edge_distance"] <= radius
    assert receipt["edges"] == receipt["edges_added"] - receipt["edges_removed"]


def test_identity_edges_never_hold_more_than_one_number_per_channel() -> None:
    for pruned, granularity in itertools.product(("weight", "channel"), ("weight", "channel")):
        asked = profile("divergence", granularity, "channel", pruned, skips=4)
        site, mechanisms = operate(TASK, asked, 16)
        (reconnection,) = [m for m in mechanisms if isinstance(m, Reconnection)]
        assert reconnection._edges is not None
        for edge in reconnection._edges.edges:
            if edge.identity:
                weight = site.connectivity.weights[edge.weight]
                assert site.connectivity.active[edge.weight] <= weight.shape[0]


def test_a_network_that_cannot_be_traced_is_refused_at_radius_1_and_works_at_0() -> Any:
    class Untraceable(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = tiny_cnn()

        def forward(self, x: Any) -> Any:
            return self.inner(x) if x.sum() > -1e9 else x

    class Odd(Blobs):
        def network(self) -> Any:
            return Untraceable().eval()

    operate(Odd(), CompressionProfile.of(PruningPolicy(sparsity=0.6), ReconnectionPolicy(interval=0.1)), 8)
    with pytest.raises(NetworkError, match="radius must be 0 for this network"):
        operate(Odd(), CompressionProfile.of(ReconnectionPolicy(radius=1)), 8)
