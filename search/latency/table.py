"""How long layers take on this device, looked up: each kind and size is timed once and kept in the home.

A network's latency is estimated from the baseline's measured one: layers by the table, everything between them by the
activations that pass. It serves while a trial trains; what a finished trial is judged by is measured.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import math
import platform
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from search.home import read_json, write_json
from search.latency.clock import paired
from search.latency.layers import LayerCase, layer_call, layer_cases
from search.latency.runtimes import threads_of_torch
from search.latency.setting import Setting
from search.machine import processor
from spaces.errors import ExportError, StorageError

#: Seconds for which one layer is timed.
SECONDS = 0.02
#: Up to here the sizes of layers count in steps of four, beyond in sixteenths: what decides on blocks of vectors.
FINE = 64


class LayerTable:
    """Milliseconds of layers for one way of timing them.

    Args:
        setting: Runtime, batch and threads.
        folder: Where the table is kept; None keeps it in memory.
    """

    def __init__(self, setting: Setting, folder: Path | None = None) -> None:
        self.setting = setting
        self._file = folder / f"{_digest(setting)}.json" if folder is not None else None
        self._known: dict[str, float] = {}
        self._new = False
        if self._file is not None and self._file.is_file():
            with contextlib.suppress(StorageError):
                self._known = {k: float(v) for k, v in read_json(self._file).get("ms", {}).items()}

    def ms(self, case: LayerCase) -> float:
        """Median milliseconds of a layer; 0 for one that cannot be timed alone."""
        key = case.key
        if key not in self._known:
            self._known[key] = self._timed(case)
            self._new = True
        return self._known[key]

    def network_ms(self, network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, float]:
        """Milliseconds of every layer that has weights, by name; new kinds of layers are timed and kept."""
        found = {name: self.ms(rounded(case)) for name, case in layer_cases(network, inputs).items()}
        self.keep()
        return found

    def keep(self) -> None:
        """Write what is new; a home that cannot be written costs time later on and nothing else."""
        if self._new and self._file is not None:
            with contextlib.suppress(StorageError):
                data: dict[str, Any] = {"setting": str(self.setting), "processor": processor(), "ms": self._known}
                write_json(self._file, data, durable=False)
            self._new = False

    def _timed(self, case: LayerCase) -> float:
        try:
            with threads_of_torch(self.setting.threads):
                call = layer_call(case, self.setting)
                if call is None:
                    return 0.0
                return paired([call], seconds=SECONDS, device=self.setting.device, least=5)[0].busy_ms
        # A layer that does not run alone, e.g. for inputs that only its network makes, is no part of the estimate.
        except (ExportError, RuntimeError, ValueError, TypeError):
            return 0.0


class Estimate:
    """Latencies of networks that were made from one baseline.

    Args:
        table: Of the setting.
        baseline: The network before compression.
        inputs: Example inputs.
        measured_ms: The baseline's latency as measured as a whole.
    """

    def __init__(self, table: LayerTable, baseline: nn.Module, inputs: tuple[Tensor, ...], measured_ms: float) -> None:
        self._table, self._inputs, self._measured = table, inputs, measured_ms
        self._layers = sum(table.network_ms(baseline, inputs).values())
        self._passing = activations(baseline, inputs)

    def ms(self, network: nn.Module) -> float:
        """The estimated latency of a network, milliseconds."""
        layers = sum(self._table.network_ms(network, self._inputs).values())
        passing = activations(network, self._inputs) / self._passing if self._passing else 1.0
        if self._layers <= 0:
            return self._measured * passing
        # Alone a layer brings its inputs into place itself, so the parts may come to more than the whole.
        share = min(1.0, self._layers / self._measured)
        return self._measured * (share * layers / self._layers + (1 - share) * passing)


def rounded(case: LayerCase) -> LayerCase:
    """The case with its channels rounded up to a step, so that a table of few sizes serves every network."""
    described = case.described
    args, shape = dict(described["args"]), list(case.shape)
    groups = args.get("groups", 1)
    if described["class"].startswith("torch.nn.Conv") and groups == 1 and shape:
        args["in_channels"] = shape[0] = _up(args["in_channels"])
        args["out_channels"] = _up(args["out_channels"])
    elif described["class"] == "torch.nn.Linear" and shape:
        args["in_features"] = shape[-1] = _up(args["in_features"])
        args["out_features"] = _up(args["out_features"])
    else:
        return case
    layer = json.dumps({"class": described["class"], "args": args}, sort_keys=True)
    return LayerCase(layer, case.rows, tuple(shape), case.dtype)


def activations(network: nn.Module, inputs: tuple[Tensor, ...]) -> int:
    """Numbers that leave the layers with weights in one forward pass: what passes between them."""
    return sum(math.prod(case.shape) * case.rows for case in layer_cases(network, inputs).values())


def _up(size: int) -> int:
    if size <= 4:
        return size
    step = 4 if size <= FINE else 2 ** max(2, int(math.log2(size)) - 4)
    return -(-size // step) * step


def _digest(setting: Setting) -> str:
    """Of all that decides how long a layer takes besides the layer."""
    device = torch.cuda.get_device_name() if setting.device != "cpu" else processor()
    made_of = [device, platform.machine(), torch.__version__, str(setting)]
    if setting.runtime == "onnxruntime":
        made_of.append(importlib.metadata.version("onnxruntime"))
    return hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
