"""Data for models of transformers, as arrays: windows of text, labelled texts, labelled images, pairs of texts.

Shapes: N samples, L tokens, C channels, H height, W width. A target of -100 counts nowhere.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from sklearn.datasets import load_digits

from objectives.task import Split
from objectives.tasks.tables import SPLITS, class_names, read_splits, split_rows
from objectives.tasks.text import cut, read_text
from objectives.tasks.transformers_models import library
from spaces.errors import TaskError

Arrays = dict[str, NDArray[Any]]
Codes = NDArray[np.int64]
#: Without a tokenizer a token is a byte, behind these. Padding comes first: some models count positions from it.
PAD, MASK, BEGIN, END = range(4)
FIRST = 4
#: What a configuration needs to know of bytes as tokens.
BYTES: Mapping[str, int] = {
    "vocab_size": FIRST + 256,
    "pad_token_id": PAD,
    "bos_token_id": BEGIN,
    "eos_token_id": END,
    "cls_token_id": BEGIN,
    "sep_token_id": END,
    "decoder_start_token_id": BEGIN,
}
#: Where neither the configuration nor the folder says how large an image is.
SIDE = 32
NOWHERE = -100


class Tokens:
    """Text to token ids: by the tokenizer of a folder that has one, else byte by byte.

    Args:
        folder: None for bytes.
        config: The model's, for the sizes of its vocabulary and its positions.

    Raises:
        TaskError: If the model's vocabulary is too small.
    """

    def __init__(self, folder: Path | None, config: Any) -> None:
        self._tokenizer = _tokenizer(folder) if folder is not None else None
        if self._tokenizer is None:
            self.pad, self.mask = PAD, MASK
            size = FIRST + 256
        else:
            self.pad, self.mask = self._tokenizer.pad_token_id, self._tokenizer.mask_token_id
            size = len(self._tokenizer)
        begins = (getattr(config, name, None) for name in ("decoder_start_token_id", "bos_token_id", "pad_token_id"))
        #: What a decoder is given before its first token.
        self.begin = next((int(token) for token in begins if token is not None), self.pad)
        held = getattr(config, "vocab_size", size)
        if held < size:
            raise TaskError(f"the model must have at least {size} tokens in vocab_size, but has {held}: use {size}")

    def whole(self, text: str) -> Codes:
        """One long text, without special tokens; shape (tokens,)."""
        if self._tokenizer is None:
            return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int64) + FIRST
        # Line by line, because a tokenizer warns of, and some slow down with, what is longer than a model takes.
        lines = self._tokenizer(text.splitlines(keepends=True), add_special_tokens=False)["input_ids"]
        return np.array([token for line in lines for token in line], dtype=np.int64)

    def padded(self, texts: Sequence[str], length: int, *, written: bool = False) -> tuple[Codes, Codes]:
        """Each text with its special tokens, cut or padded.

        Args:
            texts: N of them.
            length: L.
            written: Whether a decoder writes them, which begins by itself.

        Returns:
            Ids (N, L) and the mask (N, L), 1 on tokens.
        """
        if self._tokenizer is not None:
            found = self._tokenizer(
                list(texts), truncation=True, max_length=length, padding="max_length", return_tensors="np"
            )
            return found["input_ids"].astype(np.int64), found["attention_mask"].astype(np.int64)
        ids = np.full((len(texts), length), PAD, dtype=np.int64)
        for row, text in enumerate(texts):
            start = [] if written else [BEGIN]
            codes = [*start, *(FIRST + byte for byte in text.encode()[: length - 1 - len(start)]), END]
            ids[row, : len(codes)] = codes
        return ids, (ids != PAD).astype(np.int64)


def _tokenizer(folder: Path) -> Any:
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return None
    try:
        found = library().AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, padding_side="right"
        )
    except Exception as error:  # tokenizers refuse in as many ways as there are
        raise TaskError(
            f"the tokenizer of {folder} cannot be read ({' '.join(str(error).split())}): check it"
        ) from error
    if found.pad_token_id is None:
        if found.eos_token is None:
            raise TaskError(f"the tokenizer of {folder} must have a token to pad with, but has none: set pad_token")
        found.pad_token = found.eos_token
    return found


def read_windows(data: str | None, tokens: Tokens, length: int) -> Arrays:
    """A text's tokens by split: the head of the text, its middle, its tail."""
    characters = np.array([ord(character) for character in read_text(data, "data")])
    arrays: Arrays = {}
    for split, part in cut(characters, 2 * length, "characters").items():
        codes = tokens.whole("".join(map(chr, part.tolist())))
        if len(codes) < 2 * length:
            raise TaskError(
                f"every split must have at least {2 * length} tokens, but {split} has {len(codes)}: use a longer text"
            )
        arrays[f"{split}/codes"] = codes.astype(np.int32)
    return arrays


def read_labelled(data: str, tokens: Tokens, length: int) -> tuple[Arrays, dict[Split, pd.Series]]:
    """Texts of the column ``text``, and their labels as they stand in the column ``label``."""
    tables = read_splits(data, ["text", "label"], classes="label")
    arrays: Arrays = {}
    for split, table in tables.items():
        ids, mask = tokens.padded(table["text"].astype(str).tolist(), length)
        arrays |= {f"{split}/ids": ids.astype(np.int32), f"{split}/mask": mask.astype(np.uint8)}
    return arrays, {split: table["label"] for split, table in tables.items()}


