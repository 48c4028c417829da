"""Masks put to numbers: what a plain product gives, however the numbers lie in memory."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from search.surgery.masking import PART, in_memory_order, keep

LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "with gaps": lambda t: t.repeat_interleave(2, 3)[..., ::2],
}


def random(shape: tuple[int, ...]) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("values", LAYOUTS)
@pytest.mark.parametrize("mask", LAYOUTS)
@pytest.mark.parametrize("shape", [(6, 5, 3, 3), (1, 4, 1, 1), (PART // 9 + 1, 3, 3, 3)])
def test_it_is_the_product(values: Any, mask: Any, shape: Any) -> None:
    numbers = random(shape)
    kept = numbers > 0.3
    found = LAYOUTS[values](numbers.clone())
    keep(found, LAYOUTS[mask](kept))
    assert torch.equal(found, numbers * kept)


def test_what_is_no_number_stays_none() -> None:
    values = torch.tensor([math.nan, 1.0, 2.0])
    keep(values, torch.tensor([False, True, False]))
    assert values[0].isnan()
    assert values[1:].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_order_of_memory_needs_no_copy(layout: Any) -> None:
    values = LAYOUTS[layout](random((6, 5, 3, 3)))
    flat = in_memory_order(values)
    assert (flat is None) == (layout == "with gaps")
    assert flat is None or flat.data_ptr() == values.data_ptr()
