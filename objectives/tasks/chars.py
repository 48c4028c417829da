"""Text, character by character, and a small transformer that tells the next one.

Needs no download and no file: left alone it reads the text that Python ships. The network is trained on first use.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.mode import evaluating
from objectives.task import Batch, Split, call, move, samples
from objectives.tasks.batches import Batches, whole_number
from objectives.tasks.decoder import Decoder
from objectives.tasks.text import SPLITS, cut, read_text, windows
from objectives.tasks.trained import TrainedTask, Training
from spaces.errors import TaskError

#: Characters with a code of their own: the most frequent of the training text. All others share code 0.
MOST = 255


class Chars(TrainedTask):
    """The next character of a text; the head of it trains, the middle validates, the tail tests.

    Args:
        text: A UTF-8 file; left out, what Python's own help explains.
        context: Characters a sample.
        width: Of the transformer.
        depth: Its blocks.
        heads: Of its attention.
        epochs: Of its training.
        seed: Of its training.
        batch_size: Samples a batch.
        cache_dir: Where the trained network is kept; left out, ``$PLEACH_HOME/cache``, else ``./.pleach/cache``.

    Raises:
        TaskError: If an argument breaks a rule; the text is read when it is first needed.
    """

    name: ClassVar[str] = "chars"
    recipe: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01}

    def __init__(
        self,
        text: str | None = None,
        context: int = 64,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
        epochs: int = 8,
        seed: int = 0,
        batch_size: int = 32,
        cache_dir: str | None = None,
    ) -> None:
        training = Training(whole_number("epochs", epochs, 1, 8), learning_rate=3e-3)
        super().__init__(training, seed, batch_size, cache_dir)
        self.text = text
        self.context = whole_number("context", context, 2, 64)
        self.width, self.depth = whole_number("width", width, 1, 64), whole_number("depth", depth, 1, 2)
        self.heads = whole_number("heads", heads, 1, 4)
        Decoder(1, 1, self.width, 1, self.heads)  # refuses heads that do not fit now, not in the first trial
        self._arrays: Mapping[str, NDArray[Any]] | None = None

    def architecture(self) -> nn.Module:
        """The transformer; its vocabulary is the text's."""
        vocabulary = 1 + len(self.data()["vocabulary"])
        return Decoder(vocabulary, self.context, self.width, self.depth, self.heads)

    def made_of(self) -> tuple[object, ...]:
        """This file and its neighbours, the text, and the network's sizes."""
        sources = tuple(Path(__file__).with_name(name).read_bytes() for name in ("chars.py", "decoder.py", "text.py"))
        digests = tuple(hashlib.sha256(array.tobytes()).hexdigest() for array in self.data().values())
        return (*sources, *digests, self.context, self.width, self.depth, self.heads)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Random characters, (2, context)."""
        generator = torch.Generator().manual_seed(0)
        return (torch.randint(1 + len(self.data()["vocabulary"]), (2, self.context), generator=generator),)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Batches:
        """Windows of a split and the same one character further on; where they begin changes with `shuffle_seed`."""
        if split not in SPLITS:
            raise TaskError(f"a split must be one of {', '.join(SPLITS)}, but is {split!r}")
        codes = self.data()[split]
        starts = windows(codes, self.context, shuffle_seed)
        inside = np.arange(self.context + 1)

        def make(rows: NDArray[np.int64], _: torch.Generator | None) -> Batch:
            windows_BL = torch.from_numpy(codes[starts[rows][:, None] + inside].astype(np.int64))
            return windows_BL[:, :-1], windows_BL[:, 1:]

        return Batches(len(starts), self.batch_size, shuffle_seed, make)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy over all positions, in nats."""
        return F.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Of each sample, the share of positions where the likeliest character is the one that follows."""
        return (outputs.argmax(dim=1) == targets).float().mean(dim=1)

    def evaluate(self, network: nn.Module, split: Split) -> dict[str, float]:
        """``bits_per_character``, the mean cross entropy in bits."""
        device = str(next(network.parameters()).device)
        total, count = 0.0, 0
        with evaluating(network):
            for inputs, targets in self.batches(split, shuffle_seed=None):
                outputs = call(network, move(inputs, device))
                total += float(self.loss(outputs, targets.to(device))) * samples(inputs)
                count += samples(inputs)
        return {"bits_per_character": total / count / math.log(2)}

    def data(self) -> Mapping[str, NDArray[Any]]:
        """``vocabulary``, the code points of codes 1 and up, and the codes of each split."""
        if self._arrays is None:
            whole = np.array([ord(character) for character in read_text(self.text)])
            parts = cut(whole, 2 * self.context, "characters")
            vocabulary = _vocabulary(parts["train"])
            self._arrays = {"vocabulary": vocabulary} | {n: _encoded(p, vocabulary) for n, p in parts.items()}
        return self._arrays

    def take(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays


def _vocabulary(characters: NDArray[np.int64]) -> NDArray[np.int64]:
    """The most frequent characters, in the order of their code points; of two as frequent the lower one comes first."""
    counts = Counter(characters.tolist())
    frequent = sorted(counts, key=lambda character: (-counts[character], character))[:MOST]
    return np.array(sorted(frequent))


def _encoded(characters: NDArray[np.int64], vocabulary: NDArray[np.int64]) -> NDArray[np.uint8]:
    places = np.searchsorted(vocabulary, characters).clip(max=len(vocabulary) - 1)
    return np.where(vocabulary[places] == characters, places + 1, 0).astype(np.uint8)
