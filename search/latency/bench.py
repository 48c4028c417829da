"""An artefact against its baseline, in turn on the same machine: how much faster, and what share of what was promised.

Efficiency is the measured speed-up by the ratio of multiply-accumulates: 1 where every operation saved is time saved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from objectives.cost import count_macs
from search.formats.csr import csr_gains, faster_at, with_csr
from search.formats.onnx_file import Session, to_onnx
from search.latency.clock import WARM_UP, Call, paired
from search.latency.layers import layer_call, layer_cases
from search.latency.runtimes import ready, threads_of_torch, unavailable
from search.latency.setting import RuntimeName, Setting
from spaces.errors import ExportError, NetworkError

BATCHES = (1, 64)
#: torch.compile takes a minute a batch to compile on a CPU, so it is timed where it is asked for.
RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "eager")
#: The network as PyTorch runs it once linear layers skip their zeros.
CSR = "model.safetensors with csr layers"
#: Seconds for which one layer is timed beside its baseline.
LAYER_SECONDS = 0.03


@dataclass(frozen=True)
class Row:
    """One artefact on one runtime with one batch.

    Args:
        what: The file that runs.
        runtime: On what.
        batch: Samples per call.
        threads: Threads of a call.
        baseline_ms: The baseline's median beside it.
        p50_ms: Its own.
        p95_ms: Its own 95th percentile.
        speedup: Median over the rounds of the baseline's time by its own; of one thread's work, not of its waiting.
        efficiency: The speed-up by the ratio of multiply-accumulates.
        repeats: Counted rounds.
    """

    what: str
    runtime: str
    batch: int
    threads: int
    baseline_ms: float
    p50_ms: float
    p95_ms: float
    speedup: float
    efficiency: float
    repeats: int

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        return asdict(self)


@dataclass(frozen=True)
class Bench:
    """What was measured, and what was not, with the reason.

    Args:
        rows: The measurements.
        skipped: Runtime or file, and why.
        macs: Multiply-accumulates per sample, ``baseline`` and ``compressed``.
        csr: Per linear layer and batch, how many times as fast it is where PyTorch skips its zeros; only where it is.
    """

    rows: tuple[Row, ...]
    skipped: Mapping[str, str]
    macs: Mapping[str, int]
    csr: Mapping[str, Mapping[int, float]]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form."""
        rows = [row.to_dict() for row in self.rows]
        csr = {layer: {str(batch): gain for batch, gain in gains.items()} for layer, gains in self.csr.items()}
        return {"rows": rows, "skipped": dict(self.skipped), "macs": dict(self.macs), "csr": csr, "warm_up": WARM_UP}


def bench(
    baseline: nn.Module,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    files: Mapping[str, bytes] | None = None,
    batches: Sequence[int] = BATCHES,
    threads: int = 1,
    runtimes: Sequence[RuntimeName] = RUNTIMES,
    seconds: float = 1.0,
    device: str = "cpu",
) -> Bench:
    """Time a network beside the one that it was made from.

    Args:
        baseline: Before compression; its weights may be any.
        network: After it.
        inputs: Both run on them; dimension 0 is repeated or cut to each batch.
        files: ONNX files of the network by name; left out, it is exported here.
        batches: Batch sizes.
        threads: Threads of a call.
        runtimes: On what.
        seconds: Per runtime and batch, both networks together.
        device: ``cpu`` or ``cuda``.
    """
    macs = _macs(baseline, network, inputs)
    promised = macs["baseline"] / macs["compressed"] if macs.get("compressed") else 1.0
    rows, skipped = list[Row](), dict[str, str]()
    csr = csr_gains(network, inputs, batches, threads=threads) if "eager" in runtimes and device == "cpu" else {}
    for runtime in runtimes:
        reason = unavailable(runtime, device)
        if reason:
            skipped[runtime] = reason
            continue
        forms = _forms(baseline, network, inputs, runtime, files, skipped)
        for batch in batches:
            setting = Setting(batch, threads, runtime, device)
            calls: dict[str, Call] = {}
            skipping = faster_at(csr, batch) if runtime == "eager" else ()
            more = {CSR: (with_csr(network, skipping), None)} if skipping else {}
            for what, (module, data) in (forms | more).items():
                try:
                    calls[what] = ready(module, inputs, setting, onnx=data)
                except ExportError as error:
                    skipped[f"{what} on {setting}"] = str(error)
            if "baseline" not in calls:
                continue
            with threads_of_torch(threads):
                timings = dict(
                    zip(
                        calls,
                        paired(list(calls.values()), seconds=seconds, device=device, threads=threads),
                        strict=True,
                    )
                )
            before = timings.pop("baseline")
            rows += [
                Row(
                    what, runtime, batch, threads, before.p50_ms, t.p50_ms, t.p95_ms, t.speedup,
                    t.speedup / promised, t.repeats,
                )
                for what, t in timings.items()
            ]  # fmt: skip
    return Bench(tuple(rows), skipped, macs, csr)


