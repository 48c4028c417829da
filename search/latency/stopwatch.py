"""The objectives that need a clock: `latency_ms` and `throughput`, estimated while a trial trains, measured at its end.

A finished network is timed in turn with the baseline, alone on the machine, and its figure is the baseline's times the
ratio of the two: what slows the machine for an hour slows both, and the trials of a study stay comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from objectives.cache import write_whole
from search.formats.onnx_file import to_onnx
from search.formats.written import INT8
from search.latency.clock import Call, Timing, paired
from search.latency.runtimes import ready, threads_of_torch
from search.latency.setting import Setting
from search.latency.slot import Slot
from search.latency.table import Estimate, LayerTable
from spaces.errors import StorageError

#: Seconds for which a finished network is timed beside its baseline.
SECONDS = 1.0
#: And while its trial goes on.
GLANCE = 0.2
LATENCY, THROUGHPUT = "latency_ms", "throughput"
TIMED = (LATENCY, THROUGHPUT)


@dataclass(frozen=True)
class Clocked:
    """What a study times; it travels to the workers.

    Args:
        settings: How, for each of `latency_ms` and `throughput` that the study mentions.
        folder: In the home: the tables of layers and the files of the slot.
        onnx: Where the baseline's ONNX form is kept once it is made.
    """

    settings: Mapping[str, Setting]
    folder: Path | None = None
    onnx: Path | None = None

    def stopwatch(self, baseline: nn.Module, inputs: tuple[Tensor, ...]) -> Stopwatch:
        """A stopwatch for networks made from this one."""
        return Stopwatch(self, baseline, inputs)


@dataclass
class Stopwatch:
    """Times networks against one baseline.

    Args:
        clocked: What and how.
        baseline: In evaluation mode, on the CPU.
        inputs: Example inputs.
    """

    clocked: Clocked
    baseline: nn.Module
    inputs: tuple[Tensor, ...]
    _calls: dict[Setting, Call] = field(default_factory=dict)
    _estimates: dict[Setting, Estimate] = field(default_factory=dict)

    def __post_init__(self) -> None:
        folder = self.clocked.folder
        self._slot = Slot(folder / "slot") if folder is not None else None

    @property
    def runs_onnx(self) -> bool:
        """Whether anything is timed on onnxruntime."""
        return any(setting.runtime == "onnxruntime" for setting in self.clocked.settings.values())

    def measure_baseline(self) -> dict[str, float]:
        """The objectives of the baseline itself."""
        found = {}
        for name, setting in self.clocked.settings.items():
            with self._alone(), threads_of_torch(setting.threads):
                timing = paired(
                    [self._baseline_call(setting)], seconds=SECONDS, device=setting.device, threads=setting.threads
                )[0]
            found[name] = _objective(name, timing.busy_ms, setting)
        return found

    def measure(
        self,
        network: nn.Module,
        known: Mapping[str, float],
        forms: Callable[[], Mapping[str, bytes]] | None = None,
        seconds: float = SECONDS,
    ) -> dict[str, float]:
        """The objectives of a finished network and, under MLflow names, how they came about.

        Args:
            network: In evaluation mode, on the CPU.
            known: The baseline's objectives as measured when the study began; without them it is measured now.
            forms: Makes the network's ONNX files, where it has several: onnxruntime runs each, and the fastest counts.
            seconds: For which it is timed.

        Raises:
            ExportError: If the network does not run on the runtime.
        """
        found: dict[str, float] = {}
        timings: dict[Setting, tuple[Timing, Timing, str]] = {}
        for name, setting in self.clocked.settings.items():
            if setting not in timings:
                calls = self._calls_of(network, setting, forms)
                before = self._baseline_call(setting)
                with self._alone(), threads_of_torch(setting.threads):
                    first, *others = paired(
                        [before, *calls.values()], seconds=seconds, device=setting.device, threads=setting.threads
                    )
                second, file = max(zip(others, calls, strict=True), key=lambda pair: pair[0].speedup)
                timings[setting] = first, second, file
            first, second, file = timings[setting]
            before_ms = _ms(name, known[name], setting) if name in known else first.busy_ms
            found[name] = _objective(name, before_ms / second.speedup, setting)
            if name == LATENCY:
                found |= {
                    "latency/speedup": second.speedup,
                    "latency/clock_p50_ms": second.p50_ms,
                    "latency/clock_p95_ms": second.p95_ms,
                    "latency/baseline_now_ms": first.busy_ms,
                }
                if forms is not None:
                    found["latency/int8"] = float(file == INT8)
        return found

    def estimate(self, network: nn.Module, known: Mapping[str, float]) -> dict[str, float]:
        """The objectives by the table of layers: within a quarter, in milliseconds of work."""
        found = {}
        for name, setting in self.clocked.settings.items():
            if name in known:
                if setting not in self._estimates:
                    table = LayerTable(setting, self.clocked.folder)
                    self._estimates[setting] = Estimate(
                        table, self.baseline, self.inputs, _ms(name, known[name], setting)
                    )
                found[name] = _objective(name, self._estimates[setting].ms(network), setting)
        return found

    # -- one clock per machine ------------------------------------------------------------------------------------

    def give_way(self) -> None:
        """Between two steps of training: let those go first who wait to measure."""
        if self._slot is not None:
            self._slot.give_way()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Training and evaluation; they wait while another trial is timed."""
        if self._slot is None:
            yield
            return
        self._slot.enter()
        try:
            yield
        finally:
            self._slot.leave()

    def close(self) -> None:
        """Nothing is timed any more."""
        if self._slot is not None:
            self._slot.close()
            self._slot = None

    def _alone(self) -> AbstractContextManager[None]:
        return self._slot.alone() if self._slot is not None else nullcontext()

    def _calls_of(
        self, network: nn.Module, setting: Setting, forms: Callable[[], Mapping[str, bytes]] | None
    ) -> dict[str, Call]:
        """What runs of a network on a runtime, by the name of its file."""
        if forms is None or setting.runtime != "onnxruntime":
            return {"": ready(network, self.inputs, setting)}
        return {name: ready(network, self.inputs, setting, onnx=data) for name, data in forms().items()}

    def _baseline_call(self, setting: Setting) -> Call:
        if setting not in self._calls:
            onnx = self._baseline_onnx() if setting.runtime == "onnxruntime" else None
            self._calls[setting] = ready(self.baseline, self.inputs, setting, onnx=onnx)
        return self._calls[setting]

    def _baseline_onnx(self) -> bytes:
        """Made once per task: it takes seconds."""
        kept = self.clocked.onnx
        if kept is not None and kept.is_file():
            with suppress(OSError):
                return kept.read_bytes()
        data = to_onnx(self.baseline, self.inputs)
        if kept is not None:
            with suppress(StorageError):
                write_whole(kept, lambda path: path.write_bytes(data))
        return data


def _objective(name: str, ms: float, setting: Setting) -> float:
    return ms if name == LATENCY else 1e3 * setting.batch / ms


def _ms(name: str, value: float, setting: Setting) -> float:
    return value if name == LATENCY else 1e3 * setting.batch / value
