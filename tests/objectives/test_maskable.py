"""The one list of connections: every kind of weight that counts, once, and nothing else."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from objectives.maskable import maskable


def test_every_kind_of_connection_is_listed_and_nothing_else() -> None:
    network = nn.ModuleDict(
        {
            "c1": nn.Conv1d(1, 1, 1),
            "c2": nn.Conv2d(1, 1, 1),
            "c3": nn.Conv3d(1, 1, 1),
            "t1": nn.ConvTranspose1d(1, 1, 1),
            "t2": nn.ConvTranspose2d(1, 1, 1),
            "t3": nn.ConvTranspose3d(1, 1, 1),
            "lin": nn.Linear(2, 2),
            "lstm": nn.LSTM(2, 2, bidirectional=True),
            "cell": nn.GRUCell(2, 2),
            "attn": nn.MultiheadAttention(4, 2),
            "cross": nn.MultiheadAttention(4, 2, kdim=3, vdim=5),
            "bn": nn.BatchNorm2d(1),
            "ln": nn.LayerNorm(2),
            "emb": nn.Embedding(3, 2),
        }
    )
    assert list(maskable(network)) == [
        *("c1.weight", "c2.weight", "c3.weight", "t1.weight", "t2.weight", "t3.weight", "lin.weight"),
        *("lstm.weight_ih_l0", "lstm.weight_hh_l0", "lstm.weight_ih_l0_reverse", "lstm.weight_hh_l0_reverse"),
        *("cell.weight_ih", "cell.weight_hh"),
        *("attn.in_proj_weight", "attn.out_proj.weight"),
        *("cross.q_proj_weight", "cross.k_proj_weight", "cross.v_proj_weight", "cross.out_proj.weight"),
    ]


def test_names_lead_to_the_parameters_themselves() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.Linear(2, 2)))
    found = maskable(network)
    assert all(found[name] is network.get_parameter(name) for name in found)
    assert found


def test_the_root_itself_may_be_a_layer() -> None:
    assert list(maskable(nn.Linear(2, 3))) == ["weight"]


def test_a_tied_weight_counts_once_and_one_tied_to_an_embedding_not_at_all() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    assert list(maskable(nn.Sequential(first, second))) == ["0.weight"]
    embedding, head = nn.Embedding(5, 3), nn.Linear(3, 5)
    head.weight = embedding.weight
    # Either order: the embedding may come after the layer that shares its weight.
    assert maskable(nn.Sequential(head, embedding)) == {}


def test_a_computed_weight_is_no_parameter_to_mask() -> None:
    network = weight_norm(nn.Linear(2, 2))
    assert maskable(network) == {}
    assert isinstance(network.weight, torch.Tensor)
