"""A network as an ONNX file with a batch of any size, and running one in onnxruntime.

ONNX, onnxscript and onnxruntime come with the extra ``onnx``; they are loaded when they are needed, which takes
half a second that a trial without them must not pay.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from objectives.mode import evaluating
from search.formats.lowered import lowered
from search.formats.simplify import simplified
from search.surgery.graph import trace
from spaces.errors import ExportError, TraceError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
#: The newest that onnxruntime's optimizations all know.
OPSET = 20
#: What the bytes of a model hold that names another file.
_OUTSIDE = b"location"


def missing() -> str:
    """What to install, where ONNX cannot be written or run here; "" where it can."""
    absent = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    return f"{', '.join(absent)} must be installed, but is not: pip install 'pleach[onnx]'" if absent else ""


def to_onnx(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """The network in evaluation mode as an ONNX model.

    Args:
        network: On the CPU.
        inputs: ``network(*inputs)`` runs; dimension 0 of each is the batch, which stays open.

    Raises:
        ExportError: If a package is missing, or the network uses what ONNX does not have.
    """
    lacking = missing()
    if lacking:
        raise ExportError(lacking)
    network = _ready(network, inputs)
    try:
        return _exported(network, inputs, [{0: torch.export.Dim("batch")} if x.dim() else None for x in inputs])
    except ExportError:
        # A network that computes with its batch size can still be exported for the size at hand.
        return _exported(network, inputs, None)


def _ready(network: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The network as the exporter gets it: traced and simplified where it can be traced."""
    network = lowered(network)
    try:
        return simplified(network if isinstance(network, fx.GraphModule) else trace(network, inputs), inputs)
    except TraceError:
        return network


def _exported(network: nn.Module, inputs: tuple[Tensor, ...], shapes: list[Any] | None) -> bytes:
    with evaluating(network), quiet():
        try:
            program = torch.onnx.export(
                network,
                inputs,
                dynamo=True,
                dynamic_shapes=tuple(shapes) if shapes is not None else None,
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
        # The exporter runs the network under a tracer and a compiler, each with errors of its own.
        except Exception as error:
            raise ExportError(f"the network cannot be written as ONNX ({_root(error)})") from error
    if program is None:
        raise ExportError("the network cannot be written as ONNX: the exporter gave nothing")
    return bytes(program.model_proto.SerializeToString())


def _root(error: BaseException) -> str:
    """The first line of what went wrong first: the exporter wraps it in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


class Session:
    """An ONNX model in onnxruntime on the CPU.

    Args:
        data: The model: a file's contents.
        threads: Threads of one run.
        optimized: False switches every graph optimization off.

    Raises:
        ExportError: If it cannot be read, or has weights in other files: a model's bytes are all that is looked at.
    """

    def __init__(self, data: bytes, threads: int = 1, *, optimized: bool = True) -> None:
        if _OUTSIDE in data and _fetches(data):
            raise ExportError("the ONNX model cannot be run (it has weights in other files): do not trust it")
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            self._session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        # onnxruntime's errors share no class.
        except Exception as error:
            raise ExportError(f"the ONNX model cannot be run ({' '.join(str(error).split())})") from error
        self.inputs: tuple[str, ...] = tuple(each.name for each in self._session.get_inputs())
        self.shapes: tuple[tuple[object, ...], ...] = tuple(tuple(each.shape) for each in self._session.get_inputs())

    @property
    def batch(self) -> int | None:
        """The one batch size that it takes, or None where it takes any."""
        size = self.shapes[0][0] if self.shapes and self.shapes[0] else None
        return size if isinstance(size, int) else None

    def feed(self, inputs: Sequence[Tensor] | Mapping[str, Tensor]) -> dict[str, np.ndarray]:
        """Inputs by name, as onnxruntime takes them; a mapping's keys are used where they are the names."""
        if isinstance(inputs, Mapping) and set(self.inputs) <= set(inputs):
            return {name: inputs[name].detach().cpu().numpy() for name in self.inputs}
        values = list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)
        if len(values) < len(self.inputs):
            raise ExportError(f"the ONNX model takes {len(self.inputs)} inputs, but got {len(values)}: pass them all")
        return {name: x.detach().cpu().contiguous().numpy() for name, x in zip(self.inputs, values, strict=False)}

    def run(self, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """All outputs."""
        return list(self._session.run(None, dict(feed)))

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """All outputs as tensors."""
        return [torch.from_numpy(np.ascontiguousarray(each)) for each in self.run(self.feed(inputs))]


def _fetches(data: bytes) -> bool:
    """Whether a model names other files; also one that cannot be parsed here may."""
    onnx = importlib.import_module("onnx")
    try:
        waiting = [onnx.load_model_from_string(data)]
    # protobuf's errors share no class with onnx's.
    except Exception:
        return True
    while waiting:
        message = waiting.pop()
        if isinstance(message, onnx.TensorProto):
            if message.data_location == onnx.TensorProto.EXTERNAL or message.external_data:
                return True
            continue
        for field, value in message.ListFields():
            if field.message_type is not None:
                waiting += [value] if hasattr(value, "ListFields") else list(value)
    return False


@contextmanager
def quiet() -> Iterator[None]:
    """The exporter speaks of packages that nobody asked for; what matters is raised."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    before = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for each, level in zip(loggers, before, strict=True):
                each.setLevel(level)
