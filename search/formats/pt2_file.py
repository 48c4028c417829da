"""A network as torch.export's own archive, for whoever deploys with PyTorch: ``torch.export.load("model.pt2")``."""

from __future__ import annotations

import io

import torch
from torch import Tensor, nn

from objectives.mode import evaluating
from search.formats.lowered import lowered
from search.formats.onnx_file import quiet
from spaces.errors import ExportError


def to_pt2(network: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    """The network in evaluation mode as an archive, the batch left open where the network lets it.

    Raises:
        ExportError: If torch.export cannot capture it.
    """
    shapes = tuple({0: torch.export.Dim("batch")} if x.dim() else None for x in inputs)
    network = lowered(network)
    with evaluating(network), quiet():
        # The capture runs the network under a tracer, whose errors are of many classes.
        try:
            program = torch.export.export(network, inputs, dynamic_shapes=shapes)
        except Exception:
            try:
                program = torch.export.export(network, inputs)
            except Exception as error:
                said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
                raise ExportError(f"the network cannot be captured by torch.export ({said})") from error
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
    return buffer.getvalue()


def outputs_of_pt2(data: bytes, inputs: tuple[Tensor, ...]) -> object:
    """What an archive that was just written computes; never for one that comes from elsewhere: it may hold pickles."""
    with quiet(), torch.no_grad():
        return torch.export.load(io.BytesIO(data)).module()(*inputs)
