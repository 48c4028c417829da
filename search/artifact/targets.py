"""What a stored graph may call: one literal list. Nothing else is looked up, whatever a file names.

Left out on purpose: everything that reads or writes files, changes global state, calls back, gives out memory that
nobody wrote, or reaches from a tensor to Python objects.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F

from search.artifact.names import shown
from spaces.errors import ExportError

#: Functions of a tensor that exist both as ``torch.name`` and as a method.
_BOTH = """
    abs absolute acos acosh add addbmm addcdiv addcmul addmm addmv addr adjoint all amax amin aminmax angle any
    arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort argwhere asin asinh atan atan2 atanh
    baddbmm bernoulli bincount bitwise_and bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor
    bmm broadcast_to ceil chunk clamp clamp_max clamp_min clip clone conj copysign cos cosh count_nonzero cross
    cummax cummin cumprod cumsum deg2rad det detach diag diag_embed diagflat diagonal diff digamma div divide dot
    dsplit eq equal erf erfc erfinv exp exp2 expm1 fix flatten flip fliplr flipud float_power floor floor_divide
    fmax fmin fmod frac gather ge ger greater greater_equal gt hardshrink heaviside histc hsplit hypot i0 index_add
    index_copy index_fill index_put index_select inner inverse isclose is_complex is_floating_point isfinite isinf
    isnan isneginf isposinf isreal kron kthvalue ldexp le lerp less less_equal lgamma log log10 log1p log2
    log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not logical_or logical_xor logit
    logsumexp lt masked_fill masked_scatter masked_select matmul matrix_exp matrix_power max maximum mean median min
    minimum mm mode moveaxis movedim msort mul multinomial multiply mv nan_to_num nanmean nanmedian nanquantile
    nansum narrow ne neg negative nonzero norm not_equal numel outer permute pinverse polygamma positive pow prelu
    prod quantile rad2deg ravel reciprocal relu remainder renorm repeat_interleave reshape roll rot90 round rsqrt
    scatter scatter_add scatter_reduce select select_scatter sgn sigmoid sign signbit sin sinc sinh slice_scatter
    slogdet softmax sort split split_with_sizes sqrt square squeeze std sub subtract sum svd swapaxes swapdims t
    take take_along_dim tan tanh tensor_split tile topk trace transpose tril triu true_divide trunc unbind unflatten
    unique unique_consecutive unsqueeze var vdot vsplit where xlogy
"""
_METHODS_ONLY = """
    bfloat16 bool byte char contiguous cpu cuda dim double expand expand_as float half int item long ndimension
    nelement new_full new_ones new_zeros repeat reshape_as short size stride sum_to_size to tolist type_as unfold
    view view_as abs_ add_ bernoulli_ ceil_ clamp_ clamp_max_ clamp_min_ copy_ cos_ div_ erf_ exp_ fill_ floor_
    index_add_ index_copy_ index_fill_ log_ masked_fill_ masked_scatter_ mul_ neg_ normal_ pow_ reciprocal_ relu_
    round_ rsqrt_ scatter_ scatter_add_ sigmoid_ sign_ sin_ sqrt_ squeeze_ sub_ t_ tanh_ transpose_ tril_ triu_
    uniform_ unsqueeze_ zero_
"""
_TORCH_ONLY = """
    _assert adaptive_avg_pool1d adaptive_max_pool1d arange as_tensor atleast_1d atleast_2d atleast_3d avg_pool1d
    batch_norm bilinear block_diag broadcast_tensors bucketize cartesian_prod cat cdist celu channel_shuffle
    column_stack combinations complex concat concatenate constant_pad_nd conv1d conv2d conv3d conv_transpose1d
    conv_transpose2d conv_transpose3d convolution cosine_similarity cumulative_trapezoid dropout dstack einsum
    embedding eye feature_dropout full full_like group_norm gru hstack imag instance_norm isin layer_norm linspace
    logspace lstm max_pool1d max_pool1d_with_indices max_pool2d max_pool3d meshgrid native_channel_shuffle
    native_group_norm native_layer_norm normal ones ones_like pairwise_distance pixel_shuffle pixel_unshuffle polar
    rand rand_like randint randn randn_like randperm real rms_norm rnn_relu rnn_tanh row_stack rrelu rsub
    searchsorted selu stack std_mean tensor tensordot threshold tril_indices triu_indices vander var_mean
    view_as_complex view_as_real vstack zeros zeros_like
