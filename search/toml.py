"""Writing TOML, which the standard library only reads: as much of it as a study file needs."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any


def to_toml(data: Mapping[str, Any]) -> str:
    """Tables of plain values as TOML; deeper mappings as inline tables, None left out."""
    lines = []
    for table, values in data.items():
        lines.append(f"[{_key(table)}]")
        lines += [f"{_key(key)} = {_toml(value)}" for key, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_toml(v)}" for k, v in value.items() if v is not None) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int | float):  # these are written as in JSON, booleans too
        return json.dumps(value)
    return _text(str(value))


def _key(name: object) -> str:
    return str(name) if re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) else _text(str(name))


def _text(text: str) -> str:
    """A basic string: JSON's escapes are TOML's but for the one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
