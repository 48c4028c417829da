"""Every network of the zoo at every granularity, end to end; what is refused is named here and says why in one line."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from objectives.maskable import maskable
from search.export import read_network, save_network
from search.finetune import DivergedError, Finetuning
from search.installation import ROOT
from search.recipe import Recipe
from search.surgery import channels
from search.surgery.connectivity import Connectivity
from search.surgery.mechanisms import mechanisms_for
from search.surgery.network import prepared
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.profile import CompressionProfile
from tests.search import zoo
from tests.search.zoo_outcomes import OPERATIONS, STEPS, Outcome, covered, outcome, site_of, subject
from tests.search.zoo_page import few_words, networks_page

_ABSENT = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None,
    reason="the package transformers is not installed: install the extra, pip install -e '.[transformers]'",
)
every_network = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=_ABSENT if name in zoo.PRETRAINED else ()) for name in zoo.ALL]
)

RECURRENT = {"lstm", "gru", "elman", "unrolled_cell"}
NO_CHANNELS = RECURRENT | {"torch_transformer", "two_inputs", "shared_layer", "single_layer"}
#: What cannot be done to which network. Everything else must work.
REFUSED = {
    "weights": set[str](),
    "2:4": {"dense", "gru", "elman", "two_inputs"},
    "channels": NO_CHANNELS,
    "regrown weights": set[str](),
    "regrown channels": NO_CHANNELS,
    "edges": RECURRENT | {"two_inputs", "shared_layer", *zoo.STRANGERS},
}


@pytest.mark.parametrize("operation", OPERATIONS)
@every_network
def test_it_is_done_end_to_end_or_refused_in_one_line(name: str, operation: str) -> None:
    found = outcome(name, operation)
    assert found.faults(operation) == []
    assert bool(found.refusal) == (name in REFUSED[operation]), found.refusal
    if found.refusal:
        assert "\n" not in found.refusal
        rule, _, remedy = found.refusal.rpartition(": ")
        assert rule
        assert remedy
        assert few_words(found.refusal) in rule


def test_the_page_of_networks_says_what_the_runs_came_to() -> None:
    written = (ROOT / "docs" / "networks.md").read_text(encoding="utf-8")
    assert written == networks_page(), "run python -m tests.pages networks"


@pytest.mark.parametrize(
    "wrong",
    [
        Outcome(),
        Outcome(pruned=1, booked=(3, 2), closed=1, parameters=(2, 1), created=1, edges=1),
        Outcome(pruned=1, booked=(3, 3), closed=1, parameters=(2, 1), created=1, edges=1, difference=0.1),
        Outcome(pruned=1, booked=(3, 3), closed=1, parameters=(2, 1), created=1, edges=1, restored=0.1),
        Outcome(pruned=1, booked=(3, 3), closed=1, parameters=(2, 2), created=0, edges=0),
    ],
)
def test_the_checks_can_fail(wrong: Outcome) -> None:
    assert any(wrong.faults(operation) for operation in ("channels", "edges"))
    assert wrong.faults("regrown channels")


@every_network
def test_it_is_traced_or_the_place_is_named_and_what_works_without(name: str) -> None:
    why = subject(name).untraceable
    assert bool(why) == (name in zoo.STRANGERS)
    if name == "data_dependent":
        assert "x.mean() > -1e9" in why
        assert "radius 0 and single weights or N:M, which still work" in why


def test_the_zoo_is_wide() -> None:
    assert len(zoo.ALL) >= 25


# -- heads, groups and tied weights, by hand ---------------------------------------------------------------------------


def without(name: str, root: str, indices: list[int]) -> nn.Module:
    """A network without some channels of the group with this root; it computes what masking them computes."""
    known = subject(name)
    (group,) = (group for group in known.groups if group.root == root)
    leaving = [channel for channel in group.channels if channel.index in indices]
    assert len(leaving) == len(indices)
    masked, removed = copy.deepcopy(known.network).eval(), copy.deepcopy(known.network).eval()
    Connectivity(masked).close(leaving, "test", "test")
    channels.remove(removed, leaving, known.inputs)
    with torch.no_grad():
        torch.testing.assert_close(removed(*known.inputs), masked(*known.inputs), rtol=1e-4, atol=1e-5)
    return removed


@_ABSENT
def test_queries_that_share_keys_and_values_go_with_them() -> None:
    """Llama with 4 heads of queries, 2 of keys and values, 4 wide each: half of the attention goes."""
    attention: Any = without("hf_llama", "model.model.layers.0.self_attn.q_proj.weight", [0]).get_submodule(
        "model.model.layers.0.self_attn"
    )
    shapes = {name: tuple(getattr(attention, name).weight.shape) for name in ("q_proj", "k_proj", "v_proj", "o_proj")}
    assert shapes == {"q_proj": (8, 16), "k_proj": (4, 16), "v_proj": (4, 16), "o_proj": (16, 8)}


def test_a_head_of_a_fused_projection_goes() -> None:
    """Two heads of 8, queries, keys and values in one layer of 48."""
    attention: Any = without("vit_fused", "blocks.1.attention.qkv.weight", [8]).get_submodule("blocks.1.attention")
    assert (attention.qkv.out_features, tuple(attention.qkv.weight.shape)) == (24, (24, 16))
    assert (attention.proj.in_features, tuple(attention.proj.weight.shape)) == (8, (16, 8))


def test_a_channel_of_a_concatenation_goes_from_all_that_read_it() -> None:
    removed: Any = without("dense", "0.0.weight", [1, 4])
    assert removed.get_submodule("0.0").out_channels == 4
    assert [removed.get_submodule(f"1.layers.{i}.0").in_channels for i in range(3)] == [4, 8, 12]
    assert removed.get_submodule("3.linear").in_features == 16


@pytest.mark.parametrize("name", ["tied_weights", pytest.param("hf_bart", marks=_ABSENT)])
def test_a_weight_tied_to_an_embedding_is_left_as_it_is(name: str) -> None:
    network, _ = zoo.bred(name)
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    heads = [
        key for key, value in network.named_parameters(remove_duplicate=False) if "head" in key and "weight" in key
    ]
    assert any(id(network.get_parameter(head)) in embeddings for head in heads)
    assert not {id(weight) for weight in maskable(subject(name).network).values()} & embeddings


class Scaled(nn.Linear):
    """A layer of torch.nn with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Odd(nn.Linear):
    """The same, with a parameter that torch's own has not."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.scale = nn.Parameter(torch.ones(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.scale


def test_a_layer_with_a_forward_of_its_own_keeps_its_connections() -> None:
    network = nn.Sequential(Scaled(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    traced, why = prepared(network, (torch.randn(2, 6),))
    assert why == ""
    assert list(maskable(traced)) == ["0.weight", "2.weight", "4.weight"]
    assert [group.root for group in channels.groups(traced, (torch.randn(2, 6),))] == ["2.weight"]


def test_a_layer_that_no_graph_can_hold_is_named() -> None:
    network = nn.Sequential(Odd(6, 8), nn.ReLU(), nn.Linear(8, 2))
    same, why = prepared(network, (torch.randn(2, 6),))
    assert same is network
    assert why.startswith("the layer 0 (Odd) must compute as its class in torch.nn does")
    assert covered("plain") == (2, 3)


class Holder(nn.Module):
    """A weight of its own, used without a layer."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def test_a_weight_whose_first_name_is_no_layer_comes_back_from_its_files(tmp_path: Path) -> None:
    """The reader makes layers before everything else, so that another name comes first there."""
    linear = nn.Linear(6, 6)
    network = nn.Sequential(Holder(linear.weight), nn.ReLU(), linear).eval()
    inputs = (torch.randn(2, 6),)
    save_network(tmp_path, network, inputs)
    again = read_network(tmp_path)
    assert torch.equal(again(*inputs), network(*inputs))
    assert again.get_parameter("0.weight") is again.get_parameter("2.weight")


@pytest.mark.parametrize("reconnected", ["weight", "channel"])
@pytest.mark.parametrize("granularity", ["weight", "nm", "channel"])
def test_a_training_that_diverges_says_so(granularity: str, reconnected: str) -> None:
    """Scores are no numbers then; nothing that ranks them may fail first."""
    profile = CompressionProfile.of(
        PruningPolicy(granularity=granularity, criterion="gradient", interval=0.1),
        ReconnectionPolicy(granularity=reconnected, interval=0.1, radius=1),
    )
    site = site_of(subject("resnet_option_a"), profile)
    mechanisms = mechanisms_for(profile)
    for mechanism in mechanisms:
        mechanism.attach(site)
    assert site.task is not None
    with pytest.raises(DivergedError, match="lower the learning rate"):
        Finetuning(site, mechanisms, site.task, Recipe(), start=1e6, seed=0).train(until=STEPS, iteration=0)
