"""Writing TOML, which the standard library only reads: as much of it as a study file needs."""

from __future__ import annotations

import json
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
    if isinstance(value, int | float):  # booleans and numbers are written alike in both
        return json.dumps(value)
    return json.dumps(str(value)).replace("\x7f", "\\u007f")


def _key(name: object) -> str:
    return str(name) if re.fullmatch(r"[A-Za-z0-9_-]+", str(name)) else json.dumps(str(name))
