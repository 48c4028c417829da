"""Widths that a device likes: what stays of a layer is a multiple, and the budget is met to half of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from search.surgery.aligned import Row, leaving, multiple
from search.surgery.channels import groups
from search.surgery.finalize import finalize
from spaces import PruningPolicy, ReconnectionPolicy
from spaces.profile import CompressionProfile, LayerOverride
from tests import contracts
from tests.nets import Blobs, tiny_cnn
from tests.search.surgery.harness import operate


class Wide(Blobs):
    """A stem of 24 planes around a block of 20: above 16, and 20 is no multiple of 8."""

    def network(self) -> nn.Module:
        return tiny_cnn(planes=24, inner=20)


TASK = Wide()
rows = st.lists(
    st.tuples(st.sampled_from([1, 4, 8, 16]), st.integers(2, 70), st.floats(0, 1)).flatmap(
        lambda drawn: st.builds(
            lambda values: Row(drawn[1], drawn[0], sorted(values)),
            st.lists(st.floats(0, 9), min_size=max(1, drawn[1] - round(drawn[2] * drawn[1])), max_size=drawn[1]),
        )
    ),
    min_size=1,
    max_size=6,
).map(lambda drawn: {f"g{place}": row for place, row in enumerate(drawn)})


@settings(max_examples=300, deadline=None)
@given(rows, st.integers(0, 300))
def test_what_stays_is_a_multiple_and_the_sum_is_met_to_half_of_one(groups: dict[str, Row], missing: int) -> None:
    going = leaving(missing, groups)
    able = 0
    for name, row in groups.items():
        open_, stays = len(row.values), len(row.values) - going[name]
        assert 0 <= going[name] < open_ or going[name] == 0
        least = 1 if row.narrow else min(open_, row.multiple)
        able += open_ - least
        assert stays >= least
        if not row.narrow and open_ > row.multiple:
            assert stays == row.size or stays % row.multiple == 0
    must = sum(len(r.values) % r.multiple for r in groups.values() if r.multiple < len(r.values) < r.size)
    wanted = min(max(missing, must), able)
    widest = max(row.multiple for row in groups.values())
    assert abs(sum(going.values()) - wanted) <= widest / 2
    wide = sum(len(r.values) - r.multiple for r in groups.values() if not r.narrow and len(r.values) > r.multiple)
    if missing <= wide:
        assert not any(going[name] for name, row in groups.items() if row.narrow), "narrow groups stay while others can"


def test_blocks_go_by_their_mean_and_singles_last() -> None:
    groups = {"a": Row(12, 4, [0.0] * 4 + [5.0] * 8), "b": Row(8, 4, [1.0] * 8), "c": Row(4, 4, [0.0] * 4)}
    assert leaving(0, groups) == {"a": 0, "b": 0, "c": 0}
    assert leaving(2, groups) == {"a": 0, "b": 0, "c": 0}  # as near as 4, and less
    assert leaving(3, groups) == {"a": 4, "b": 0, "c": 0}
    assert leaving(8, groups) == {"a": 4, "b": 4, "c": 0}
    assert leaving(12, groups) == {"a": 8, "b": 4, "c": 0}
    assert leaving(14, groups) == {"a": 8, "b": 4, "c": 2}
    assert leaving(99, groups) == {"a": 8, "b": 4, "c": 3}
    assert leaving(0, {"a": Row(12, 8, [0.0] * 11)}) == {"a": 3}  # what came back elsewhere goes again


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk"])
@pytest.mark.parametrize("schedule", ["gradual", "oneshot", "iterative"])
@pytest.mark.parametrize("align", [4, 8, 16])
def test_layers_end_at_multiples(allocation: Any, schedule: Any, align: Any) -> None:
    policy = PruningPolicy(granularity="channel", sparsity=0.5, allocation=allocation, schedule=schedule, align=align)
    site, mechanisms = operate(TASK, CompressionProfile.of(policy), 10)
    closed = len(site.connectivity.closed)
    assert abs(closed - 22) <= align / 2 or (align == 16 and closed == 12)  # 16 of 24 and of 20 is all that may go
    network = finalize(site, mechanisms)
    for layer, before in (("0", 24), ("3.conv1", 20)):
        width = network.get_parameter(f"{layer}.weight").shape[0]
        assert width == before or width % align == 0, layer
    assert network(TASK.example_inputs()[0]).shape[-1] == 4


def test_at_every_cut_what_stays_is_a_multiple() -> None:
    widths = set()

    def look(site: Any) -> None:
        for group in site.channel_groups():
            stays = int(site.connectivity.open_channels(group).sum())
            assert stays == group.size or stays % 4 == 0
            widths.add((group.root, stays))

    policy = PruningPolicy(granularity="channel", sparsity=0.7, align=4, interval=0.05)
    operate(TASK, CompressionProfile.of(policy), 20, look)
    assert len(widths) > 6, "the cuts came in several steps"


def test_narrow_layers_stay_whole_while_others_can_give() -> None:
    class Uneven(Blobs):
        def network(self) -> nn.Module:
            return tiny_cnn(planes=8, inner=64)

    for sparsity, stem, inner in ((0.4, 8, 32), (0.9, 7, 16), (0.0, 8, 64)):
        policy = PruningPolicy(granularity="channel", sparsity=sparsity, allocation="uniform", align=16)
        site, mechanisms = operate(Uneven(), CompressionProfile.of(policy), 6)
        network = finalize(site, mechanisms)
        found = network.get_parameter("0.weight").shape[0], network.get_parameter("3.conv1.weight").shape[0]
        if sparsity == 0.9:
            stem = 72 - round(0.9 * 72) - 16 if 72 - round(0.9 * 72) > 16 else 1  # single channels, never the last
        assert found == (stem, inner)


def test_a_layers_own_share_is_met_to_half_a_multiple() -> None:
    profile = CompressionProfile.of(
        PruningPolicy(granularity="channel", sparsity=0.0, allocation="uniform", align=8),
        layers=[LayerOverride("3.conv1*", "pruning", {"sparsity": 0.5})],
    )
    site, mechanisms = operate(TASK, profile, 6)
    network = finalize(site, mechanisms)
    assert network.get_parameter("3.conv1.weight").shape[0] == 8  # 10 would be half of 20
    assert network.get_parameter("0.weight").shape[0] == 24


@pytest.mark.parametrize(
    ("mode", "regrow"), [("gmp_regrow", 0.0), ("gmp_regrow", 0.5), ("gmp_regrow", 1.0), ("rigl", 1.0)]
)
def test_what_is_regrown_keeps_the_multiples(mode: Any, regrow: Any) -> None:
    def look(site: Any) -> None:
        for group in site.channel_groups():
            stays = int(site.connectivity.open_channels(group).sum())
            assert stays == group.size or stays % 4 == 0

    timing = {"interval": 0.1} if mode == "gmp_regrow" else {}
    policy = PruningPolicy.from_values({"granularity": "channel", "sparsity": 0.6, "align": 4} | timing)
    values = {"granularity": "channel", "interval": 0.1, "mode": mode} | ({"regrow": regrow} if regrow < 1 else {})
    profile = CompressionProfile.of(policy, ReconnectionPolicy.from_values(values))
    site, mechanisms = operate(TASK, profile, 20, look)
    assert any(event.reason == "gradient" and event.created for event in site.connectivity.ledger().events)
    assert abs(len(site.connectivity.closed) - round(0.6 * 44)) <= 2
    finalize(site, mechanisms)


def test_a_head_of_attention_is_as_wide_as_it_is() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 40, batch_first=True, dropout=0.0)
    network = nn.Sequential(layer, nn.Linear(32, 4)).eval()
    found = {group.root: group for group in groups(network, (torch.randn(2, 5, 32),))}
    heads = next(group for name, group in found.items() if "self_attn" in name)
    inner = found["0.linear1.weight"]
    assert [multiple(heads, align) for align in (1, 4, 8, 16)] == [1, 1, 1, 2]
    assert [multiple(inner, align) for align in (1, 4, 8, 16)] == [1, 4, 8, 16]


ALIGNED = PruningPolicy(granularity="channel", sparsity=0.6, interval=0.1, align=4)


@pytest.mark.parametrize("with_regrowth", [False, True])
def test_the_laws_of_every_mechanism_hold(with_regrowth: bool, tmp_path: Path) -> None:
    others = [ReconnectionPolicy(granularity="channel", interval=0.1, regrow=0.5)] if with_regrowth else []
    profile = CompressionProfile.of(ALIGNED, *others)
    contracts.attaching_keeps_outputs(TASK, profile)
    contracts.finalized_equals_attached(TASK, profile)
    contracts.interrupted_equals_whole(TASK, profile, tmp_path, at=7)
