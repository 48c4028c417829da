"""What each policy of a profile is worth: the profile again without it, and with a control in its place.

Every variant trains with the same budget, recipe and seeds, none of them the seed by which the profile was chosen. What
has run is kept, so that an ablation that was cut off goes on where it was.
"""

from __future__ import annotations

import math
import re
import shutil
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.books import read_result, write_result
from search.home import driver_lock
from search.result import Report, TrialRequest, TrialResult
from search.runners.choice import runner_for
from search.surroundings import home_for_tasks, listening, logged
from search.working import record_of, same_task, work_for
from spaces.ablation import WHOLE, variants
from spaces.errors import StudyError

if TYPE_CHECKING:
    from search.study import Study

#: A difference is called one where chance alone would make it in fewer than so many of a hundred ablations.
LEVEL = 0.05

#: Called with how many runs are over, how many there are, and what came last.
Watch = Callable[[int, int, str], None]


def ablate(study: Study, trial: TrialResult, *, seeds: int = 3, watch: Watch = lambda *_: None) -> dict[str, Any]:
    """Run the variants of a complete trial's profile and compare them.

    Args:
        study: The trial's study; nobody may run it meanwhile.
        trial: A complete one.
        seeds: Runs per variant, at least 1; with fewer than 2 nothing can be said about noise.
        watch: Who watches.

    Returns:
        ``study, trial, seeds, measures`` and ``rows``, one per variant: ``label, seeds, failed, scores`` (mean and
        deviation by measure), ``difference`` from the profile itself (paired by seed; ``mean, half_width, noise``) and
        ``decisions`` by policy.

    Raises:
        StudyError: If another process runs the study, or its task has changed.
    """
    folder, state = study.folder, study.state
    runs = _runs(study, trial, seeds)
    kept = folder.ablation(trial.number)
    with driver_lock(folder), logged(folder), home_for_tasks(study.home):
        same_task(study, state)
        missing = [run for run in runs if not _file(kept, run).exists()]
        if missing:
            batch = _Batch(missing, kept, len(runs), watch)
            work = replace(work_for(study), baseline=state.baseline)
            runner = runner_for(study.file.resources, study.home, work.load_task(), lambda _: None)
            with listening(batch), runner as entered, listening(batch):
                entered.run(work, batch)
            for run in missing:
                shutil.rmtree(folder.checkpoints(run.key), ignore_errors=True)
        found: dict[str, list[TrialResult]] = {run.label: [] for run in runs}
        for run in runs:
            if _file(kept, run).exists():
                found[run.label].append(read_result(_file(kept, run)))
        rows = compared(found, study.file.measures)
        answer = {
            "study": study.name,
            "trial": trial.number,
            "seeds": seeds,
            "measures": list(study.file.measures),
            "rows": rows,
            "interrupted": any(not _file(kept, run).exists() for run in runs),
        }
        if not answer["interrupted"]:
            record_of(study, state).ablation(trial.number, rows, {"ablation.md": markdown(answer)})
    return answer


def compared(found: Mapping[str, Sequence[TrialResult]], measures: Iterable[str]) -> list[dict[str, Any]]:
    """A row per variant from its results; the first one is what the others are compared with."""
    names = list(measures)
    whole = {result.request.seed: result for result in next(iter(found.values())) if result.state == "complete"}
    rows = []
    for label, results in found.items():
        complete = {result.request.seed: result for result in results if result.state == "complete"}
        paired = sorted(complete.keys() & whole.keys())
        rows.append(
            {
                "label": label,
                "seeds": sorted(complete),
                "failed": len(results) - len(complete),
                "reasons": sorted({result.reason for result in results if result.reason}),
                "scores": {name: _spread([r.scores[name] for r in complete.values()]) for name in names},
                "difference": {
                    name: _difference([complete[s].scores[name] - whole[s].scores[name] for s in paired])
                    for name in names
                },
                "decisions": _decisions(complete.values()),
            }
        )
    return rows


def markdown(answer: Mapping[str, Any]) -> str:
    """The comparison as a table; differences within noise are in brackets."""
    names = answer["measures"]
    lines = [
        f"Trial {answer['trial']} of {answer['study']}, {answer['seeds']} fresh seeds; differences from the profile as "
        f"found, paired by seed. In brackets: within noise (two-sided t-test, {LEVEL:.0%}).",
        "",
        "| variant | " + " | ".join(f"{name} | Δ" for name in names) + " | decisions |",
        "|---|" + "---|" * (2 * len(names) + 1),
    ]
    for row in answer["rows"]:
        cells = [cell for name in names for cell in cells_of(row, name)]
        decisions = ", ".join(f"{policy} {count:.0f}" for policy, count in row["decisions"].items())
        lines.append(f"| {row['label']} | " + " | ".join(cells) + f" | {decisions} |")
    return "\n".join(lines) + "\n"


