"""Values out of files that anybody may have edited: each is what it must be, or a ValueError says which one is not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spaces.errors import shown


def number(value: object, name: str) -> float:
    """A number as it is, not finite ones too; whole ones stay whole.

    Raises:
        ValueError: If it is none, or too large to reckon with.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{name} must be a number, but is {shown(value)}")
    if isinstance(value, int) and not -(2**1000) < value < 2**1000:
        raise ValueError(f"{name} is too large a number")
    return value


def count(value: object, name: str) -> int:
    """A whole number from 0.

    Raises:
        ValueError: If it is none.
    """
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} must be a whole number from 0, but is {shown(value)}")
    return value


def whole(value: object, name: str) -> int:
    """A whole number of either sign.

    Raises:
        ValueError: If it is none.
    """
    if type(value) is not int or not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} must be a whole number, but is {shown(value)}")
    return value


def text(value: object, name: str) -> str:
    """A text.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(value, str):
        raise ValueError(f"{name} must be a text, but is {shown(value)}")
    return value


def table(value: object, name: str) -> Mapping[str, Any]:
    """A mapping; JSON's keys are texts.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"{name} must be a table, but is {shown(value)}")
    return value


def rows(value: object, name: str) -> list[Any]:
    """A list.

    Raises:
        ValueError: If it is none.
    """
    if not isinstance(value, list | tuple):
        raise ValueError(f"{name} must be a list, but is {shown(value)}")
    return list(value)


def numbers(value: object, name: str) -> dict[str, float]:
    """Numbers by name.

    Raises:
        ValueError: If one is none.
    """
    return {key: number(inner, f"{name}.{key}") for key, inner in table(value, name).items()}


def texts(value: object, name: str) -> dict[str, str]:
    """Texts by name.

    Raises:
        ValueError: If one is none.
    """
    return {key: text(inner, f"{name}.{key}") for key, inner in table(value, name).items()}
