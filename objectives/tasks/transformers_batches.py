"""Batches for models of transformers, made from the arrays of a split.

Shapes: N samples, L tokens, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from objectives.task import Batch, Split
from objectives.tasks.batches import Make
from objectives.tasks.text import windows
from objectives.tasks.transformers_data import NOWHERE

#: Share of a sample's tokens that a masked language model must tell (Devlin et al. 2019); all become the mask token.
MASKED = 0.15
Arrays = Mapping[str, NDArray[Any]]
Rows = NDArray[np.int64]


def samples_of(kind: str, arrays: Arrays, split: Split, length: int, shuffle_seed: int | None) -> tuple[int, Make]:
    """How many samples one pass over a split has, and what makes a batch of some of them."""
    return _SAMPLES[kind](arrays, split, length, shuffle_seed)


def _causal(arrays: Arrays, split: Split, length: int, shuffle_seed: int | None) -> tuple[int, Make]:
    """Tokens, and the same one further on."""
    codes = arrays[f"{split}/codes"]
    starts = windows(codes, length, shuffle_seed)

    def make(rows: Rows, _: torch.Generator | None) -> Batch:
        ids_NL = _whole(codes[starts[rows][:, None] + np.arange(length + 1)])
        return ids_NL[:, :-1], ids_NL[:, 1:]

    return len(starts), make


def _masked(arrays: Arrays, split: Split, length: int, shuffle_seed: int | None) -> tuple[int, Make]:
    """Tokens of which some are hidden, and the hidden ones; which they are changes with the seed."""
    codes, mask = arrays[f"{split}/codes"], int(arrays["mask_token"][0])
    starts = windows(codes, length, shuffle_seed)
    noise_NL = torch.rand(len(starts), length, generator=torch.Generator().manual_seed(shuffle_seed or 0))
    # At least one a sample, or its score would be of nothing.
    hidden_NL = (noise_NL < MASKED) | (noise_NL == noise_NL.amin(dim=1, keepdim=True))

    def make(rows: Rows, _: torch.Generator | None) -> Batch:
        ids, hidden = _whole(codes[starts[rows][:, None] + np.arange(length)]), hidden_NL[torch.from_numpy(rows)]
        return ids.masked_fill(hidden, mask), ids.masked_fill(~hidden, NOWHERE)

    return len(starts), make


def _labelled(arrays: Arrays, split: Split, length: int, shuffle_seed: int | None) -> tuple[int, Make]:
    """Tokens with their mask, and a class."""
    ids, mask, y = (arrays[f"{split}/{part}"] for part in ("ids", "mask", "y"))

    def make(rows: Rows, _: torch.Generator | None) -> Batch:
        return (_whole(ids[rows]), _whole(mask[rows])), _whole(y[rows])

    return len(y), make


def _pairs(arrays: Arrays, split: Split, length: int, shuffle_seed: int | None) -> tuple[int, Make]:
    """Tokens with their mask and what was written before each token, and the tokens to write."""
    ids, mask, before, y = (arrays[f"{split}/{part}"] for part in ("ids", "mask", "before", "y"))

    def make(rows: Rows, _: torch.Generator | None) -> Batch:
        return (_whole(ids[rows]), _whole(mask[rows]), _whole(before[rows])), _whole(y[rows])

    return len(y), make


def _images(arrays: Arrays, split: Split, length: int, shuffle_seed: int | None) -> tuple[int, Make]:
    """Images (N, C, H, W) as the model was used to see them, and a class."""
    pixels, y = arrays[f"{split}/pixels"], arrays[f"{split}/y"]
    mean_CHW, deviation_CHW = (torch.tensor(row, dtype=torch.float32).view(-1, 1, 1) for row in arrays["look"])

    def make(rows: Rows, _: torch.Generator | None) -> Batch:
        images_NCHW = torch.from_numpy(pixels[rows]).float() / 255
        return (images_NCHW - mean_CHW) / deviation_CHW, _whole(y[rows])

    return len(y), make


def _whole(numbers: NDArray[Any]) -> Tensor:
    return torch.from_numpy(numbers.astype(np.int64))


_SAMPLES: Mapping[str, Callable[[Arrays, Split, int, int | None], tuple[int, Make]]] = {
    "causal-lm": _causal,
    "masked-lm": _masked,
    "sequence-classification": _labelled,
    "image-classification": _images,
    "seq2seq": _pairs,
}
