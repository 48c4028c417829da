"""FLOP formulas for the operations that PyTorch's own counter takes for free, two per multiply-accumulate.

An operation that multiplies but can not be counted is refused: a cost that is silently too low would be believed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from spaces.errors import NetworkError

Shape = Sequence[int]
aten = torch.ops.aten


def _attention(query: Shape, key: Shape, value: Shape, *_: object, **__: object) -> int:
    """Operands (batch, heads, length, width): queries times keys, then the weights times the values."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _recurrent(inputs: Shape, weight_ih: Shape, weight_hh: Shape, *_: object, **__: object) -> int:
    """One direction of one layer; inputs are (time, batch, features), and both weights act at every step."""
    return 2 * inputs[0] * inputs[1] * (math.prod(weight_ih) + math.prod(weight_hh))


def _vector(matrix: Shape, *_: object, **__: object) -> int:
    return 2 * math.prod(matrix)


def _added_vector(added: Shape, matrix: Shape, *_: object, **__: object) -> int:
    return 2 * math.prod(matrix)


def _added_products(added: Shape, left: Shape, right: Shape, *_: object, **__: object) -> int:
    return 2 * math.prod(left) * right[-1]


def _bilinear(
    left: Shape,
    weight: Shape,
    right: Shape,
    expand_left: Shape,
    expand_weight: Shape,
    expand_right: Shape,
    *_: object,
    **__: object,
) -> int:
    """Operands broadcast against each other once each has dimensions of size 1 put in at its `expand` places."""
    full = [list(left), list(weight), list(right)]
    for sizes, places in zip(full, (expand_left, expand_weight, expand_right), strict=True):
        for place in sorted(places):
            sizes.insert(place, 1)
    left_size, weight_size, right_size = full
    return 2 * math.prod(map(max, left_size, weight_size, right_size))


def _refuse(operation: str) -> Callable[..., int]:
    def refuse(*_: object, **__: object) -> int:
        raise NetworkError(
            f"the work of {operation} cannot be counted: count the network on the CPU, in floating point"
        )

    return refuse


_REFUSED = (aten._cudnn_rnn, aten.miopen_rnn, aten._native_multi_head_attention, aten._transformer_encoder_layer_fwd)

#: By operation, for `torch.utils.flop_counter.FlopCounterMode(custom_mapping=...)`, which passes shapes for tensors.
FORMULAS: Mapping[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten.mkldnn_rnn_layer: _recurrent,
    aten.mv: _vector,
    aten.dot: _vector,
    aten.addmv: _added_vector,
    aten.addbmm: _added_products,
    aten._trilinear: _bilinear,
    **{operation: _refuse(str(operation)) for operation in _REFUSED},
}
