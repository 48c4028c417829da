"""From a trial of a study to a folder that stands alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from objectives.criterion import parse
from objectives.loading import load_task
from objectives.objective import OBJECTIVES
from objectives.task import Task
from search.books import Books
from search.export import export, read_network
from search.formats.onnx_file import missing
from search.joining import home_of
from search.result import TrialResult
from spaces.errors import ExportError, StudyError
from spaces.profile import CompressionProfile

if TYPE_CHECKING:
    from search.study import Study

#: How long an exported network is timed beside the original, per runtime and batch.
SECONDS = 0.5


def export_trial(
    study: Study,
    out: str | Path,
    *,
    trial: int | None = None,
    where: str | None = None,
    overwrite: bool = False,
    formats: Sequence[str] | None = None,
    timed: float = SECONDS,
) -> tuple[Path, TrialResult]:
    """Export a study's best trial, or the one that is named.

    Args:
        study: One that has run.
        out: The folder to write.
        trial: Its number; left out, the best.
        where: A further condition on the best, e.g. ``macs <= 2e5``.
        overwrite: Replace an earlier export.
        formats: Beside safetensors; left out, `formats_for` its profile.
        timed: Seconds for which it is timed beside the original, per runtime and batch; 0 times nothing.

    Returns:
        The folder, and the trial.

    Raises:
        StudyError: If there is no such complete trial, or its network is gone.
        CriterionError: If the condition does not parse.
        ExportError: If the network cannot be stored, or `out` is taken.
        TaskError: If the task cannot be loaded; its example inputs are needed.
    """
    books = study.books()
    result = chosen(study.name, books, trial, where)
    reference = study.file.task_reference
    task = load_task(reference.target, reference.args, reference.source)
    kept = books.results[result.cached] if result.cached is not None else result
    folder = export(
        out,
        network=_network(study, kept, task),
        example_inputs=task.example_inputs(),
        profile=result.request.profile,
        metrics=_figures(result),
        baseline={name: value for name, value in books.baseline.items() if name != "weights"},
        search_policy=study.policy(),
        task=reference,
        ledger=result.ledger,
        title=f"{study.name}, trial {result.number}",
        overwrite=overwrite,
        original=task.network().eval(),
        formats=formats_for(result.request.profile) if formats is None else formats,
        data=task,
        timed=timed,
    )
    return folder, result


def formats_for(profile: CompressionProfile) -> tuple[str, ...]:
    """ONNX where it can be written and torch.export's archive; int8 where the profile lowers the bits."""
    onnx = () if missing() else ("onnx",)
    int8 = ("int8",) if onnx and "granularity" in profile.policies else ()
    return (*onnx, *int8, "pt2")


def chosen(study: str, books: Books, trial: int | None = None, where: str | None = None) -> TrialResult:
    """The complete trial of that number, or the best one.

    Raises:
        StudyError: If there is none.
        CriterionError: If the condition does not parse.
    """
    if trial is None:
        best = books.best(parse(where) if where else ())
        if best is None:
            raise StudyError(f"no trial of {study!r} is complete, so none is best: run it, or look at pleach list")
        return best
    result = books.results.get(trial)
    if result is None or result.state != "complete":
        state = "not decided" if result is None else f"{result.state} ({result.reason})"
        numbers = ", ".join(str(known.number) for known in books.complete()[:10]) or "none"
        raise StudyError(
            f"only complete trials can be used, but trial {trial} of {study!r} is {state}: complete are {numbers}"
        )
    return result


def _network(study: Study, result: TrialResult, task: Task) -> nn.Module:
    """The finished network as the trial left it."""
    folder = study.folder.checkpoints(result.request.key)
    if not (folder / "architecture.json").is_file():
        place = home_of(study, result.number)
        remedy = "run its profile again" if place is None else f"export it where it was trained, in {place}"
        raise StudyError(f"the network of trial {result.number} must be in {folder}, but is not: {remedy}")
    try:
        rebuilt = json.loads((folder / "architecture.json").read_text(encoding="utf-8")).get("rebuild")
    except (OSError, ValueError, AttributeError) as error:
        raise ExportError(f"{folder / 'architecture.json'} cannot be read ({error}): run its profile again") from None
    return read_network(folder, task.network() if rebuilt else None)


def _figures(result: TrialResult) -> Mapping[str, float]:
    """Every objective of the closed list that the trial measured, and the study's own."""
    listed = {name: result.metrics[o.metric] for name, o in OBJECTIVES.items() if o.metric in result.metrics}
    return listed | dict(result.scores)
