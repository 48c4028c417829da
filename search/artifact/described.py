"""Makes ``baseline.json`` and ``execution.json`` of an export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from search.artifact.baseline import BASELINE, baseline_or_reason
from search.artifact.execution import execution_rows, gates
from search.formats.written import Formats
from search.latency.bench import Row, bench, best_of, layer_gains
from spaces.errors import PleachError


def described(
    folder: Path,
    network: nn.Module,
    original: nn.Module | None,
    inputs: tuple[Tensor, ...],
    made: Formats,
    *,
    seconds: float,
) -> dict[str, Any]:
    """What really runs, and how fast; leaves the baseline's graph in the folder.

    Args:
        folder: Of the export.
        network: The finalized one.
        original: Before compression, or None.
        inputs: Both run on them.
        made: The formats that were written.
        seconds: Of timing per runtime and batch; 0 times nothing.

    Returns:
        The contents of ``execution.json``, and under ``timings`` what `bench` gave.
    """
    found: dict[str, Any] = {"schema": 1}
    gains: dict[str, dict[str, dict[str, float]]] = {}
    csr: Mapping[str, Mapping[int, float]] = {}
    if original is not None:
        text, reason = baseline_or_reason(original, inputs)
        if text is not None:
            (folder / BASELINE).write_text(text, encoding="utf-8")
        else:
            found["without_baseline"] = reason
    if original is not None and seconds > 0:
        onnx = {name: data for name, data in made.contents.items() if name.endswith(".onnx")}
        try:
            timings = bench(original, network, inputs, files=onnx or None, seconds=seconds)
            gains = layer_gains(original, network, inputs)
        except PleachError as error:
            found["not_timed"] = str(error)
        else:
            found["timings"], csr = timings.to_dict(), timings.csr
            found["recommended"] = _recommended(timings.rows)
    return found | gates(network) | {"layers": execution_rows(network, original, gains, csr)}


def _recommended(rows: tuple[Row, ...]) -> dict[str, str]:
    """The fastest ONNX file per batch: int8 only where it was measured to be."""
    batches = sorted({row.batch for row in rows})
    best = {batch: best_of(rows, "onnxruntime", batch) for batch in batches}
    return {str(batch): row.what for batch, row in best.items() if row is not None}
