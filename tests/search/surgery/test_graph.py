"""Tracing keeps what a network computes, in both modes, and says where it cannot."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from search.surgery.graph import class_of, trace
from search.surgery.modes import ByMode
from spaces.errors import NetworkError, TraceError
from tests.search.zoo import ZOO, bred
from tests.search.zoo_sequences import DropPath, FusedAttention


def in_mode(network: nn.Module, inputs: tuple[Tensor, ...], training: bool) -> Tensor:
    """What a copy of a network returns in a mode, random numbers from a fixed seed."""
    network = copy.deepcopy(network).train(training)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(3)
        output: Tensor = network(*inputs)
    return output


@pytest.mark.parametrize("name", ZOO)
def test_a_traced_network_computes_the_same_in_both_modes(name: str) -> None:
    network, inputs = bred(name)
    traced = trace(network, inputs)
    for training in (False, True):
        assert torch.equal(in_mode(traced, inputs, training), in_mode(network, inputs, training))


@pytest.mark.parametrize("name", ZOO)
def test_a_traced_network_shares_the_state_under_the_same_keys(name: str) -> None:
    network, inputs = bred(name)
    traced = trace(network, inputs)
    ours, theirs = traced.state_dict(keep_vars=True), network.state_dict(keep_vars=True)
    assert list(ours) == list(theirs)
    assert all(ours[key] is theirs[key] for key in theirs)


@pytest.mark.parametrize("name", ["convnext", "vit_fused", "tied_weights", "functional_dropout"])
def test_a_trace_leaves_the_network_as_it_was_and_comes_out_the_same_again(name: str) -> None:
    network, inputs = bred(name)
    next(iter(network.modules())).train()
    modes = {key: module.training for key, module in network.named_modules()}
    state = {key: value.clone() for key, value in network.state_dict().items()}
    attributes, random = set(network.__dict__), torch.get_rng_state()
    first, second = trace(network, inputs), trace(network, inputs)
    assert [n.format_node() for n in first.graph.nodes] == [n.format_node() for n in second.graph.nodes]
    assert {key: module.training for key, module in network.named_modules()} == modes
    assert all(torch.equal(state[key], value) for key, value in network.state_dict().items())
    assert set(network.__dict__) == attributes
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("name", [name for name in ZOO if name != "two_inputs"])
def test_a_traced_network_takes_batches_of_other_sizes(name: str) -> None:
    network, inputs = bred(name)
    larger = tuple(torch.cat([x, x, x[:1]]) for x in inputs)
    assert torch.equal(in_mode(trace(network, inputs), larger, False), in_mode(network, larger, False))


def test_a_copy_of_a_traced_network_has_the_same_state() -> None:
    network, inputs = bred("tied_weights")
    twin = copy.deepcopy(trace(network, inputs))
    assert list(twin.state_dict()) == list(network.state_dict())
    assert torch.equal(in_mode(twin, inputs, False), in_mode(network, inputs, False))


def test_dropout_as_a_function_becomes_a_module() -> None:
    network, inputs = bred("functional_dropout")
    dropouts = [m for m in trace(network, inputs).modules() if isinstance(m, nn.Dropout | nn.Dropout2d)]
    assert [(type(m), m.p) for m in dropouts] == [(nn.Dropout2d, 0.3), (nn.Dropout, 0.5)]


def test_a_constant_that_depends_on_the_mode_follows_the_mode() -> None:
    network, inputs = bred("vit_fused")
    traced = trace(network, inputs)
    constants = [m for m in traced.modules() if isinstance(m, ByMode)]
    assert [m.eval()() for m in constants] == [0.0, 0.0]
    assert [m.train()() for m in constants] == [0.1, 0.1]


def test_drop_path_stays_a_module_that_drops_in_training_only() -> None:
    network, inputs = bred("convnext")
    traced = trace(network, inputs)
    assert sum(isinstance(m, DropPath) for m in traced.modules()) == 2
    dense, dropped = in_mode(traced, inputs, False), in_mode(traced, inputs, True)
    assert not torch.equal(dense, dropped)


def test_a_norm_that_is_frozen_stays_frozen() -> None:
    network, inputs = bred("plain")
    network.train()
    frozen = network.get_submodule("0.1").eval()
    traced = trace(network, inputs)
    assert traced.training
    assert traced.get_submodule("0.1") is frozen
    assert not frozen.training


def test_gradients_reach_every_weight_that_they_reach_in_the_network() -> None:
    network, inputs = bred("shared_layer")
    trace(network, inputs).train()(*inputs).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in network.parameters())


def test_inputs_keep_their_names_and_the_ones_left_out_their_defaults() -> None:
    network, (numbers, category) = bred("two_inputs")
    traced = trace(network, (numbers, category))
    assert torch.equal(traced(category=category, numbers=numbers), network(numbers, category))
    weighted = trace(network, (numbers, category, torch.full((3, 1), 2.0)))
    assert torch.equal(weighted(numbers, category, torch.full((3, 1), 2.0)), 2 * network(numbers, category))


def test_own_modules_can_be_kept_whole() -> None:
    network, inputs = bred("vit_fused")
    traced = trace(network, inputs, leaves=(FusedAttention,))
    assert isinstance(traced.get_submodule("blocks.1.attention"), FusedAttention)
    assert list(traced.state_dict()) == list(network.state_dict())


def test_a_traced_network_remembers_its_class_and_can_be_traced_again() -> None:
    network, inputs = bred("vit_fused")
    again = trace(trace(network, inputs), inputs)
    assert class_of(again) == "tests.search.zoo_sequences:VisionTransformer"
    assert torch.equal(in_mode(again, inputs, True), in_mode(network, inputs, True))


class Module(nn.Module):
    """A layer and whatever a test does with it."""

    offset: Tensor

    def __init__(self, compute: Callable[[Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer: Callable[[Tensor], Tensor] = nn.Linear(4, 4)
        self.register_buffer("offset", torch.zeros(4))
        self.scale: Tensor = torch.full((4,), 2.0)
        self._compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self._compute(self, x)


def traced_as(compute: Callable[[Module, Tensor], Tensor]) -> tuple[Module, fx.GraphModule]:
    network = Module(compute)
    return network, trace(network, (torch.randn(2, 4),))


def test_a_buffer_is_read_when_the_network_runs() -> None:
    network, traced = traced_as(lambda m, x: m.layer(x) + m.offset)
    before = traced(torch.ones(2, 4))
    network.get_buffer("offset").fill_(1.0)
    assert torch.allclose(traced(torch.ones(2, 4)), before + 1)


def test_a_tensor_that_is_no_state_stays_none() -> None:
    network, traced = traced_as(lambda m, x: m.layer(x) * m.scale + torch.arange(4))
    assert list(traced.state_dict()) == list(network.state_dict())
    assert torch.equal(traced(torch.ones(2, 4)), network(torch.ones(2, 4)))


def test_a_tensor_of_a_traced_size_follows_the_size() -> None:
    _, traced = traced_as(lambda m, x: m.layer(x) + torch.zeros(x.shape[0], 4) + torch.arange(x.shape[0])[:, None])
    assert traced(torch.ones(5, 4)).shape == (5, 4)


def test_questions_about_shapes_are_answered_and_leave_nothing_behind() -> None:
    def compute(m: Module, x: Tensor) -> Tensor:
        assert x.dim() == 2
        if x.shape[-1] not in (4, 8) or len(x.shape) != 2:
            raise ValueError(x.shape)
        for _ in range(int(x.size(1) ** 0.5)):
            x = m.layer(x)
        return x

    network, traced = traced_as(compute)
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "call_module", "output"]
    assert torch.equal(traced(torch.ones(3, 4)), network(torch.ones(3, 4)))


def test_writing_into_a_tensor_is_traced() -> None:
    def compute(m: Module, x: Tensor) -> Tensor:
        y = m.layer(x)
        y[:, 0] = 0.0
        return y

    _, traced = traced_as(compute)
    assert bool((traced(torch.ones(2, 4))[:, 0] == 0).all())


def data_dependent(m: Module, x: Tensor) -> Tensor:
    return m.layer(x) if x.sum() > 0 else x


def other_path(m: Module, x: Tensor) -> Tensor:
    return m.layer(x) if m.training else x


def by_batch(m: Module, x: Tensor) -> Tensor:
    return m.layer(x) if x.shape[0] > 2 else x


def noisy(m: Module, x: Tensor) -> Tensor:
    return m.layer(x) + torch.randn(2, 4)


def aliased(m: Module, x: Tensor) -> Tensor:
    y = m.layer(x)
    z = y
    y += 1.0
    return z + y


def hidden(m: Module, x: Tensor) -> Tensor:
    return x @ (m.get_submodule("layer")._parameters["weight"] * 2)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (data_dependent, "values of the data"),
        (other_path, "in training"),
        (by_batch, "number of samples"),
        (noisy, "random"),
        (aliased, "outputs in evaluation mode differ"),
        (hidden, "a weight in a way"),
    ],
)
def test_what_a_graph_cannot_say_is_refused_with_its_reason(
    compute: Callable[[Module, Tensor], Tensor], reason: str
) -> None:
    with pytest.raises(TraceError, match=reason) as caught:
        traced_as(compute)
    assert "radius 0 and single weights or N:M, which still work" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refusal_names_the_module_and_the_line() -> None:
    class Inner(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if x.mean() > 0:
                return x
            return -x

    network = nn.Sequential(nn.Linear(4, 4), nn.ModuleDict({"gate": nn.Sequential(Inner())})["gate"])
    with pytest.raises(TraceError) as caught:
        trace(network, (torch.randn(2, 4),))
    assert "submodule '1.0'" in str(caught.value)
    assert "test_graph.py" in str(caught.value)
    assert "`if x.mean() > 0:`" in str(caught.value)


def test_a_module_that_is_not_registered_is_refused() -> None:
    outside = [nn.Linear(4, 4)]
    with pytest.raises(TraceError, match="not installed as a submodule"):
        traced_as(lambda m, x: outside[0](m.layer(x)))


def test_a_submodule_that_torch_cannot_name_is_refused() -> None:
    network = nn.Sequential()
    network.add_module("graph", nn.Linear(4, 4))
    with pytest.raises(TraceError, match="called 'graph'"):
        trace(network, (torch.randn(2, 4),))


def test_a_network_that_does_not_run_on_its_inputs_says_so() -> None:
    with pytest.raises(
        NetworkError, match="must run on its example inputs in evaluation mode, but raised RuntimeError"
    ):
        trace(nn.Sequential(nn.Linear(5, 4)), (torch.randn(2, 4),))


def test_a_failed_trace_leaves_torch_as_it_was() -> None:
    before = torch.arange, nn.Module.__call__, F.relu
    with pytest.raises(TraceError):
        traced_as(data_dependent)
    assert (torch.arange, nn.Module.__call__, F.relu) == before


def test_asking_for_a_shape_behind_a_norm_leaves_its_statistics() -> None:
    norm = nn.BatchNorm1d(4)
    network = nn.Sequential(norm, Module(lambda m, x: m.layer(x) if x.dim() == 2 else x))
    trace(network, (torch.randn(2, 4),))
    assert torch.equal(norm.get_buffer("running_mean"), torch.zeros(4))
    assert norm.get_buffer("num_batches_tracked") == 0


def test_a_module_made_on_the_spot_is_traced_through() -> None:
    network, traced = traced_as(lambda m, x: nn.ReLU()(m.layer(x)))
    assert torch.equal(traced(-torch.ones(2, 4)), network(-torch.ones(2, 4)))


def test_questions_may_follow_moves_and_conversions() -> None:
    def compute(m: Module, x: Tensor) -> Tensor:
        scale = torch.tensor(x.size(-1) ** 0.5, dtype=x.dtype, device=x.device)
        y = m.layer(x).to(x.device, torch.float64) / scale
        if y.shape[-1] != 4 or y.device.type != "cpu" or y.dtype != torch.float64:
            raise ValueError(y)
        return y

    network, traced = traced_as(compute)
    assert torch.equal(traced(torch.ones(2, 4)), network(torch.ones(2, 4)))
