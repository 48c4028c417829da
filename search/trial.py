"""One trial, from a profile to a finished network and its scores. A generator: a report after every iteration."""

from __future__ import annotations

import functools
import json
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from objectives.accuracy import mean_score
from objectives.outcome import Outcome
from objectives.plasticity import churn, dormant, explored, recovery, regrown_survival
from objectives.task import Inputs, Task, samples
from search.checkpoint import Checkpoints
from search.export import save_network
from search.finetune import DivergedError, Finetuning, in_fast_layout, recalibrate, steps_per_epoch
from search.formats.written import onnx_forms
from search.latency.stopwatch import GLANCE, SECONDS, Clocked
from search.recipe import Recipe, adaptive_start, recipe_for
from search.resources import ResourceManager
from search.result import Report, TrialRequest, TrialResult
from search.scoring import layer_rows, measure, metrics_of, scores_of
from search.surgery.connectivity import Connectivity
from search.surgery.finalize import finalize, plain
from search.surgery.mechanisms import mechanisms_for
from search.surgery.network import prepared
from search.surgery.optimizer import TrainingOptimizer
from search.surgery.site import Site
from spaces.errors import PleachError
from spaces.finetuning import FinetuningPolicy
from spaces.granularity import GranularityPolicy
from spaces.ledger import Ledger

#: A rung's accuracy is measured on this many validation samples at most; final figures on all of them.
RUNG_SAMPLES = 2048
#: Where an iteration trains on few samples, on a quarter as many, but no fewer than these: a look must cost less than
#: what it looks at. BatchNorm's statistics are taken from as many.
FEWEST_SAMPLES = 512
#: Batches over which dormant units are looked for.
DORMANT_BATCHES = 4


@dataclass(frozen=True)
class Finished:
    """What a trial leaves: the plain network and everything that is known of it."""

    network: nn.Module
    ledger: Ledger
    scores: Mapping[str, float]
    metrics: Mapping[str, float]
    layers: tuple[Mapping[str, object], ...]


def run_trial(
    request: TrialRequest,
    task: Task,
    measures: Sequence[str],
    baseline: Mapping[str, float],
    *,
    device: str = "cpu",
    checkpoints: Path | None = None,
    clocked: Clocked | None = None,
) -> Iterator[Report | TrialResult]:
    """Run one trial; close the generator to stop it.

    Args:
        request: What to do.
        task: The network, its data, its loss and score.
        measures: The names to score: those of objectives, constraints and stop criteria.
        baseline: The same of the network before compression, and ``weights``.
        device: Where to train.
        checkpoints: Folder of this trial: after each iteration a checkpoint goes there, one that is there is taken up,
            and the finished network is left there.
        clocked: What is to be timed, and how; None where nothing is.

    Yields:
        A :class:`Report` per iteration, then the :class:`TrialResult`: complete, or failed with its reason.
    """
    started = time.monotonic()
    reports: list[Report] = []
    try:
        trial = Trial(request, task, measures, baseline, device=device, checkpoints=checkpoints, clocked=clocked)
        for report in trial.iterations():
            reports.append(report)
            yield report
        finished = trial.finish()
    except (PleachError, DivergedError) as error:
        yield _failed(request, reports, started, str(error))
    except Exception as error:  # the edge of the trial: whatever a user's network or task throws is its own fault
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        yield _failed(request, reports, started, reason)
    else:
        yield TrialResult(
            request,
            "complete",
            scores=finished.scores,
            metrics=finished.metrics,
            reports=tuple(reports),
            ledger=finished.ledger,
            layers=finished.layers,
            seconds=time.monotonic() - started,
        )