"""
_FUNCTIONAL = """
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d adaptive_max_pool1d_with_indices adaptive_max_pool2d_with_indices
    adaptive_max_pool3d_with_indices affine_grid alpha_dropout avg_pool1d avg_pool2d avg_pool3d batch_norm bilinear
    celu celu_ channel_shuffle conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d
    cosine_similarity dropout dropout1d dropout2d dropout3d elu elu_ embedding embedding_bag feature_alpha_dropout
    fold gelu glu grid_sample group_norm gumbel_softmax hardshrink hardsigmoid hardswish hardtanh hardtanh_
    instance_norm interpolate layer_norm leaky_relu leaky_relu_ linear local_response_norm log_softmax logsigmoid
    lp_pool1d lp_pool2d lp_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices
    max_pool3d_with_indices max_unpool1d max_unpool2d max_unpool3d mish multi_head_attention_forward normalize
    one_hot pad pairwise_distance pixel_shuffle pixel_unshuffle prelu relu relu6 relu_ rms_norm rrelu rrelu_
    scaled_dot_product_attention selu selu_ sigmoid silu softmax softmin softplus softshrink softsign tanh
    tanhshrink threshold threshold_ unfold upsample upsample_bilinear upsample_nearest
"""
_OPERATOR = """
    abs add and_ contains eq floordiv ge getitem gt iadd iand ifloordiv imod imul index inv invert ior ipow isub
    itruediv ixor le lshift lt matmul mod mul ne neg not_ or_ pos pow rshift setitem sub truediv truth xor
"""
_MATH = "ceil exp fabs floor isqrt log log10 log2 pow prod sqrt trunc"
#: Attributes that ``getattr`` may read: none of them leads on to Python objects.
ATTRIBUTES = frozenset(
    ("H", "T", "data", "device", "dtype", "imag", "is_cuda", "itemsize", "layout", "mH", "mT", "ndim", "real", "shape")
)
METHODS = frozenset((_BOTH + _METHODS_ONLY).split())


def _table() -> dict[str, Callable[..., Any]]:
    sources: tuple[tuple[str, ModuleType, str], ...] = (
        ("torch.nn.functional", F, _FUNCTIONAL),
        ("torch", torch, _BOTH + _TORCH_ONLY),
        ("operator", operator, _OPERATOR),
        ("math", math, _MATH),
    )
    table = {f"{prefix}.{name}": getattr(module, name) for prefix, module, names in sources for name in names.split()}
    return {**table, "getattr": getattr}


#: Every function that a graph may call, by the name under which files know it.
FUNCTIONS: Mapping[str, Callable[..., Any]] = _table()
# Several names may mean one function; files get the first. `id` because a few builtins compare equal to one another.
_NAMES: Mapping[int, str] = {id(function): name for name, function in reversed(list(FUNCTIONS.items()))}


def function_name(function: object) -> str:
    """The name of a function for a file.

    Raises:
        ExportError: If it is not on the list.
    """
    name = _NAMES.get(id(function))
    if name is None:
        where = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"
        raise ExportError(f"a stored graph may call functions of torch only, but calls {where}: put it into a module")
    return name


def function_named(name: object) -> Callable[..., Any]:
    """The function that a file means.

    Raises:
        ExportError: If it is not on the list.
    """
    if not isinstance(name, str) or name not in FUNCTIONS:
        raise ExportError(
            f"a stored graph may call functions of torch only, but names {shown(name)}: do not trust this file"
        )
    return FUNCTIONS[name]


def check_method(name: object) -> str:
    """The name of a method of tensors, as it is.

    Raises:
        ExportError: If it is not on the list.
    """
    if not isinstance(name, str) or name not in METHODS:
        raise ExportError(f"a stored graph may call these methods of tensors only, and {shown(name)} is none of them")
    return name
