"""Arguments as JSON and back: numbers, text, containers, slices and torch's constants, each said explicitly.

JSON's own ``null``, booleans, numbers, strings and lists stand for themselves; everything else is an object with one
key that says what it is: ``{"tuple": [1, 2]}``, ``{"node": "conv1"}``, ``{"dtype": "float32"}``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import fx

from search.artifact.names import shown
from spaces.errors import ExportError

_DTYPES: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "bool": torch.bool,
    "complex64": torch.complex64,
    "complex128": torch.complex128,
    "float16": torch.float16,
    "float32": torch.float32,
    "float64": torch.float64,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "uint32": torch.uint32,
    "uint64": torch.uint64,
}
_FORMATS: Mapping[str, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "channels_last_3d": torch.channels_last_3d,
    "contiguous_format": torch.contiguous_format,
    "preserve_format": torch.preserve_format,
}
_DEVICES = ("cpu", "cuda", "meta", "mps", "xpu")
_FLOATS: Mapping[str, float] = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
#: Deeper than any real argument and far from Python's own limit.
_DEPTH = 24
_LENGTH = 100_000
_TEXT = 4_000


def encode(value: object, depth: int = 0) -> Any:
    """A JSON-able form of an argument.

    Raises:
        ExportError: If it is of a kind that a file cannot hold.
    """
    if depth > _DEPTH:
        raise ExportError(f"an argument may be nested {_DEPTH} deep, but is deeper: flatten it")
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [encode(each, depth + 1) for each in value]}
    if isinstance(value, list):
        return [encode(each, depth + 1) for each in value]
    if isinstance(value, Mapping):
        return {"dict": [[_text(key), encode(each, depth + 1)] for key, each in value.items()]}
    if isinstance(value, slice):
        return {"slice": [encode(each, depth + 1) for each in (value.start, value.stop, value.step)]}
    return _encode_constant(value)


def decode(value: object, nodes: Mapping[str, fx.Node], depth: int = 0) -> Any:
    """Read what `encode` wrote.

    Args:
        value: From JSON.
        nodes: The nodes that may be referred to: those that come before.

    Raises:
        ExportError: If `encode` cannot have written it.
    """
    if depth > _DEPTH:
        raise ExportError(f"a stored argument may be nested {_DEPTH} deep, but is deeper: do not trust this file")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list) and len(value) <= _LENGTH:
        return [decode(each, nodes, depth + 1) for each in value]
    if isinstance(value, dict) and len(value) == 1:
        ((kind, inside),) = value.items()
        if kind in ("tuple", "slice", "dict") and isinstance(inside, list) and len(inside) <= _LENGTH:
            return _decode_container(kind, inside, nodes, depth)
        if isinstance(inside, str) and kind == "node":
            if inside not in nodes:
                raise ExportError(
                    f"a stored node may refer to nodes before it only, and {inside!r} is none: do not trust this file"
                )
            return nodes[inside]
        if isinstance(inside, str):
            return _decode_constant(kind, inside)
    raise _unreadable(value)


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a type of numbers, e.g. ``float32``.

    Raises:
        ExportError: If it is not among those that a file can hold.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ExportError(f"tensors must be of one of {', '.join(_DTYPES)}, but one is of {dtype}: convert it")
    return name


def dtype_named(name: object) -> torch.dtype:
    """The type of numbers that a file means.

    Raises:
        ExportError: If there is none of that name.
    """
    if not isinstance(name, str) or name not in _DTYPES:
        raise _unreadable(name)
    return _DTYPES[name]


def _encode_constant(value: object) -> Any:
    if value is ...:
        return {"constant": "ellipsis"}
    if isinstance(value, torch.dtype):
        return {"dtype": dtype_name(value)}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    for name, each in _FORMATS.items():
        if value is each:
            return {"memory_format": name}
    if value is torch.strided:
        return {"constant": "strided"}
    raise ExportError(
        "a stored argument must be a number, a text, a container or a constant of torch, "
        f"but is {type(value).__name__}: put what needs it into a module"
    )


def _decode_container(kind: str, inside: list[Any], nodes: Mapping[str, fx.Node], depth: int) -> Any:
    if kind == "dict":
        pairs = [each for each in inside if isinstance(each, list) and len(each) == 2]
        if len(pairs) != len(inside):
            raise _unreadable(inside)
        return {_text(key): decode(each, nodes, depth + 1) for key, each in pairs}
    parts = [decode(each, nodes, depth + 1) for each in inside]
    if kind == "tuple":
        return tuple(parts)
    if len(parts) != 3:
        raise _unreadable(inside)
    return slice(*parts)


def _decode_constant(kind: str, name: str) -> Any:
    if kind == "float" and name in _FLOATS:
        return _FLOATS[name]
    if kind == "dtype" and name in _DTYPES:
        return _DTYPES[name]
    if kind == "memory_format" and name in _FORMATS:
        return _FORMATS[name]
    if kind == "constant" and name in ("ellipsis", "strided"):
        return ... if name == "ellipsis" else torch.strided
    if kind == "device":
        device, _, index = name.partition(":")
        if device in _DEVICES and (not index or (index.isascii() and index.isdigit() and len(index) < 4)):
            return torch.device(name)
    raise _unreadable({kind: name})


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _TEXT:
        raise ExportError(
            f"a stored text may have {_TEXT} characters, but one has more or is none: do not trust this file"
        )
    return value


def _unreadable(value: object) -> ExportError:
    return ExportError(
        f"a stored argument must be of a kind that this version writes, but is {shown(value)}: export it again"
    )