def layer_gains(
    baseline: nn.Module,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    batches: Sequence[int] = BATCHES,
    threads: int = 1,
    runtime: RuntimeName = "onnxruntime",
) -> dict[str, dict[str, dict[str, float]]]:
    """How much faster each layer alone is than it was: ``{layer: {batch: {baseline_ms, ms, speedup}}}``.

    Layers that have not changed are not timed: their gain is 1. Each runs with its own changes of memory layout, which
    a whole network may spare, so the sum of the layers is no measurement of the whole.
    """
    before, after = layer_cases(baseline, inputs), layer_cases(network, inputs)
    found: dict[str, dict[str, dict[str, float]]] = {}
    if unavailable(runtime):
        return found
    for name in after:
        if name not in before or before[name] == after[name]:
            continue
        for batch in batches:
            setting = Setting(batch, threads, runtime)
            try:
                calls = [layer_call(case, setting) for case in (before[name], after[name])]
                timed = [call for call in calls if call is not None]
                if len(timed) < 2:
                    continue
                with threads_of_torch(threads):
                    first, second = paired(timed, seconds=LAYER_SECONDS, threads=threads, least=7)
            except (ExportError, RuntimeError, ValueError, TypeError):
                continue  # a layer that does not run alone has no gain of its own
            row = {"baseline_ms": first.busy_ms, "ms": second.busy_ms, "speedup": second.speedup}
            found.setdefault(name, {})[str(batch)] = row
    return found


def best_of(rows: Sequence[Row], runtime: str, batch: int) -> Row | None:
    """The fastest file of a runtime at a batch."""
    return min((r for r in rows if r.runtime == runtime and r.batch == batch), key=lambda r: -r.speedup, default=None)


def _forms(
    baseline: nn.Module,
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    runtime: RuntimeName,
    files: Mapping[str, bytes] | None,
    skipped: dict[str, str],
) -> dict[str, tuple[nn.Module, bytes | None]]:
    """What runs, by name, the baseline first; nothing where the runtime cannot take them."""
    if runtime != "onnxruntime":
        return {"baseline": (baseline, None), "model.safetensors": (network, None)}
    try:
        forms: dict[str, tuple[nn.Module, bytes | None]] = {"baseline": (baseline, to_onnx(baseline, inputs))}
        held = dict(files) if files else {"model.onnx": to_onnx(network, inputs)}
        for data in held.values():
            Session(data)
    except ExportError as error:
        skipped["onnxruntime"] = str(error)
        return {}
    return forms | {name: (network, data) for name, data in held.items()}


def _macs(baseline: nn.Module, network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    try:
        with torch.no_grad():
            return {
                "baseline": sum(count_macs(baseline, inputs).values()),
                "compressed": sum(count_macs(network, inputs).values()),
            }
    except NetworkError:
        return {}
