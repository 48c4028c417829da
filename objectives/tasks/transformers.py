"""Models of Hugging Face's transformers as tasks: from a local folder, or small ones from a configuration.

Nothing is ever downloaded. The package is optional: the extra ``transformers``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.mode import evaluating
from objectives.task import Split, call, move
from objectives.tasks.batches import Batches, whole_number
from objectives.tasks.tables import SPLITS
from objectives.tasks.trained import TrainedTask, Training
from objectives.tasks.transformers_batches import samples_of
from objectives.tasks.transformers_data import (
    BYTES,
    NOWHERE,
    Tokens,
    classes,
    read_images,
    read_labelled,
    read_pairs,
    read_windows,
)
from objectives.tasks.transformers_models import KINDS, build, configuration, library, load, read_configuration
from spaces.errors import TaskError
from spaces.policy import nearest

_CLASSIFIERS = ("sequence-classification", "image-classification")


class Transformers(TrainedTask):
    """A model of transformers with its data.

    Args:
        kind: ``causal-lm``, ``masked-lm``, ``sequence-classification``, ``image-classification`` or ``seq2seq``.
        folder: A local folder with config.json and safetensors, as save_pretrained writes it; its tokenizer is used
            where it has one, else bytes are tokens.
        config: Instead of a folder: ``model_type`` and what shall differ from that type's defaults. The network is
            trained on first use.
        data: A text file for a language model (left out, what Python's own help explains). Otherwise a CSV or parquet
            file, or a folder with such files for train, validation and test, that has the columns ``text`` and
            ``label``, ``source`` and ``target``, or ``image`` and ``label`` (left out, scikit-learn's digits).
        length: Tokens a sample.
        epochs: Of training; left out, 3 with a config and 0 with a folder.
        seed: Of the training.
        batch_size: Samples a batch.
        cache_dir: Where a trained network is kept; left out, ``$PLEACH_HOME/cache``, else ``./.pleach/cache``.

    Raises:
        TaskError: If transformers is not installed or an argument breaks a rule; data and weights are read when they
            are first needed.
    """

    name: ClassVar[str] = "transformers"

    def __init__(
        self,
        kind: str,
        folder: str | None = None,
        config: Mapping[str, Any] | None = None,
        data: str | None = None,
        length: int = 64,
        epochs: int | None = None,
        seed: int = 0,
        batch_size: int = 16,
        cache_dir: str | None = None,
    ) -> None:
        library()
        if kind not in KINDS:
            raise TaskError(f"kind must be one of {', '.join(KINDS)}, but is {kind!r}: {nearest(kind, KINDS)}")
        if (folder is None) == (config is None):
            given = "neither is" if folder is None else "both are"
            raise TaskError(f"transformers needs either folder or config, but {given} given: use one of them")
        if data is None and kind in ("sequence-classification", "seq2seq"):
            raise TaskError(f"{kind} needs data, a CSV or parquet file, but it is left out: args = {{data = ...}}")
        if epochs is None:
            epochs = 0 if folder is not None else 3
        whole_number("epochs", epochs, 0 if folder is not None else 1, 3)
        rate = 1e-3 if folder is None else 5e-5
        super().__init__(Training(epochs, rate) if epochs else None, seed, batch_size, cache_dir)
        self.recipe = {"optimizer": "adamw", "learning_rate": rate, "weight_decay": 0.01}
        self.kind, self.data_set = kind, data
        self.folder = Path(folder).expanduser() if folder is not None else None
        self.config = dict(config) if config is not None else None
        self.length = whole_number("length", length, 4, 64)
        self._arrays: Mapping[str, NDArray[Any]] | None = None

    def architecture(self) -> nn.Module:
        """The wrapped model, its weights at random."""
        return build(self.kind, self._configuration())

    def beginning(self) -> nn.Module:
        """With the weights of the folder, if there is one."""
        if self.folder is None:
            return self.architecture()
        return load(self.kind, self._configuration(), self.folder, complete=self.training is None)

    def made_of(self) -> tuple[object, ...]:
        """These files, the library's version, the data, the configuration and the weights it starts from."""
        here = Path(__file__)
        paths = [*sorted(here.parent.glob(f"{here.stem}*.py")), here.with_name("text.py"), here.with_name("tables.py")]
        sources = tuple(path.read_bytes() for path in paths)
        digests = [hashlib.sha256(array.tobytes()).hexdigest() for array in self.data().values()]
        files = sorted(self.folder.glob("*.safetensors")) if self.folder is not None else []
        for path in files:
            with path.open("rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        return (*sources, library().__version__, *digests, self.kind, self.length)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two samples of the training split."""
        _, make = samples_of(self.kind, self.data(), "train", self.length, None)
        inputs, _ = make(np.arange(2), None)
        return inputs if isinstance(inputs, tuple) else (cast(Tensor, inputs),)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Batches:
        """Inputs, by position, and what the network shall tell from them."""
        if split not in SPLITS:
            raise TaskError(f"a split must be one of {', '.join(SPLITS)}, but is {split!r}")
        count, make = samples_of(self.kind, self.data(), split, self.length, shuffle_seed)
        # Image models with BatchNorm cannot train on a single sample.
        return Batches(count, self.batch_size, shuffle_seed, make, least=2)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy, over all tokens that count where each is told, in nats."""
        return F.cross_entropy(outputs, targets, ignore_index=NOWHERE)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """1 where the likeliest class is right, else 0; where tokens are told, the mean over those that count."""
        hits = (outputs.argmax(dim=1) == targets).float()
        if hits.dim() == 1:
            return hits
        return hits.sum(dim=1) / (targets != NOWHERE).sum(dim=1).clamp_min(1)

    def evaluate(self, network: nn.Module, split: Split) -> dict[str, float]:
        """``bits_per_token``, the mean cross entropy in bits, where tokens are told; else nothing."""
        if self.kind in _CLASSIFIERS:
            return {}
        device = str(next(network.parameters()).device)
        total = count = 0.0
        with evaluating(network):
            for inputs, targets in self.batches(split, shuffle_seed=None):
                targets = targets.to(device)
                outputs = call(network, move(inputs, device))
                total += float(F.cross_entropy(outputs, targets, ignore_index=NOWHERE, reduction="sum"))
                count += float((targets != NOWHERE).sum())
        return {"bits_per_token": total / count / math.log(2)}

    def labels(self, split: Split) -> Sequence[int]:
        """The classes of a split in its fixed order; none where tokens are told."""
        return [int(label) for label in self.data()[f"{split}/y"]] if self.kind in _CLASSIFIERS else []

    def data(self) -> Mapping[str, NDArray[Any]]:
        """The arrays of each split, and ``config``, the model's configuration as JSON."""
        if self._arrays is None:
            self._arrays = self._read()
        return self._arrays

    def take(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def _configuration(self) -> Any:
        values = json.loads(self.data()["config"].tobytes())
        return library().AutoConfig.for_model(values.pop("model_type"), **values)

    def _read(self) -> dict[str, NDArray[Any]]:
        config = read_configuration(self.folder) if self.folder else configuration(self.config or {}, BYTES)
        if self.kind == "image-classification":
            arrays, labels = read_images(self.data_set, config, self.folder)
            arrays |= classes(labels, config, fixed=self.training is None)
        else:
            arrays = self._read_text(config)
        values = config.to_json_string(use_diff=False)
        return arrays | {"config": np.frombuffer(values.encode(), dtype=np.uint8)}

    def _read_text(self, config: Any) -> dict[str, NDArray[Any]]:
        held = getattr(config, "max_position_embeddings", None)
        if isinstance(held, int) and 0 < held < self.length:
            raise TaskError(f"length must be at most the model's {held} positions, but is {self.length}: use {held}")
        tokens = Tokens(self.folder, config)
        if self.kind == "causal-lm":
            return read_windows(self.data_set, tokens, self.length)
        if self.kind == "masked-lm":
            if tokens.mask is None:
                raise TaskError("masked-lm needs a tokenizer with a mask token, but this one has none: use causal-lm")
            return read_windows(self.data_set, tokens, self.length) | {"mask_token": np.array([tokens.mask])}
        data = str(self.data_set)
        if self.kind == "seq2seq":
            return read_pairs(data, tokens, self.length)
        if config.pad_token_id is None:
            # A decoder finds the last token of a text by it.
            config.pad_token_id = tokens.pad
        arrays, labels = read_labelled(data, tokens, self.length)
        return arrays | classes(labels, config, fixed=self.training is None)
