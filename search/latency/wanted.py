"""What a study file wants timed, and how: the settings of `latency_ms` and `throughput`."""

from __future__ import annotations

from objectives.loading import task_hash
from search.home import Home
from search.latency.runtimes import default_runtime, unavailable
from search.latency.setting import Setting
from search.latency.stopwatch import TIMED, Clocked
from search.study_file import StudyFile
from spaces.errors import StudyFileError


def clocked_for(file: StudyFile, home: Home | None = None) -> Clocked | None:
    """What the trials of a study time; None where neither an objective nor a constraint needs a clock.

    An objective's options say how; what they leave open, and a measure that only a constraint names, takes batch 1, the
    trial's threads and onnxruntime, or PyTorch itself where that is not installed or the trials run on CUDA.

    Args:
        file: The study.
        home: Where tables and the baseline's ONNX form are kept; None keeps nothing.

    Raises:
        StudyFileError: If a runtime is asked for that does not work here.
    """
    device = "cuda" if file.resources.gpu > 0 else "cpu"
    settings: dict[str, Setting] = {}
    for name in file.measures:
        if name not in TIMED:
            continue
        goal = file.objectives.get(name)
        named = goal.runtime if goal is not None else None
        if named is not None and (reason := unavailable(named, device)):
            raise StudyFileError(f"objectives.{name} is to be timed on {named}, but {reason}")
        settings[name] = Setting(
            goal.batch or 1 if goal is not None else 1,
            (goal.threads if goal is not None else None) or max(1, int(file.resources.cpu)),
            named or default_runtime(device),
            device,
        )
    if not settings:
        return None
    if home is None:
        return Clocked(settings)
    reference = file.task_reference
    cache = home.cache(task_hash(reference.target, reference.args, reference.source))
    return Clocked(settings, home.root / "cache" / "latency", cache / "baseline.onnx")
