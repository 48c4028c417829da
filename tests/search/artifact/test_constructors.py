"""Every module that a file may hold comes back with the arguments it was made with."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from search.artifact.constructors import CLASSES, build, describe, is_known
from search.surgery.attention import NarrowAttention
from search.surgery.granularity_dynamic import MovingConvolution, MovingLinear
from search.surgery.granularity_layers import CodedConvolution, CodedLinear
from search.surgery.modes import ByMode
from search.surgery.routing_gate import RoutingGate
from spaces.errors import ExportError

ENCODER = nn.TransformerEncoderLayer(8, 2, 12, 0.3, "gelu", layer_norm_eps=1e-3, batch_first=True, norm_first=True)
DECODER = nn.TransformerDecoderLayer(8, 4, 10, 0.1, "gelu", bias=False)
INSTANCES: tuple[nn.Module, ...] = (
    nn.AdaptiveAvgPool1d(3),
    nn.AdaptiveAvgPool2d((2, None)),
    nn.AdaptiveAvgPool3d((1, 2, 3)),
    nn.AdaptiveMaxPool1d(2, return_indices=True),
    nn.AdaptiveMaxPool2d((None, 3)),
    nn.AdaptiveMaxPool3d(2),
    nn.AlphaDropout(0.2),
    nn.AvgPool1d(3, 2, 1, True, False),
    nn.AvgPool2d((2, 3), 2, 1, ceil_mode=True, count_include_pad=False, divisor_override=5),
    nn.AvgPool3d(2),
    nn.BatchNorm1d(4, 1e-3, None, affine=False),
    nn.BatchNorm2d(5, momentum=0.3, track_running_stats=False),
    nn.BatchNorm3d(6, bias=False),
    nn.Bilinear(2, 3, 4, bias=False),
    ByMode(0.1, 0.0),
    CodedConvolution(4, 6, (3,), (2,), (1,), (1,), 2, True, "zeros", ((8, 2), (4, 4)), "static", "fp16", 8),
    CodedLinear(6, 4, False, ((16, 1), (8, 3)), "dynamic", "bf16", 1),
    MovingConvolution(
        4, 6, (3, 3), (1, 1), "same", (1, 1), 1, False, "reflect", "dynamic", (8, 4), (6,), (0.5, 1.5), 3
    ),
    MovingLinear(6, 4, True, "none", (8, 4), (2, 2), (0.5, 1.5), 2),
    RoutingGate(6, 3, units=2, hidden=8, attends=True, last=True, width=6, forced=(-1, 1)),
    NarrowAttention(6, 2, 2, 0.1, kdim=4, vdim=5, batch_first=True),
    nn.CELU(2.0),
    nn.ChannelShuffle(2),
    nn.CircularPad1d((1, 2)),
    nn.CircularPad2d(1),
    nn.CircularPad3d(2),
    nn.ConstantPad1d(1, 3.5),
    nn.ConstantPad2d((1, 0, 2, 3), 1),
    nn.ConstantPad3d(1, -1.0),
    nn.Conv1d(2, 4, 3, padding="same", dilation=2, bias=False),
    nn.Conv2d(4, 6, (3, 5), (2, 1), (1, 2), groups=2, padding_mode="reflect"),
    nn.Conv3d(1, 2, 2, 2),
    nn.ConvTranspose1d(2, 3, 4, 2, 1, output_padding=1),
    nn.ConvTranspose2d(4, 4, 3, 2, groups=2, bias=False, dilation=2),
    nn.ConvTranspose3d(1, 2, 2),
    nn.CosineSimilarity(0, 1e-6),
    nn.Dropout(0.1, inplace=True),
    nn.Dropout1d(0.2),
    nn.Dropout2d(0.3),
    nn.Dropout3d(0.4),
    nn.ELU(0.5, inplace=True),
    nn.Embedding(7, 3, padding_idx=2, max_norm=1.5, norm_type=1.0, scale_grad_by_freq=True),
    nn.EmbeddingBag(5, 2, mode="sum", include_last_offset=True),
    nn.FeatureAlphaDropout(0.2),
    nn.Flatten(0, 2),
    nn.Fold((4, 5), 2, padding=1),
    nn.GELU("tanh"),
    nn.GLU(1),
    nn.GRU(3, 4, 2, bias=False, batch_first=True, dropout=0.2, bidirectional=True),
    nn.GRUCell(3, 4, bias=False),
    nn.GroupNorm(2, 6, 1e-4, affine=False),
    nn.Hardshrink(0.3),
    nn.Hardsigmoid(),
    nn.Hardswish(inplace=True),
    nn.Hardtanh(-2.0, 3.0),
    nn.Identity(),
    nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
    nn.InstanceNorm2d(3),
    nn.InstanceNorm3d(4, eps=1e-2),
    nn.LPPool1d(2.0, 3, 2),
    nn.LPPool2d(1.5, (2, 3), ceil_mode=True),
    nn.LPPool3d(2, 2),
    nn.LSTM(3, 4, 2, proj_size=2),
    nn.LSTMCell(2, 3),
    nn.LayerNorm((3, 4), 1e-4, bias=False),
    nn.LeakyReLU(0.3, inplace=True),
    nn.Linear(3, 4, bias=False),
    nn.LocalResponseNorm(3, 1e-3, 0.5, 2.0),
    nn.LogSigmoid(),
    nn.LogSoftmax(1),
    nn.MaxPool1d(3, 2, 1, 2, True, True),
    nn.MaxPool2d((2, 3), (1, 2)),
    nn.MaxPool3d(2, ceil_mode=True),
    nn.MaxUnpool1d(2),
    nn.MaxUnpool2d((2, 3), 2, 1),
    nn.MaxUnpool3d(2),
    nn.Mish(inplace=True),
    nn.MultiheadAttention(
        8, 2, 0.1, bias=False, add_bias_kv=True, add_zero_attn=True, kdim=4, vdim=6, batch_first=True
    ),
    nn.PReLU(3),
    nn.PairwiseDistance(1.0, 1e-3, keepdim=True),
    nn.PixelShuffle(2),
    nn.PixelUnshuffle(3),
    nn.RMSNorm((4, 2), 1e-3, elementwise_affine=False),
    nn.RNN(3, 4, nonlinearity="relu"),
    nn.RNNCell(2, 3, nonlinearity="relu"),
    nn.RReLU(0.1, 0.2),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.ReflectionPad1d(1),
    nn.ReflectionPad2d((1, 2, 0, 1)),
    nn.ReflectionPad3d(1),
    nn.ReplicationPad1d((0, 2)),
    nn.ReplicationPad2d(1),
    nn.ReplicationPad3d(2),
    nn.SELU(),
    nn.SiLU(inplace=True),
    nn.Sigmoid(),
    nn.Softmax(-1),
    nn.Softmax2d(),
    nn.Softmin(0),
    nn.Softplus(2.0, 10.0),
    nn.Softshrink(0.2),
    nn.Softsign(),
    nn.Tanh(),
    nn.Tanhshrink(),
    nn.Threshold(0.5, 1.0, inplace=True),
    nn.Transformer(
        custom_encoder=nn.TransformerEncoder(ENCODER, 1, enable_nested_tensor=False),
        d_model=8,
        nhead=2,
        custom_decoder=nn.TransformerDecoder(DECODER, 1),
    ),
    nn.TransformerDecoder(DECODER, 2, nn.LayerNorm(8)),
    nn.TransformerDecoderLayer(8, 4, 10, 0.1, nn.SiLU()),
    nn.TransformerEncoder(ENCODER, 2, enable_nested_tensor=False),
    ENCODER,
    nn.Unflatten(1, (2, -1)),
    nn.Unfold((2, 3), stride=2),
    nn.Upsample(scale_factor=(2.0, 1.5), mode="bilinear", align_corners=True),
    nn.UpsamplingBilinear2d((4, 5)),
    nn.UpsamplingNearest2d(scale_factor=2),
    nn.ZeroPad1d(1),
    nn.ZeroPad2d((1, 2, 3, 4)),
    nn.ZeroPad3d(2),
)


@pytest.mark.parametrize("module", INSTANCES, ids=lambda module: type(module).__name__)
def test_a_module_comes_back_with_its_arguments(module: nn.Module) -> None:
    again = build(json.loads(json.dumps(describe(module))))
    assert type(again) is type(module)
    assert repr(again) == repr(module)
    shapes = {name: (tensor.shape, tensor.dtype) for name, tensor in module.state_dict().items()}
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in again.state_dict().items()} == shapes
    assert describe(again) == describe(module)
    assert all(tensor.is_meta for tensor in again.state_dict().values())


def test_every_class_that_a_file_may_name_is_tried() -> None:
    assert {type(module) for module in INSTANCES} == set(CLASSES.values())


class WithDefaults(nn.Conv2d):
    """A convolution that only makes its making shorter."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, padding=1)


