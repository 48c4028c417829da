"""Models of Hugging Face's transformers, built from a configuration or a local folder, never downloaded.

A model is wrapped so that it takes tensors by position and returns its logits alone, classes in dimension 1.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spaces.errors import TaskError
from spaces.policy import nearest

#: What a network may be for, and the library's class that builds it.
KINDS: Mapping[str, str] = {
    "causal-lm": "AutoModelForCausalLM",
    "masked-lm": "AutoModelForMaskedLM",
    "sequence-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "seq2seq": "AutoModelForSeq2SeqLM",
}


def library(module: str = "transformers") -> Any:
    """The library, imported when it is first needed: it is optional. It stays offline.

    Raises:
        TaskError: If it is not installed.
    """
    # The library reads these once, while it is imported.
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRANSFORMERS_OFFLINE"] = "1"
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise TaskError(
            f"the task transformers needs the package of that name, but it cannot be imported ({error}): "
            "install Pleach with the extra transformers, as in pip install -e '.[transformers]'"
        ) from None


class Logits(nn.Module):
    """Token ids (N, L), and where some are padding a mask of the same shape, to logits.

    These are (N, classes), or (N, vocabulary, L) where every token has its own.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=False)[0]
        return logits.transpose(1, 2) if logits.dim() == 3 else logits


class ImageLogits(Logits):
    """Images (N, C, H, W) to logits (N, classes)."""

    def forward(self, pixel_values: Tensor) -> Tensor:  # type: ignore[override]
        logits: Tensor = self.model(pixel_values=pixel_values, return_dict=False)[0]
        return logits


class Seq2SeqLogits(Logits):
    """What is read, its mask, and what was written so far, to logits (N, vocabulary, L) of what comes next."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:  # type: ignore[override]
        logits: Tensor = self.model(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, return_dict=False
        )[0]
        return logits.transpose(1, 2)


def configuration(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
    """A configuration from a study file's table.

    Args:
        values: With ``model_type``, as in a folder's config.json.
        defaults: Used where `values` says nothing and the type of model knows the name.

    Raises:
        TaskError: If the type of model or a name is not known, or a value does not do.
    """
    known = library("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    kind = values.get("model_type")
    if kind not in known:
        raise TaskError(
            f"config must have model_type, a type that transformers knows, but has {kind!r}: "
            f"{nearest(str(kind), list(known.keys()))}"
        )
    with _quiet():
        plain = library().AutoConfig.for_model(kind)
        unknown = [name for name in values if not hasattr(plain, name)]
        if unknown:
            names = [*plain.to_dict(), *plain.attribute_map]
            raise TaskError(f"a config of {kind} has no {unknown[0]!r}: {nearest(unknown[0], names)}")
        own = {name: value for name, value in values.items() if name != "model_type"}
        usual = {name: value for name, value in defaults.items() if hasattr(plain, name)}
        with _refusing(f"a config of {kind}"):
            return library().AutoConfig.for_model(kind, **usual | own)


def read_configuration(folder: Path) -> Any:
    """The configuration of a folder.

    Raises:
        TaskError: If it is no folder with a model's config.json and safetensors.
    """
    if not folder.is_dir():
        raise TaskError(f"folder must be a local folder with a model, but {folder} is none: check the path")
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise TaskError(
            f"folder must hold config.json and weights as .safetensors, but {folder} does not: "
            "save the model there with save_pretrained"
        )
    with _quiet(), _refusing(f"the config of {folder}"):
        return library().AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def build(kind: str, config: Any) -> Logits:
    """A network of a configuration, its weights drawn from torch's own generator.

    Raises:
        TaskError: If this type of model has no such kind, or cannot be built so.
    """
    with _quiet(), _refusing(f"a {config.model_type} for {kind}"):
        # Types of several classes for one kind are looked up in it, and it may be None.
        config.architectures = config.architectures or []
        return _wrapped(kind, getattr(library(), KINDS[kind]).from_config(config, trust_remote_code=False))


def load(kind: str, config: Any, folder: Path, *, complete: bool) -> Logits:
    """A network with the weights of a folder.

    Args:
        kind: One of `KINDS`.
        config: Of the network.
        folder: With the weights.
        complete: Whether the folder must hold all weights; what it lacks is drawn at random otherwise.

    Raises:
        TaskError: If the weights cannot be read, do not fit, or are not complete.
    """
    with _quiet(), _refusing(f"the weights of {folder} for {kind}"):
        model, found = getattr(library(), KINDS[kind]).from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    missing = sorted(found["missing_keys"])
    if missing and complete:
        raise TaskError(
            f"folder must hold all weights for {kind}, but {folder} lacks {missing[0]}"
            f"{f' and {len(missing) - 1} more' if len(missing) > 1 else ''}: "
            "save the whole model, or train what is missing with epochs"
        )
    return _wrapped(kind, model)


def _wrapped(kind: str, model: nn.Module) -> Logits:
    config: Any = model.config
    config.use_cache = False
    _use_linear_layers(model)
    return {"image-classification": ImageLogits, "seq2seq": Seq2SeqLogits}.get(kind, Logits)(model)


@torch.no_grad()
def _use_linear_layers(model: nn.Module) -> None:
    """GPT-2 writes its linear layers as a class of its own with transposed weights; nobody else knows them as such."""
    transposed = library("transformers.pytorch_utils").Conv1D
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, transposed):
                linear = nn.Linear(*child.weight.shape)
                linear.weight.copy_(child.weight.T)
                linear.bias.copy_(child.bias)
                setattr(module, name, linear)


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    try:
        yield
    except TaskError:
        raise
    except Exception as error:  # eight hundred types of models refuse in as many ways
        reason = " ".join(str(error).split())
        short = reason if len(reason) <= 300 else f"{reason[:297]}..."
        raise TaskError(
            f"{what} must be something that transformers builds, but it says {type(error).__name__}: {short}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and no advice while something is built; what is wrong is raised."""
    logging = library("transformers.utils.logging")
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
