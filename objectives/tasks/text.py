"""Plain text for language models: the user's own, or Python's, cut into contiguous splits and even windows."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from objectives.task import Split
from spaces.errors import TaskError

#: Shares of the text: its head trains, its middle validates, its tail tests.
SHARES = (0.8, 0.1, 0.1)
SPLITS: tuple[Split, Split, Split] = ("train", "validation", "test")


def read_text(path: str | None, argument: str = "text") -> str:
    """A text file, or without one the text that Python itself ships.

    Args:
        path: Of the file.
        argument: What the user calls it.

    Raises:
        TaskError: If there is no such file, it is not UTF-8, or it is empty.
    """
    if path is None:
        return help_topics()
    file = Path(path).expanduser()
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(
            f"{argument} must be a readable file, but {path} is not ({error.strerror}): check the path"
        ) from None
    except UnicodeDecodeError as error:
        raise TaskError(
            f"{argument} must be in UTF-8, but {path} is not (byte {error.start}): save it as UTF-8"
        ) from None
    if not text.strip():
        raise TaskError(f"{argument} must hold something to read, but {path} is empty: use another file")
    return text


def help_topics() -> str:
    """What Python's ``help("topics")`` explains: some 370,000 characters of the language reference.

    Paragraphs that occur again are left out, so that no split holds what another holds. The same for one version of
    Python, everywhere.

    Raises:
        TaskError: If this Python was installed without it.
    """
    try:
        topics: Mapping[str, str] = importlib.import_module("pydoc_data.topics").topics
    except ImportError:
        raise TaskError(
            "the task reads Python's own help where it is given no file, but this Python has no pydoc_data: give it one"
        ) from None
    paragraphs = [part.strip("\n") for name in sorted(topics) for part in topics[name].split("\n\n")]
    return "\n\n".join(part for part in dict.fromkeys(paragraphs) if part)


def cut(codes: NDArray[np.int64], least: int, what: str) -> dict[Split, NDArray[np.int64]]:
    """Head, middle and tail of a sequence.

    Args:
        codes: Shape (length,).
        least: What the shortest part must hold.
        what: Is counted, for the message: ``characters``.

    Raises:
        TaskError: If a part is shorter.
    """
    first, second = round(SHARES[0] * len(codes)), round((SHARES[0] + SHARES[1]) * len(codes))
    parts = dict(zip(SPLITS, (codes[:first], codes[first:second], codes[second:]), strict=True))
    if min(map(len, parts.values())) < least:
        needed = round(least / min(SHARES)) + 10
        raise TaskError(
            f"the text must have at least {needed:,} {what} for samples of that length, but has {len(codes):,}: "
            "use a longer text or shorter samples"
        )
    return parts


def windows(codes: NDArray[np.int64], length: int, shuffle_seed: int | None) -> NDArray[np.int64]:
    """Windows of ``length + 1`` one after another, each beginning with what the one before it ended with.

    Args:
        codes: At least ``2 * length`` of them.
        length: >= 1.
        shuffle_seed: Where the first one begins, anywhere in the first `length`; None for the very beginning.

    Returns:
        Their first positions, shape (windows,).
    """
    if shuffle_seed is None:
        return np.arange((len(codes) - 1) // length) * length
    generator = torch.Generator().manual_seed(shuffle_seed)
    offset = int(torch.randint(length, (1,), generator=generator))
    # One window fewer, so that there are equally many wherever they begin.
    return offset + np.arange((len(codes) - length) // length) * length