class Standardized(nn.Conv2d):
    """A convolution that computes something else."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight - self.weight.mean())


def test_a_subclass_that_computes_what_its_base_does_is_the_base() -> None:
    assert type(build(describe(WithDefaults(4)))) is nn.Conv2d


def test_a_subclass_that_computes_something_else_is_refused() -> None:
    module = Standardized(2, 2, 3)
    assert not is_known(module)
    with pytest.raises(ExportError, match="Standardized"):
        describe(module)


def test_a_module_whose_weight_is_computed_is_refused() -> None:
    module = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    with pytest.raises(ExportError, match="ParametrizedLinear"):
        describe(module)


def test_an_activation_of_somebody_else_is_refused() -> None:
    with pytest.raises(ExportError, match="function"):
        describe(nn.TransformerEncoderLayer(8, 2, activation=F.silu))


def test_layers_without_number_are_refused_before_they_are_built() -> None:
    data = describe(nn.GRU(1, 1))
    data["args"]["num_layers"] = 10**9
    with pytest.raises(ExportError, match="may have 1000 layers"):
        build(data)


def test_a_module_inside_a_module_without_end_is_refused() -> None:
    data = describe(nn.TransformerEncoder(ENCODER, 1, enable_nested_tensor=False))
    for _ in range(50):
        data = {**data, "args": {**data["args"], "norm": {"module": data}}}
    with pytest.raises(ExportError):
        build(data)
