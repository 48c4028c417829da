"""An ONNX network with int8 weights and activations: static, calibrated on a task's own inputs, weights per channel.

Whether it is faster depends on the device; it is written for where it is, and measured before it is recommended.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectives.task import Inputs, Task
from search.formats.onnx_file import Session
from spaces.errors import ExportError

#: Batches of the validation split that the ranges of activations are taken from.
CALIBRATION = 8
#: Samples on which the accuracy of the float and of the int8 form are compared.
SAMPLES = 2_048
PRODUCTS = ["Conv", "Gemm", "MatMul"]
#: What int8 may cost: half a point.
LOSS = 0.005


def to_int8(model: bytes, task: Task, *, everything: bool = True) -> bytes:
    """The int8 form of a float ONNX model.

    Args:
        model: The ONNX model.
        task: Its validation inputs calibrate the ranges.
        everything: Whether sums, norms and masks are rounded too, not the products of layers alone. Attention bears no
            rounded masks.

    Raises:
        ExportError: If onnxruntime cannot quantize it.
    """
    quantization = importlib.import_module("onnxruntime.quantization")
    shapes = importlib.import_module("onnxruntime.quantization.shape_inference")
    session = Session(model)
    feeds = [
        session.feed(_positional(inputs))
        for inputs, _ in itertools.islice(task.batches("validation", shuffle_seed=None), CALIBRATION)
    ]
    reader = _Reader(feeds)
    logging.getLogger().disabled = True
    try:
        with tempfile.TemporaryDirectory(prefix="pleach-int8-") as folder:
            source, shaped, target = (Path(folder) / name for name in ("float.onnx", "shaped.onnx", "int8.onnx"))
            source.write_bytes(model)
            shapes.quant_pre_process(source, shaped, skip_symbolic_shape=True)
            quantization.quantize_static(
                shaped,
                target,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                op_types_to_quantize=None if everything else PRODUCTS,
            )
            return bytes(target.read_bytes())
    # The quantizer raises whatever the graph makes it stumble over.
    except Exception as error:
        raise ExportError(f"the network cannot be written in int8 ({' '.join(str(error).split())[:200]})") from error
    finally:
        logging.getLogger().disabled = False


def scores(sessions: list[Session], task: Task, samples: int = SAMPLES) -> tuple[list[float], int]:
    """Mean validation scores of ONNX models on the same first samples, and how many these are."""
    totals, count = [0.0] * len(sessions), 0
    for inputs, targets in task.batches("validation", shuffle_seed=None):
        for index, session in enumerate(sessions):
            outputs = torch.from_numpy(np.ascontiguousarray(session.run(session.feed(_positional(inputs)))[0]))
            totals[index] += float(task.score(outputs, targets).double().sum())
        count += len(targets)
        if count >= samples:
            break
    return [total / max(1, count) for total in totals], count


def _positional(inputs: Inputs) -> Any:
    return (inputs,) if isinstance(inputs, Tensor) else inputs


class _Reader:
    """Gives calibration batches one by one, as the quantizer asks for them; it does so again after a rewind."""

    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._feeds = feeds
        self._left: Iterator[dict[str, np.ndarray]] = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next batch, or None after the last."""
        return next(self._left, None)

    def rewind(self) -> None:
        """Begin again."""
        self._left = iter(self._feeds)

    def set_range(self, start_index: int, end_index: int) -> None:
        """Only the batches of a range, for calibration in parts."""
        self._left = iter(self._feeds[start_index:end_index])

    def __len__(self) -> int:
        return len(self._feeds)
