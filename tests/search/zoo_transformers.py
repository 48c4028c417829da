"""The part of the zoo that comes from Hugging Face: models of two small layers, built from configurations, offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from objectives.tasks.transformers_models import build, configuration

Specimen = tuple[nn.Module, tuple[Tensor, ...]]

_LETTERS = 37
_DEFAULTS = {"vocab_size": _LETTERS, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "hidden_size": 16}
_TEXT = _LAYERS | {"max_position_embeddings": 16}
_PAIRS = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
_IMAGES = {"num_channels": 1}

#: What each is for, and what differs from the defaults of its type.
_CONFIGURATIONS: Mapping[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("causal-lm", {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 16}),
    "llama": ("causal-lm", _TEXT | {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "bert": ("masked-lm", _TEXT),
    "modernbert": ("masked-lm", _TEXT),
    "vit": ("image-classification", _LAYERS | _IMAGES | {"image_size": 8, "patch_size": 4}),
    "resnet": (
        "image-classification",
        _IMAGES | {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1], "layer_type": "basic"},
    ),
    "bart": (
        "seq2seq",
        _PAIRS | {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "max_position_embeddings": 16},
    ),
    "t5": ("seq2seq", {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 1, "num_heads": 2}),
}


#: How they write themselves.
_TITLES = {"gpt2": "GPT-2", "vit": "ViT", "resnet": "ResNet", "llama": "Llama", "modernbert": "ModernBERT"}


def _maker(kind: str, name: str, values: Mapping[str, Any]) -> Callable[[], Specimen]:
    named = _TITLES.get(name, name.upper())

    def make() -> Specimen:
        network = build(kind, configuration({"model_type": name, **values}, _DEFAULTS))
        if kind == "image-classification":
            return network, (torch.randn(2, 1, 8, 8),)
        tokens = torch.randint(3, _LETTERS, (2, 12))
        if kind == "causal-lm":
            return network, (tokens,)
        mask = torch.ones_like(tokens)
        mask[1, -3:] = 0
        written = (torch.randint(3, _LETTERS, (2, 5)),) if kind == "seq2seq" else ()
        return network, (tokens, mask, *written)

    make.__name__ = f"hf_{name}"
    make.__doc__ = f"{named} of transformers."
    return make


TRANSFORMERS: tuple[Callable[[], Specimen], ...] = tuple(
    _maker(kind, name, values) for name, (kind, values) in _CONFIGURATIONS.items()
)
