"""`pleach bench`: an exported network against what it was made from, timed on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from objectives.loading import load_task
from objectives.task import Task
from search.artifact.baseline import BASELINE, read_baseline
from search.artifact.manifest import read_manifest, verified
from search.artifact.network import ARCHITECTURE, WEIGHTS, assembled, parsed
from search.formats.written import INT8, ONNX
from search.latency.bench import BATCHES, RUNTIMES, bench, layer_gains
from search.latency.runtimes import RUNTIMES as KNOWN
from search.latency.runtimes import default_runtime
from search.latency.setting import RuntimeName
from search.machine import hardware
from search.study import Study
from spaces.errors import ExportError, StudyFileError
from spaces.policy import nearest

EXECUTION = "execution.json"
_LARGEST = 32 * 2**20


def bench_export(
    folder: Path,
    *,
    batches: Sequence[int] = BATCHES,
    threads: int = 1,
    runtimes: Sequence[str] = RUNTIMES,
    seconds: float = 2.0,
    layers: bool = True,
    device: str = "cpu",
    task: Task | None = None,
) -> dict[str, Any]:
    """Time an export against its baseline.

    Args:
        folder: The export; checked against its manifest first.
        batches: Batch sizes.
        threads: Threads of a call.
        runtimes: ``onnxruntime``, ``eager``, ``compile``.
        seconds: Per runtime and batch.
        layers: Whether layers are timed alone as well.
        device: ``cpu`` or ``cuda``.
        task: Gives the baseline and the network's class where the export has no graph of them.

    Raises:
        ExportError: If the folder is no whole export, or the baseline is not to be had.
        StudyFileError: If a runtime is unknown.
    """
    for runtime in runtimes:
        if runtime not in KNOWN:
            raise StudyFileError(f"there is no runtime {runtime!r}: {nearest(runtime, KNOWN)}")
    named = cast(Sequence[RuntimeName], runtimes)
    manifest = read_manifest(folder)
    wanted = [name for name in (BASELINE, EXECUTION, ONNX, INT8) if name in manifest.files]
    contents = verified(folder, manifest, (ARCHITECTURE, WEIGHTS, *wanted))
    network = assembled(
        contents[ARCHITECTURE], contents[WEIGHTS], task.network() if task is not None and manifest.rebuild else None
    )
    baseline, inputs = _baseline(contents, task)
    onnx = {name: contents[name] for name in (ONNX, INT8) if name in contents}
    found = bench(
        baseline,
        network,
        inputs,
        files=onnx or None,
        batches=batches,
        threads=threads,
        runtimes=named,
        seconds=seconds,
        device=device,
    )
    runtime = named[0] if named and named[0] != "compile" else default_runtime()
    gains = layer_gains(baseline, network, inputs, batches=batches, threads=threads, runtime=runtime) if layers else {}
    return {
        "folder": str(folder),
        "hardware": hardware(),
        "threads": threads,
        **found.to_dict(),
        "layers": [{**row, "gain": gains.get(row["layer"], {})} for row in _layers(contents)],
        "layers_runtime": runtime,
    }


def _baseline(contents: dict[str, bytes], task: Task | None) -> tuple[nn.Module, tuple[Any, ...]]:
    if BASELINE in contents:
        return read_baseline(contents[BASELINE])
    if task is None:
        raise ExportError(
            f"this export has no {BASELINE}, so nothing is known of the network before: name its study with --study"
        )
    return task.network().eval(), task.example_inputs()


def _layers(contents: dict[str, bytes]) -> list[dict[str, Any]]:
    """What the export says of its layers; an older one may say nothing."""
    rows = parsed(contents[EXECUTION], EXECUTION, _LARGEST).get("layers", []) if EXECUTION in contents else []
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise ExportError(f"{EXECUTION} must hold a list of layers, but does not: export it again")
    return rows


def _is_row(row: object) -> bool:
    """Whether it has what the table of layers shows, and nothing that moves a terminal's cursor."""
    if not isinstance(row, dict) or not isinstance(row.get("runs"), list) or not isinstance(row.get("simulated"), list):
        return False
    return all(
        isinstance(text, str) and text.isprintable() for text in (row.get("layer"), *row["runs"], *row["simulated"])
    )


def task_of(study: Study) -> Task:
    """The task of a study.

    Raises:
        TaskError: If it cannot be loaded.
    """
    reference = study.file.task_reference
    return load_task(reference.target, reference.args, reference.source)
