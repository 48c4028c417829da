"""Arguments through JSON: what comes back is equal and of the same type."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx

from search.artifact.encoding import decode, encode
from spaces.errors import ExportError

NODE = fx.Graph().placeholder("x")
CONSTANTS = (torch.float32, torch.bfloat16, torch.bool, torch.channels_last, torch.strided, ..., torch.device("cuda:1"))
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63) + 1, 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.sampled_from([*CONSTANTS, NODE]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        | st.builds(slice, inner, inner, inner)
    ),
    max_leaves=12,
)


def typed(value: Any) -> Any:
    """A value with its types spelled out, so that 1, 1.0 and True differ."""
    if isinstance(value, list | tuple):
        return type(value).__name__, [typed(each) for each in value]
    if isinstance(value, dict):
        return "dict", [(key, typed(each)) for key, each in value.items()]
    if isinstance(value, slice):
        return "slice", typed([value.start, value.stop, value.step])
    return type(value).__name__, value


@given(VALUES)
def test_an_argument_comes_back_as_it_was(value: Any) -> None:
    again = decode(json.loads(json.dumps(encode(value))), {"x": NODE})
    assert typed(again) == typed(value)


def test_not_a_number_comes_back() -> None:
    assert math.isnan(decode(json.loads(json.dumps(encode(math.nan))), {}))


@pytest.mark.parametrize("value", [object(), 1j, {1, 2}, b"text", torch.zeros(1), range(3), torch.qint8, int])
def test_what_a_file_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ExportError):
        encode(value)


@pytest.mark.parametrize(
    "value",
    [
        *({}, {"tuple": 1}, {"slice": [1, 2]}, {"dict": [[1, 2]]}, {"dict": [["a"]]}, {"node": 1}, {"node": "y"}),
        *({"float": "1e9"}, {"device": "cpu:x"}, {"device": "disk"}, {"dtype": "float3"}, {"constant": "pi"}),
        *({"tuple": [], "list": []}, 2**63, math.inf, "x" * 5000, {"float": ["inf"]}, {"device": "cuda:\u0661"}),
    ],
)
def test_what_was_never_written_is_not_read(value: object) -> None:
    with pytest.raises(ExportError):
        decode(value, {"x": NODE})
