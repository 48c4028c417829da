"""Plain values, as a file or a request holds them: texts, numbers, lists, tables, of bounded depth and number.

A few lines of YAML can stand for more values than any memory holds: one name is used ten times in what another name is
used ten times in, and a list may hold itself. What is counted here is counted as often as it would be written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spaces.errors import StudyFileError, shown

#: A study needs six levels and some hundred values.
DEEPEST, MOST = 32, 20_000
#: The longest text among them, and the longest key.
LONGEST, LONGEST_KEY = 20_000, 200
#: What a whole number may have: as much as any file or database holds.
LARGEST = 2**63


def check_plain(data: object, name: str) -> None:
    """Refuse what could not be written to a file and read back.

    Args:
        data: Of any kind.
        name: What to call it.

    Raises:
        StudyFileError: If it is too deep, too large, or holds something else than plain values.
    """
    waiting: list[tuple[Any, int]] = [(data, 1)]
    count = 0
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if count > MOST:
            raise StudyFileError(f"{name} may hold {MOST} values, but holds more: leave out what is no part of a study")
        if depth > DEEPEST:
            raise StudyFileError(f"{name} may be nested {DEEPEST} levels deep, but is deeper: flatten it")
        if isinstance(value, Mapping):
            for key in value:
                _check_key(key, name)
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list | tuple):
            if len(value) > MOST:
                raise StudyFileError(f"{name} may hold {MOST} values, but holds more: shorten its lists")
            waiting += [(inner, depth + 1) for inner in value]
        else:
            _check_value(value, name)


def _check_key(key: object, name: str) -> None:
    if not isinstance(key, str) or not key.isprintable() or len(key) > LONGEST_KEY:
        raise StudyFileError(
            f"the keys of {name} must be printable texts of at most {LONGEST_KEY} characters, but one is {shown(key)}: "
            "rename it"
        )


def _check_value(value: object, name: str) -> None:
    if isinstance(value, str):
        if len(value) > LONGEST or (not value.isascii() and _is_torn(value)):
            raise StudyFileError(
                f"the texts of {name} may have {LONGEST} whole characters, but one is {shown(value)}: correct it"
            )
    elif isinstance(value, int):
        if not -LARGEST <= value < LARGEST:
            raise StudyFileError(
                f"the whole numbers of {name} have at most 64 bits, but one is {shown(value)}: lower it"
            )
    elif not isinstance(value, float | None):
        kind = type(value).__name__
        raise StudyFileError(
            f"{name} is made of texts, numbers, true and false, lists and tables, but {shown(value)} is a {kind}: "
            "write it as text, in quotes"
        )


def _is_torn(text: str) -> bool:
    """Whether half a character is in it, which no file holds."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
