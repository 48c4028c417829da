"""Which modules a file may hold, and how their constructor's arguments are read back from an instance.

One literal table. A file names a class and arguments; only these classes are ever looked up, and they are built on the
meta device, so that no size in a file takes memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from search.artifact.encoding import decode, encode
from search.artifact.names import shown
from search.surgery.attention import NarrowAttention
from search.surgery.granularity_dynamic import MovingConvolution, MovingLinear
from search.surgery.granularity_layers import CodedConvolution, CodedLinear
from search.surgery.modes import ByMode
from search.surgery.routing_gate import RoutingGate
from spaces.errors import ExportError

# `name` is the attribute of the same name; `name?` whether it is not None; `name=path` an attribute found elsewhere.
_CONV = "in_channels out_channels kernel_size stride padding dilation groups bias? padding_mode"
_TRANSPOSED = f"{_CONV} output_padding"
_NORM = "num_features eps momentum affine track_running_stats bias?"
_MAXPOOL = "kernel_size stride padding dilation return_indices ceil_mode"
_AVGPOOL = "kernel_size stride padding ceil_mode count_include_pad"
_RECURRENT = "input_size hidden_size num_layers bias batch_first dropout bidirectional"
_LAYER = (
    "d_model=self_attn.embed_dim nhead=self_attn.num_heads dim_feedforward=linear1.out_features dropout=dropout.p "
    "activation layer_norm_eps=norm1.eps batch_first=self_attn.batch_first norm_first bias=linear1.bias?"
)

_TORCH: Mapping[str, str] = {
    **{f"Conv{n}d": _CONV for n in (1, 2, 3)},
    **{f"ConvTranspose{n}d": _TRANSPOSED for n in (1, 2, 3)},
    **{f"BatchNorm{n}d": _NORM for n in (1, 2, 3)},
    **{f"InstanceNorm{n}d": _NORM for n in (1, 2, 3)},
    **{f"MaxPool{n}d": _MAXPOOL for n in (1, 2, 3)},
    **{f"MaxUnpool{n}d": "kernel_size stride padding" for n in (1, 2, 3)},
    "AvgPool1d": _AVGPOOL,
    "AvgPool2d": f"{_AVGPOOL} divisor_override",
    "AvgPool3d": f"{_AVGPOOL} divisor_override",
    **{f"LPPool{n}d": "norm_type kernel_size stride ceil_mode" for n in (1, 2, 3)},
    **{f"AdaptiveAvgPool{n}d": "output_size" for n in (1, 2, 3)},
    **{f"AdaptiveMaxPool{n}d": "output_size return_indices" for n in (1, 2, 3)},
    **{f"{kind}Pad{n}d": "padding" for kind in ("Circular", "Reflection", "Replication", "Zero") for n in (1, 2, 3)},
    **{f"ConstantPad{n}d": "padding value" for n in (1, 2, 3)},
    **dict.fromkeys(("Dropout", "Dropout1d", "Dropout2d", "Dropout3d"), "p inplace"),
    **dict.fromkeys(("AlphaDropout", "FeatureAlphaDropout"), "p inplace"),
    **dict.fromkeys(("ReLU", "ReLU6", "SELU", "SiLU", "Mish", "Hardsigmoid", "Hardswish"), "inplace"),
    **dict.fromkeys(("Identity", "LogSigmoid", "Sigmoid", "Softmax2d", "Softsign", "Tanh", "Tanhshrink"), ""),
    **dict.fromkeys(("GLU", "LogSoftmax", "Softmax", "Softmin"), "dim"),
    **dict.fromkeys(("CELU", "ELU"), "alpha inplace"),
    **dict.fromkeys(("Hardshrink", "Softshrink"), "lambd"),
    "Bilinear": "in1_features in2_features out_features bias?",
    "ChannelShuffle": "groups",
    "CosineSimilarity": "dim eps",
    "Embedding": "num_embeddings embedding_dim padding_idx max_norm norm_type scale_grad_by_freq sparse",
    "EmbeddingBag": (
        "num_embeddings embedding_dim max_norm norm_type scale_grad_by_freq mode sparse include_last_offset padding_idx"
    ),
    "Flatten": "start_dim end_dim",
    "Fold": "output_size kernel_size dilation padding stride",
    "GELU": "approximate",
    "GRU": _RECURRENT,
    "GRUCell": "input_size hidden_size bias",
    "GroupNorm": "num_groups num_channels eps affine bias?",
    "Hardtanh": "min_val max_val inplace",
    "LSTM": f"{_RECURRENT} proj_size",
    "LSTMCell": "input_size hidden_size bias",
    "LayerNorm": "normalized_shape eps elementwise_affine bias?",
    "LeakyReLU": "negative_slope inplace",
    "Linear": "in_features out_features bias?",
    "LocalResponseNorm": "size alpha beta k",
    "MultiheadAttention": (
        "embed_dim num_heads dropout bias=in_proj_bias? add_bias_kv=bias_k? add_zero_attn kdim vdim batch_first"
    ),
    "PReLU": "num_parameters",
    "PairwiseDistance": "p=norm eps keepdim",
    "PixelShuffle": "upscale_factor",
    "PixelUnshuffle": "downscale_factor",
    "RMSNorm": "normalized_shape eps elementwise_affine",
    "RNN": f"{_RECURRENT} nonlinearity",
    "RNNCell": "input_size hidden_size bias nonlinearity",
    "RReLU": "lower upper inplace",
    "Softplus": "beta threshold",
    "Threshold": "threshold value inplace",
    "Transformer": "d_model nhead custom_encoder=encoder custom_decoder=decoder batch_first",
    "TransformerDecoder": "decoder_layer=layers.0 num_layers norm",
    "TransformerDecoderLayer": _LAYER,
    "TransformerEncoder": "encoder_layer=layers.0 num_layers norm enable_nested_tensor=use_nested_tensor mask_check",
    "TransformerEncoderLayer": _LAYER,
    "Unflatten": "dim unflattened_size",
    "Unfold": "kernel_size dilation padding stride",
    "Upsample": "size scale_factor mode align_corners recompute_scale_factor",
    "UpsamplingBilinear2d": "size scale_factor",
    "UpsamplingNearest2d": "size scale_factor",
}
#: Pleach's own modules that may stand in a finalized network, in the same notation.
_OWN: Mapping[type[nn.Module], str] = {
    ByMode: "in_training in_evaluation",
    CodedConvolution: (
        "in_channels out_channels kernel_size stride padding dilation groups bias? padding_mode rows activations "
        "half=half_type kernel_from"
    ),
    CodedLinear: "in_features out_features bias? rows activations half=half_type kernel_from",
    MovingConvolution: (
        "in_channels out_channels kernel_size stride padding dilation groups bias? padding_mode activations levels "
        "counts thresholds dwell"
    ),
    MovingLinear: "in_features out_features bias? activations levels counts thresholds dwell",
    NarrowAttention: "embed_dim num_heads head_dim dropout bias=in_proj_bias? kdim vdim batch_first",
    RoutingGate: "channels ndim units hidden attends last width forced",
}

CLASSES: Mapping[str, type[nn.Module]] = {
    **{f"torch.nn.{name}": getattr(nn, name) for name in _TORCH},
    **{f"pleach.{kind.__name__}": kind for kind in _OWN},
}
_NAMES: Mapping[type[nn.Module], str] = {kind: name for name, kind in CLASSES.items()}
_ARGUMENTS: Mapping[type[nn.Module], tuple[str, ...]] = {
    **{getattr(nn, name): tuple(arguments.split()) for name, arguments in _TORCH.items()},
    **{kind: tuple(arguments.split()) for kind, arguments in _OWN.items()},
}
#: What a subclass may define and still compute what its base does.
_HARMLESS = frozenset(
    ("__init__", "__module__", "__qualname__", "__doc__", "__annotations__", "__constants__", "extra_repr")
) | frozenset(
    ("__firstlineno__", "__static_attributes__", "__parameters__", "__orig_bases__", "reset_parameters")
)  # fmt: skip
_DEPTH = 6
#: A number of layers is built one by one: the only size that takes time.
_LAYERS = 1_000


def is_known(module: nn.Module) -> bool:
    """Whether a file can hold a module: a class of the table, or a subclass that changes nothing but its making."""
    return _kind(module) is not None and not _hooked(module)


def describe(module: nn.Module) -> dict[str, Any]:
    """The class and constructor arguments of a module, JSON-able.

    Raises:
        ExportError: If its class is not in the table, or it was changed so that no constructor makes it.
    """
    kind = _kind(module)
    if kind is None:
        raise ExportError(
            f"a stored network may hold modules of torch.nn only, but holds a {_full_name(module)}: "
            "write it with modules of torch.nn"
        )
    if _hooked(module):
        raise ExportError(
            f"a stored module must compute what its class does, but a {_full_name(module)} has a hook or a forward of "
            "its own: remove it before exporting"
        )
    args: dict[str, Any] = {}
    for argument in _ARGUMENTS[kind]:
        name, _, path = argument.rstrip("?").partition("=")
        value: Any = module
        for atom in (path or name).split("."):
            value = getattr(value, atom)
        args[name] = _encode(value is not None if argument.endswith("?") else value)
    return {"class": _NAMES[kind], "args": args}


def build(data: object, depth: int = 0) -> nn.Module:
    """The module that a file describes, on the meta device.

    Raises:
        ExportError: If the file names a class that is not in the table, or arguments that it refuses.
    """
    if not isinstance(data, dict) or set(data) != {"class", "args"} or not isinstance(data["args"], dict):
        raise ExportError("a stored module must be {class, args}, but one is not: export it again")
    kind = CLASSES.get(data["class"]) if isinstance(data["class"], str) else None
    if kind is None:
        raise ExportError(
            f"a stored network may hold modules of torch.nn only, but names {shown(data['class'])}: "
            "do not trust this file"
        )
    known = {argument.rstrip("?").partition("=")[0] for argument in _ARGUMENTS[kind]}
    if set(data["args"]) != known or depth > _DEPTH:
        raise ExportError(
            f"a stored {data['class']} must have the arguments {', '.join(sorted(known))}: export it again"
        )
    args = {name: _decode(value, depth) for name, value in data["args"].items()}
    if isinstance(args.get("num_layers"), int) and args["num_layers"] > _LAYERS:
        raise ExportError(f"a stored {data['class']} may have {_LAYERS} layers, but has {args['num_layers']}")
    try:
        with torch.device("meta"):
            return kind(**args)
    # A constructor refuses bad arguments in whichever way it likes.
    except Exception as error:
        raise ExportError(f"a stored {data['class']} cannot be built ({' '.join(str(error).split())})") from error


def _kind(module: nn.Module) -> type[nn.Module] | None:
    for kind in type(module).__mro__:
        if kind in _ARGUMENTS:
            return kind
        if set(vars(kind)) - _HARMLESS:
            return None
    return None


def _hooked(module: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in module.modules())


def _encode(value: object) -> Any:
    if isinstance(value, nn.Module):
        return {"module": describe(value)}
    if value is F.relu or value is F.gelu:
        return "relu" if value is F.relu else "gelu"
    return encode(value)


def _decode(value: object, depth: int) -> Any:
    if isinstance(value, dict) and set(value) == {"module"}:
        return build(value["module"], depth + 1)
    return decode(value, {})


def _full_name(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"