def read_pairs(data: str, tokens: Tokens, length: int) -> Arrays:
    """Texts of the columns ``source`` and ``target``; what is written follows what was written before it."""
    arrays: Arrays = {}
    for split, table in read_splits(data, ["source", "target"]).items():
        ids, mask = tokens.padded(table["source"].astype(str).tolist(), length)
        written, present = tokens.padded(table["target"].astype(str).tolist(), length, written=True)
        before = np.concatenate([np.full((len(written), 1), tokens.begin), written[:, :-1]], axis=1)
        arrays |= {f"{split}/ids": ids.astype(np.int32), f"{split}/mask": mask.astype(np.uint8)}
        arrays |= {f"{split}/before": before.astype(np.int32)}
        arrays |= {f"{split}/y": np.where(present == 1, written, NOWHERE)}
    return arrays


def read_images(data: str | None, config: Any, folder: Path | None) -> tuple[Arrays, dict[Split, pd.Series]]:
    """Images of the column ``image``, as Hugging Face lays them out, and their labels; without data, digits.

    Every image is brought to the side that the model takes. ``look`` holds mean and deviation per channel.
    """
    channels = int(getattr(config, "num_channels", 3))
    if channels not in (1, 3):
        raise TaskError(f"num_channels must be 1 or 3, but is {channels}: use a model for grey or coloured images")
    given = _preprocessing(folder)
    height, width = _extent(config, given)
    look = [
        np.resize(np.array(given.get(name, 0.5), dtype=np.float64), channels) for name in ("image_mean", "image_std")
    ]
    arrays: Arrays = {"look": np.stack(look)}
    labels: dict[Split, pd.Series] = {}
    for split, (images, told) in _pictures(data, "L" if channels == 1 else "RGB").items():
        scaled = [picture.resize((width, height)) for picture in images]
        pixels = np.stack([np.asarray(picture).reshape(height, width, channels) for picture in scaled])
        arrays[f"{split}/pixels"] = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
        labels[split] = told
    return arrays, labels


def _pictures(data: str | None, mode: str) -> dict[Split, tuple[list[Image.Image], pd.Series]]:
    if data is None:
        bunch = load_digits()
        bright = np.round(bunch.images * (255 / 16)).astype(np.uint8)
        return {
            split: ([Image.fromarray(bright[row]).convert(mode) for row in rows], pd.Series(bunch.target[rows]))
            for split, rows in split_rows(len(bright), bunch.target).items()
        }
    tables = read_splits(data, ["image", "label"], classes="label")
    return {
        split: ([_decoded(cell, mode) for cell in table["image"]], table["label"]) for split, table in tables.items()
    }


def _decoded(cell: Any, mode: str) -> Image.Image:
    encoded: Any = cell.get("bytes") if isinstance(cell, Mapping) else cell
    try:
        return Image.open(io.BytesIO(encoded)).convert(mode)
    except (TypeError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise TaskError(f"the column image must hold encoded images, but does not ({error}): check the data") from None


def _preprocessing(folder: Path | None) -> Mapping[str, Any]:
    path = folder / "preprocessor_config.json" if folder is not None else None
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TaskError(f"{path} must be JSON, but is not ({error}): check it") from None
    return found if isinstance(found, Mapping) else {}


def _extent(config: Any, given: Mapping[str, Any]) -> tuple[int, int]:
    """Height and width that a model takes."""
    size: Any = getattr(config, "image_size", None) or given.get("crop_size") or given.get("size") or SIDE
    if isinstance(size, Mapping):
        size = (size["height"], size["width"]) if "height" in size else size.get("shortest_edge", SIDE)
    if isinstance(size, Sequence):
        return int(size[0]), int(size[1])
    return int(size), int(size)


def classes(labels: Mapping[Split, pd.Series], config: Any, *, fixed: bool) -> Arrays:
    """Labels as numbers: by the model's own names for them, as they are where they are whole numbers, else sorted.

    Args:
        labels: By split.
        config: Of the model; it gets more labels where the data has more, unless they are fixed.
        fixed: Whether the model's head is trained already.

    Raises:
        TaskError: If a label is none of the model's, or not in training.
    """
    words = {split: class_names(column) for split, column in labels.items()}
    found = sorted(set(words["train"].tolist()))
    numbers = {str(name): int(number) for name, number in (config.label2id or {}).items()}
    if not all(word in numbers for word in found):
        whole = all(word.isdecimal() for word in found)
        numbers = {word: int(word) if whole else place for place, word in enumerate(found)}
    largest = max(numbers[word] for word in found)
    if largest >= config.num_labels:
        if fixed:
            raise TaskError(
                f"the data must have the model's {config.num_labels} classes, but has a class {largest}: check both"
            )
        config.num_labels = largest + 1
    for split in SPLITS:
        strange = sorted(set(words[split].tolist()) - numbers.keys())
        if strange:
            raise TaskError(f"every label must be in training, but {strange[0]!r} is only in {split}: add rows of it")
    return {f"{split}/y": np.array([numbers[word] for word in words[split]]) for split in SPLITS}
