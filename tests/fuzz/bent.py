"""Bad input: whole trees and files that were right, changed in a few places as accident or malice would."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

#: Values that have broken readers before.
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 10**9, -(10**18), 2**63, 10**400, 0.0, -0.0, 0.5, 1.5, -1e308, 1e308, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), "", " ", "\n", "a\nb", "\x00", "nan", "inf", "1e999", "0", "true"),
    *("../../etc/passwd", "/dev/zero", "/", "~", "a" * 5000, "\u202e", "ß\U0001f600", "\ud800", "%s%n{0}${x}", "';--"),
    *([], {}, [[]], [None], {"": None}, {"low": 1, "high": 0}, {"low": float("nan"), "high": 1.0}, [1, "a", None]),
    *("file:///etc/passwd", "http://127.0.0.1:1", "os:system", "__import__('os')", "baseline", ">= baseline - 1e999"),
)


def deep(levels: int, value: Any = 0) -> Any:
    """A list in a list in a list ..."""
    for _ in range(levels):
        value = [value]
    return value


def odd_values(*, json_only: bool = False) -> st.SearchStrategy[Any]:
    """Odd ones, deep ones, and whatever else there is."""
    found = [value for value in ODD if not (json_only and isinstance(value, str) and "\ud800" in value)]
    plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    nested = st.recursive(
        plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    )
    return st.sampled_from(found).map(copy.deepcopy) | st.sampled_from([20, 200]).map(deep) | nested


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a tree of mappings and lists, the root left out."""
    found = [path] if path else []
    if isinstance(tree, Mapping):
        for key in tree:
            found += places(tree[key], (*path, key))
    elif isinstance(tree, Sequence) and not isinstance(tree, str | bytes):
        for index in range(min(len(tree), 40)):
            found += places(tree[index], (*path, index))
    return found


@st.composite
def changed(draw: st.DrawFn, trees: Sequence[Any], *, json_only: bool = False) -> Any:
    """One of some trees, with one to three of its places changed."""
    tree = copy.deepcopy(draw(st.sampled_from(list(trees))))
    for _ in range(draw(st.integers(1, 3))):
        known = places(tree)
        if not known:
            return draw(odd_values(json_only=json_only))
        path = draw(st.sampled_from(known))
        holder = tree
        for step in path[:-1]:
            holder = holder[step]
        last, how = path[-1], draw(st.sampled_from(["value", "value", "value", "drop", "name", "swap", "extra"]))
        if how == "value" or not isinstance(holder, dict):
            holder[last] = draw(odd_values(json_only=json_only))
        elif how == "drop":
            del holder[last]
        elif how == "name":
            holder[draw(st.text(max_size=8) | st.sampled_from(["study", "pruning", "schema", "__class__"]))] = (
                holder.pop(last)
            )
        elif how == "swap":
            holder[last] = copy.deepcopy(_at(tree, draw(st.sampled_from(known)), holder[last]))
        else:
            holder[draw(st.text(max_size=8))] = draw(odd_values(json_only=json_only))
    return tree


def _at(tree: Any, path: tuple[Any, ...], otherwise: Any) -> Any:
    for step in path:
        try:
            tree = tree[step]
        except (KeyError, IndexError, TypeError):
            return otherwise
    return tree


@st.composite
def bent(draw: st.DrawFn, files: Sequence[bytes]) -> bytes:
    """The bytes of one of some files, torn, flipped, swapped, doubled or filled in."""
    data = bytearray(draw(st.sampled_from(list(files))))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(data) - 1)))
        end = min(len(data), start + draw(st.sampled_from([1, 2, 8, 64, 1024])))
        how = draw(st.sampled_from(["cut", "drop", "flip", "double", "fill", "insert", "length"]))
        if how == "cut":
            del data[start:]
        elif how == "drop":
            del data[start:end]
        elif how == "flip" and data:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif how == "double":
            data[end:end] = data[start:end] * draw(st.sampled_from([1, 3, 50]))
        elif how == "fill":
            data[start:end] = bytes([draw(st.sampled_from([0, 10, 34, 91, 123, 255]))]) * (end - start)
        elif how == "insert":
            data[start:start] = draw(
                st.binary(max_size=16) | st.text(max_size=8).map(lambda t: t.encode("utf-8", "replace"))
            )
        else:
            data[:8] = draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
    return bytes(data)


def as_json(tree: Any) -> bytes:
    """A tree as JSON, with whatever JSON itself would refuse."""
    return json.dumps(tree, default=str).encode("utf-8", "surrogatepass")