def cells_of(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A measure of a variant, and its difference from the whole profile, as text."""
    spread, difference = row["scores"][name], row["difference"][name]
    if spread is None:
        return "failed", ""
    score = f"{spread['mean']:.4g} ± {spread['deviation']:.2g}"
    if difference is None or row["label"] == WHOLE:
        return score, ""
    if difference["half_width"] is None:
        return score, f"({difference['mean']:+.3g})"
    text = f"{difference['mean']:+.3g} ± {difference['half_width']:.2g}"
    return score, f"({text})" if difference["noise"] else text


# -- the runs -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """One variant with one seed."""

    label: str
    request: TrialRequest

    @property
    def key(self) -> str:
        return self.request.key


def _runs(study: Study, trial: TrialResult, seeds: int) -> list[_Run]:
    if trial.state != "complete":
        raise StudyError(f"an ablation needs a complete trial, but {trial.number} is {trial.state}: name another")
    if seeds < 1:
        raise StudyError(f"seeds must be at least 1, but is {seeds}: use 3")
    first = study.file.study.seed + 1
    return [
        _Run(
            label,
            replace(trial.request, key=f"{trial.number:05d}-{_slug(label)}-seed-{seed}", profile=profile, seed=seed),
        )
        # All variants with one seed before the next: an ablation that is stopped early compares like with like.
        for seed in range(first, first + seeds)
        for label, profile in variants(trial.request.profile).items()
    ]


def _file(folder: Path, run: _Run) -> Path:
    return folder / f"{run.key}.json"


def _slug(label: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", label)


class _Batch:
    """Answers a runner's questions about a list of runs; see :class:`search.runners.runner.Director`."""

    def __init__(self, runs: Sequence[_Run], folder: Path, of: int, watch: Watch) -> None:
        self._runs = {run.key: run for run in runs}
        self._queue: Iterator[_Run] = iter(runs)
        self._folder, self._of, self._watch = folder, of, watch
        self._over = of - len(runs)
        self._left = len(runs)
        self.halted = self.stopped = False

    def stop(self, reason: str, *, now: bool = False) -> None:
        """Start no more runs; with `now` drop those that run."""
        self.stopped, self.halted = True, self.halted or now

    @property
    def done(self) -> bool:
        return self.stopped or self._left == 0

    def propose(self) -> TrialRequest | None:
        run = None if self.stopped else next(self._queue, None)
        self._left -= run is not None
        return run.request if run is not None else None

    def begun(self, request: TrialRequest) -> None:
        pass

    def reported(self, request: TrialRequest, report: Report) -> bool:
        return True

    def decided(self, result: TrialResult) -> None:
        run = self._runs[result.request.key]
        write_result(_file(self._folder, run), result)
        self._over += 1
        self._watch(self._over, self._of, f"{run.label}, seed {result.request.seed}: {result.reason or result.state}")

    def lost(self, request: TrialRequest, reason: str) -> None:
        self.decided(TrialResult(request, "failed", reason=reason))

    def overdue(self) -> list[TrialRequest]:
        return []


# -- figures ---------------------------------------------------------------------------------------------------------


def _spread(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": statistics.fmean(values), "deviation": statistics.stdev(values) if len(values) > 1 else 0.0}


def _difference(values: list[float]) -> dict[str, Any] | None:
    """The mean of paired differences and the half width of its confidence interval; None where there is no pair."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) < 2:
        return {"mean": mean, "half_width": None, "noise": True}
    from scipy import stats  # takes half a second: not for whoever only looks at a study

    quantile = float(stats.t.ppf(1 - LEVEL / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return {"mean": mean, "half_width": half, "noise": abs(mean) <= half}


def _decisions(results: Iterable[TrialResult]) -> dict[str, float]:
    """How often each policy acted, on average."""
    counts: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.metrics.items():
            policy, _, what = name.partition("/")
            if what == "decisions":
                counts.setdefault(policy, []).append(value)
    return {policy: statistics.fmean(found) for policy, found in counts.items()}