class Trial:
    """One profile at work on one network.

    Args:
        resources: Holds numbers to what the machine has to spare; left out, one with the request's limits.

    Raises:
        PleachError: From the constructor on, where the network cannot be compressed as the profile asks.
    """

    def __init__(
        self,
        request: TrialRequest,
        task: Task,
        measures: Sequence[str],
        baseline: Mapping[str, float],
        *,
        device: str = "cpu",
        checkpoints: Path | None = None,
        clocked: Clocked | None = None,
        resources: ResourceManager | None = None,
    ) -> None:
        torch.manual_seed(request.seed)
        self._request, self._task, self._measures, self._baseline = request, task, measures, baseline
        self._device = device
        self._stopwatch = (
            clocked.stopwatch(task.network().eval(), task.example_inputs()) if clocked is not None else None
        )
        self._checkpoints = Checkpoints(checkpoints) if checkpoints is not None else None
        recipe = recipe_for(task, request.profile.get(FinetuningPolicy), request.budget.precision)
        steps = max(1, round(request.budget.epochs * steps_per_epoch(task)))
        self._precision = recipe.precision
        self._looked_at = _rung_samples(task, steps // max(1, request.budget.iterations))
        self._site = _site(request, task, recipe, steps, device)
        limits = request.budget.limits
        self._site.resources = ResourceManager(limits) if resources is None and limits is not None else resources
        self._mechanisms = mechanisms_for(request.profile)
        for mechanism in self._mechanisms:
            mechanism.attach(self._site)
        start, self._untrained = self._before_training(recipe)
        self._loop = Finetuning(
            self._site,
            self._mechanisms,
            task,
            recipe,
            start=start,
            seed=request.seed,
            teacher=task.network() if recipe.distillation > 0 else None,
            device=device,
            between=self._stopwatch.give_way if self._stopwatch is not None else None,
        )

    def iterations(self) -> Iterator[Report]:
        """Train, iteration by iteration; reports that a checkpoint holds are repeated, not recomputed."""
        count = min(self._request.budget.iterations, self._site.steps)
        reports = self._checkpoints.load(self._site, self._mechanisms, self._loop) if self._checkpoints else []
        yield from reports
        masks = {name: mask.clone() for name, mask in self._site.connectivity.masks.items()}
        for iteration in range(len(reports), count):
            with self._computing():
                self._loop.train(until=round((iteration + 1) * self._site.steps / count), iteration=iteration)
                report = self._report(iteration + 1, count, masks)
            score = report.metrics["quality/accuracy"]
            for mechanism in self._mechanisms:
                mechanism.end_of_iteration(self._loop.clock(iteration), score)
            masks = {name: mask.clone() for name, mask in self._site.connectivity.masks.items()}
            reports.append(report)
            if self._checkpoints is not None:
                self._checkpoints.save(self._site, self._mechanisms, self._loop, reports)
            yield report

    def finish(self) -> Finished:
        """Finalize, score on the whole validation split, and leave the network beside the checkpoints."""
        site = self._site
        recalibrate(site.network, self._task, self._request.seed, self._device)
        network = finalize(site, self._mechanisms)
        outcome = self._outcome(network, site, limit=None)
        metrics = self._metrics(outcome, outcome.ledger) | {
            "plasticity/dormant": dormant(network, _first_inputs(self._task, DORMANT_BATCHES)),
        }
        if self._checkpoints is not None:
            save_network(self._checkpoints.folder, network, site.example_inputs)
            if site.resources is not None:
                log = json.dumps(site.resources.log())
                (self._checkpoints.folder / "resources.json").write_text(log, encoding="utf-8")
        scores = scores_of(outcome, self._measures)
        rows = layer_rows(outcome.ledger, site.connectivity.active, network)
        return Finished(network, outcome.ledger, scores, metrics, rows)

    # -- figures ----------------------------------------------------------------------------------------------------

    def _before_training(self, recipe: Recipe) -> tuple[float, float]:
        """The first learning rate, and the accuracy of the network cut at once to its end state and not retrained."""
        end = self._projected()
        before = dict(self._site.connectivity.weights)
        removed = total = 0.0
        for name, mask in end.connectivity.masks.items():
            squares = before[name].detach().square()
            total += float(squares.sum())
            removed += float(squares[~mask].sum())
        off = 1 - sum(end.connectivity.active.values()) / end.connectivity.size
        start = adaptive_start(recipe, removed**0.5, total**0.5, off)
        return start, mean_score(end.network, self._task, "validation", self._device, self._looked_at)

    def _projected(self) -> Site:
        """A copy brought to the profile's end state at once, its BatchNorm recalibrated: two trials that end alike
        are then compared alike, whichever prunes later."""
        twin = self._site.copy()
        for mechanism in self._mechanisms:
            mechanism.project(twin)
        seed, device = self._request.seed, self._device
        recalibrate(twin.network, self._task, seed, device, enough=FEWEST_SAMPLES, precision=self._precision)
        return twin

    def _report(self, iteration: int, of: int, masks: Mapping[str, Tensor]) -> Report:
        twin = self._projected()
        outcome = self._outcome(plain(twin), twin, limit=self._looked_at)
        ledger = self._site.connectivity.ledger()
        metrics = self._metrics(outcome, ledger) | {
            "train/loss": self._loop.loss,
            "plasticity/churn": churn(masks, self._site.connectivity.masks),
        }
        for mechanism in self._mechanisms:
            metrics |= {f"{mechanism.name}/{name}": value for name, value in mechanism.figures().items()}
        return Report(iteration, of, scores_of(outcome, self._measures), metrics)

    def _outcome(self, network: nn.Module, site: Site, limit: int | None) -> Outcome:
        measured = (
            measure(network, self._task, self._device, limit)
            | self._timed(network, limit is not None)
            | {
                "survived": float(site.connectivity.survived()),
                "ever_pruned": float(site.connectivity.ever_pruned()),
            }
        )
        inputs = tuple(x.cpu() for x in site.example_inputs)
        ledger = site.connectivity.ledger(site.receipts)
        return Outcome(network, self._baseline, ledger, self._request.profile, measured, inputs)

    def _timed(self, network: nn.Module, estimated: bool) -> dict[str, float]:
        """What needs a clock: looked up while the trial goes on, measured at its end."""
        if self._stopwatch is None:
            return {}
        if GranularityPolicy.name in self._request.profile.policies and self._stopwatch.runs_onnx:
            return self._timed_in_few_bits(network, estimated)
        looked_up = self._stopwatch.estimate(network, self._baseline)
        if estimated:
            return looked_up
        found = self._stopwatch.measure(network, self._baseline)
        self._stopwatch.close()
        return found | {f"latency/estimated_{name}": value for name, value in looked_up.items()}

    def _timed_in_few_bits(self, network: nn.Module, estimated: bool) -> dict[str, float]:
        """Integers are as fast as the device makes them, which no table of layers knows: each look times them."""
        assert self._stopwatch is not None
        forms = functools.cache(lambda: onnx_forms(network, self._task.example_inputs(), self._task))
        found = self._stopwatch.measure(network, self._baseline, forms, GLANCE if estimated else SECONDS)
        if not estimated:
            self._stopwatch.close()
        return found

    def _computing(self) -> AbstractContextManager[None]:
        """Training and evaluation step aside while another trial is timed."""
        return self._stopwatch.computing() if self._stopwatch is not None else nullcontext()

    def _metrics(self, outcome: Outcome, ledger: Ledger) -> dict[str, float]:
        connectivity = self._site.connectivity
        return metrics_of(outcome, ledger) | {
            "plasticity/regrown_survival": regrown_survival(connectivity.ever_created, connectivity.masks),
            "plasticity/explored": explored(connectivity.ever_active()),
            "plasticity/recovery": recovery(outcome.measured["accuracy"], self._untrained),
        }


def _site(request: TrialRequest, task: Task, recipe: Recipe, steps: int, device: str) -> Site:
    inputs = task.example_inputs()
    network, untraceable = prepared(task.network(), inputs)
    network = in_fast_layout(network.to(device))
    connectivity = Connectivity(network)
    optimizer = TrainingOptimizer.from_recipe(network.parameters(), recipe)
    connectivity.optimizer = optimizer
    return Site(
        network=network,
        profile=request.profile,
        connectivity=connectivity,
        generator=torch.Generator().manual_seed(request.seed),
        steps=steps,
        example_inputs=inputs,
        optimizer=optimizer,
        untraceable=untraceable,
        task=task,
        device=device,
        seed=request.seed,
    )


def _rung_samples(task: Task, steps: int) -> int:
    """On how many samples a network is looked at after so many steps."""
    inputs, _ = next(iter(task.batches("train", shuffle_seed=0)))
    return min(RUNG_SAMPLES, max(FEWEST_SAMPLES, steps * samples(inputs) // 4))


def _first_inputs(task: Task, batches: int) -> list[Inputs]:
    stream_ = task.batches("validation", shuffle_seed=None)
    return [inputs for _, (inputs, _targets) in zip(range(batches), stream_, strict=False)]


def _failed(request: TrialRequest, reports: Sequence[Report], started: float, reason: str) -> TrialResult:
    return TrialResult(
        request,
        "failed",
        reports=tuple(reports),
        seconds=time.monotonic() - started,
        reason=" ".join(reason.split()),
    )
