"""How a network is timed: on which runtime, with which batch, by how many threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

RuntimeName = Literal["onnxruntime", "eager", "compile"]
RUNTIMES: tuple[RuntimeName, ...] = get_args(RuntimeName)


@dataclass(frozen=True)
class Setting:
    """One way of timing a network.

    Args:
        batch: Samples per call, >= 1.
        threads: Threads of one call, >= 1.
        runtime: ``onnxruntime``, ``eager`` PyTorch or ``compile``, torch.compile.
        device: ``cpu`` or ``cuda``; onnxruntime is timed on the CPU.
    """

    batch: int = 1
    threads: int = 1
    runtime: RuntimeName = "onnxruntime"
    device: str = "cpu"

    def __str__(self) -> str:
        plural = "s" if self.threads > 1 else ""
        place = "" if self.device == "cpu" else f" on {self.device}"
        return f"{self.runtime}{place}, batch {self.batch}, {self.threads} thread{plural}"
