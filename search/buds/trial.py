"""One trial of a study of buds: find, isolate, graft, train, validate. What is scored is the system, errors included.

A generator like `search.trial.run_trial`, so that the same runners, records and schedulers serve both.
"""

from __future__ import annotations

import copy
import json
import os
import statistics
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn

from objectives.accuracy import extra_scores
from objectives.size import nonzeros, weights
from objectives.task import Task, call
from search.buds import MEASURES
from search.buds.bundle import Bud, write_bundle
from search.buds.cut import cut
from search.buds.find import Stages, find, look, portray
from search.buds.graft import graft, is_plastic
from search.buds.isolate import excitement, leaving
from search.buds.match import shared
from search.buds.route import fit
from search.buds.system import AsNetwork, Costs, System, costs
from search.buds.train import Growing, Growth, in_layout, settle
from search.buds.validate import Validation, validate
from search.finetune import DivergedError, steps_per_epoch, stream
from search.recipe import Recipe, recipe_for
from search.result import Report, TrialRequest, TrialResult
from search.trial import RUNG_SAMPLES
from spaces.budding import BuddingPolicy
from spaces.errors import PleachError, StudyFileError
from spaces.finetuning import FinetuningPolicy
from spaces.ledger import Event, Ledger
from spaces.policy import nearest

#: So many samples of each sub-task say which channels it needs, and what its BatchNorm statistics are.
PROBED = 512
#: Where a trial leaves its system, in its own folder.
FOLDER = "system"
_FLOAT_BITS = 32 * 32


def run_bud_trial(
    request: TrialRequest,
    task: Task,
    measures: Sequence[str],
    baseline: Mapping[str, float],
    *,
    device: str = "cpu",
    checkpoints: Path | None = None,
    clocked: object = None,
) -> Iterator[Report | TrialResult]:
    """Run one trial; close the generator to stop it. See `search.trial.run_trial`; nothing is timed."""
    started = time.monotonic()
    reports: list[Report] = []

    def ended(reason: str) -> TrialResult:
        seconds = time.monotonic() - started
        return TrialResult(request, "failed", reports=tuple(reports), seconds=seconds, reason=" ".join(reason.split()))

    try:
        trial = BudTrial(request, task, measures, device=device, checkpoints=checkpoints)
        for report in trial.iterations():
            reports.append(report)
            yield report
        result = trial.finish(reports, started)
    except (PleachError, DivergedError) as error:
        yield ended(str(error))
    except Exception as error:  # the edge of the trial: whatever a user's network or task throws is its own fault
        place = traceback.extract_tb(error.__traceback__)[-1]
        yield ended(f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")
    else:
        yield result


@dataclass(frozen=True, eq=False)
class _Probe:
    """A batch as a bud sees it.

    Args:
        own: What flows into the bud, of its sub-task's samples.
        targets: Of these.
        others: What flows into it of others.
    """

    own: Tensor
    targets: Tensor
    others: Tensor

    @property
    def hidden(self) -> Tensor:
        """All that flows into the bud."""
        return torch.cat([self.own, self.others])


class BudTrial:
    """One policy at work: from a parent to a system.

    Raises:
        PleachError: Where the network cannot bud as the profile asks.
    """

    def __init__(
        self,
        request: TrialRequest,
        task: Task,
        measures: Sequence[str],
        *,
        device: str = "cpu",
        checkpoints: Path | None = None,
    ) -> None:
        torch.manual_seed(request.seed)
        policy = request.profile.get(BuddingPolicy)
        if policy is None:
            raise StudyFileError("a trial of buds needs the policy budding, but its profile has none: add it")
        self._request, self._task, self._measures, self.policy = request, task, measures, policy
        self._device, self._folder = device, checkpoints
        recipe = recipe_for(task, request.profile.get(FinetuningPolicy), request.budget.precision)
        steps = max(1, round(request.budget.epochs * steps_per_epoch(task)))
        parent = task.network().eval()
        self._inputs = task.example_inputs()
        self.cut = cut(parent, self._inputs, policy.stem)
        self.stages = Stages(self.cut)
        self.seen = look(self.cut, self.stages, stream(task, request.seed), keep=PROBED * policy.subtasks)
        self.subtasks = find(self.seen, policy, request.seed)
        self.router = fit(policy.router, self.seen.stem, self.subtasks.assign(self.seen.last), self.subtasks.count)
        self._probes = self._probe()
        growths = [self._grafted(index, recipe) for index in range(self.subtasks.count)]
        ends = dict.fromkeys(block.parent for growth in growths for block in growth.held)
        watching = Stages(self.cut, list(ends))
        self.growing = Growing(
            self.cut,
            watching,
            self.subtasks.to(device),
            growths,
            task,
            policy,
            recipe,
            steps=steps,
            seed=request.seed,
            device=device,
        )
        for network in (self.cut.stem, self.cut.tail, self.stages.network, watching.network):
            in_layout(network, device)

    # -- grafting ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _probe(self) -> list[list[_Probe]]:
        """Per sub-task some of its samples, and as many others as its bud sees beside them in training.

        BatchNorm's statistics are taken of both: they must be those that the bud has learnt with.
        """
        probes: list[list[_Probe]] = [[] for _ in range(self.subtasks.count)]
        counts, outside = [0] * self.subtasks.count, self.policy.outside
        for inputs, targets in self.seen.batches:
            hidden = call(self.cut.stem, inputs)
            members = self.subtasks.assign(self.stages(hidden)[1])
            for index, probe in enumerate(probes):
                own = (members == index).nonzero()[: PROBED - counts[index], 0]
                if len(own):
                    others = (members != index).nonzero()[: round(len(own) * outside / (1 - outside)), 0]
                    probe.append(_Probe(hidden[own], targets[own], hidden[others]))
                    counts[index] += len(own)
        return probes

    def _grafted(self, index: int, recipe: Recipe) -> Growth:
        own = [(probe.own, probe.targets) for probe in self._probes[index]]
        scores = excitement(self.cut.tail, own, self._task)
        going = leaving(self.cut.tail, self.cut.hidden, scores, self.policy.keep, self.policy.slope)
        bud = graft(self.cut.tail, self.cut.hidden, going, self.policy.rank, self._request.seed + index)
        held = shared(self.cut.tail, self.cut.hidden, bud, going) if self.policy.matching else ()
        if going:
            settle(bud, [probe.hidden for probe in self._probes[index]])
        share = float((self.subtasks.assign(self.seen.last) == index).float().mean())
        network, hidden = in_layout(bud, self._device), self.cut.hidden.to(self._device)
        return Growth(network, hidden, self.policy, recipe, share, [block.to(self._device) for block in held])

    # -- training ---------------------------------------------------------------------------------------------------

    def iterations(self) -> Iterator[Report]:
        """Train, iteration by iteration; reports that a checkpoint holds are repeated, not recomputed."""
        growing, count = self.growing, min(self._request.budget.iterations, self.growing.steps)
        reports = self._load()
        yield from reports
        for iteration in range(len(reports), count):
            growing.train(round((iteration + 1) * growing.steps / count))
            system = self.system([growth.as_in_the_end() for growth in growing.growths])
            found, spent = self._measured(system, RUNG_SAMPLES)
            metrics = self._metrics(found, spent) | {"train/loss": growing.loss}
            reports.append(Report(iteration + 1, count, self._scores(system, found, spent), metrics))
            self._save(reports)
            yield reports[-1]

    def system(self, networks: Sequence[fx.GraphModule]) -> System:
        """Buds as they stand, on the CPU, with BatchNorm statistics of their own samples."""
        policy, buds = self.policy, dict[int, nn.Module]()
        for index, network in enumerate(networks):
            if policy.keep < 1 or self.growing.growths[index].joint:
                settle(network, [probe.hidden.to(self._device) for probe in self._probes[index]])
            network.to("cpu").to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
            buds[index] = network.eval()
        return System(
            copy.deepcopy(self.cut.stem).cpu(),
            copy.deepcopy(self.cut.tail).cpu(),
            self.router,
            buds,
            confidence=policy.confidence,
            blend=policy.blend,
            assurance=policy.assurance,
        )

    def _measured(self, system: System, limit: int | None) -> tuple[Validation, Costs]:
        stages = copy.copy(self.stages)
        stages.network = copy.deepcopy(self.stages.network).cpu()
        found = validate(system, stages, self.subtasks, self._task, "validation", limit)
        return found, costs(system, self._inputs, self.cut.hidden)

    # -- the end ----------------------------------------------------------------------------------------------------

    def finish(self, reports: Sequence[Report], started: float) -> TrialResult:
        """Score the system on the whole validation split and leave it in the trial's folder."""
        networks = [copy.deepcopy(growth.network) for growth in self.growing.growths]
        for network in networks:
            network.zero_grad(set_to_none=True)
        system = self.system(networks)
        found, spent = self._measured(system, None)
        portrait = portray(self.seen, self.subtasks)
        metrics = self._metrics(found, spent) | {"budding/agreement": portrait.agreement or 0.0}
        rows = tuple(self._row(index, system, found, spent) for index in sorted(system.buds))
        if self._folder is not None:
            write_bundle(
                self._folder / FOLDER,
                system,
                self.subtasks.tensors(),
                inputs=self._inputs,
                hidden=self.cut.hidden,
                buds={i: self._described(i, system, found, spent, portrait.classes[i]) for i in system.buds},
                about={
                    "portrait": portrait.to_dict(),
                    "accuracy": found.accuracy,
                    "parent_accuracy": found.parent,
                    "macs": spent.expected(found.use, found.asked),
                },
            )
        return TrialResult(
            self._request,
            "complete",
            scores=self._scores(system, found, spent),
            metrics=metrics,
            reports=tuple(reports),
            ledger=self._ledger(),
            layers=rows,
            seconds=time.monotonic() - started,
        )

    def _scores(self, system: System, found: Validation, spent: Costs) -> dict[str, float]:
        known = dict(zip(MEASURES, _figures(found, spent), strict=True))
        wanted = [name for name in self._measures if name not in known]
        if wanted:
            known |= extra_scores(AsNetwork(system), self._task, "validation")
        for name in wanted:
            if name not in known:
                raise StudyFileError(f"a study of buds cannot measure {name!r}: {nearest(name, known)}")
        return {name: known[name] for name in self._measures}

    def _metrics(self, found: Validation, spent: Costs) -> dict[str, float]:
        accuracy, macs, bops, parameters, size = _figures(found, spent)
        metrics = {
            "quality/accuracy": accuracy,
            "quality/drop": found.parent - accuracy,
            "compute/macs": macs,
            "compute/bops": bops,
            "size/parameters": parameters,
            "size/bytes": size,
            "budding/routing": found.routing,
            "budding/asked": found.asked,
            "budding/blended": found.blended,
            "budding/stem": self.cut.share,
            "budding/buds": float(len(found.buds)),
            "budding/held": statistics.fmean(len(growth.held) for growth in self.growing.growths),
        }
        for index, bud in found.buds.items():
            metrics |= {f"budding/{index}/accuracy": bud.accuracy, f"budding/{index}/use": bud.use}
        return {name: value for name, value in metrics.items() if value == value}

    def _row(self, index: int, system: System, found: Validation, spent: Costs) -> dict[str, object]:
        network, score = system.buds[index], found.buds[index]
        plastic = sum(p.numel() for name, p in network.named_parameters() if is_plastic(name))
        before = weights(self.cut.tail)
        return {
            "layer": f"bud {index}",
            "weights": before,
            "active": nonzeros(network),
            "created": plastic,
            "pruned": before + plastic - nonzeros(network),
            "sparsity": 1 - nonzeros(network) / before,
            "share": score.share,
            "accuracy": score.accuracy,
            "parent": score.parent,
            "use": score.use,
            "macs": spent.buds[index],
        }

    def _described(
        self, index: int, system: System, found: Validation, spent: Costs, classes: Mapping[int, float]
    ) -> Bud:
        score = found.buds[index]
        figures = {"accuracy": score.accuracy, "parent_accuracy": score.parent, "whole": score.whole}
        figures |= {"share": score.share, "use": score.use}
        return Bud(
            parent="",
            subtask=index,
            centre=tuple(round(x, 5) for x in self.subtasks.centres[index].tolist()),
            classes=tuple(classes),
            macs=spent.buds[index],
            parameters=float(sum(p.numel() for p in system.buds[index].parameters())),
            scores={name: value for name, value in figures.items() if value == value},
        )

    def _ledger(self) -> Ledger:
        events, start = list[Event](), dict[str, int]()
        for index, growth in enumerate(self.growing.growths):
            books = growth.connectivity.ledger()
            start |= {f"bud{index}/{name}": count for name, count in books.active_at_start.items()}
            events += [
                Event(e.iteration, f"bud{index}/{e.layer}", e.policy, e.reason, e.created, e.pruned)
                for e in books.events
            ]
        return Ledger(tuple(events), start)

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def _save(self, reports: Sequence[Report]) -> None:
        """As `search.checkpoint` does: the tensors first, then the reports that name them; no pickle."""
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"iteration-{len(reports)}.safetensors"
        tensors = {n: t.detach().cpu().contiguous().clone() for n, t in self.growing.state().items()}
        save_file(tensors, self._folder / f"{name}.part")
        (self._folder / f"{name}.part").replace(self._folder / name)
        part = self._folder / "reports.json.part"
        with part.open("w", encoding="utf-8") as file:
            json.dump({"reports": [report.to_dict() for report in reports]}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._folder / "reports.json")
        for old in self._folder.glob("iteration-*.safetensors*"):
            if old.name != name:
                old.unlink(missing_ok=True)

    def _load(self) -> list[Report]:
        path = self._folder / "reports.json" if self._folder is not None else None
        if path is None or not path.exists():
            return []
        reports = [Report.from_dict(data) for data in json.loads(path.read_text(encoding="utf-8"))["reports"]]
        self.growing.load_state(load_file(path.with_name(f"iteration-{len(reports)}.safetensors"), self._device))
        return reports


def _figures(found: Validation, spent: Costs) -> tuple[float, ...]:
    """The values of `MEASURES`."""
    macs = spent.expected(found.use, found.asked)
    return found.accuracy, macs, macs * _FLOAT_BITS, spent.parameters, spent.size_bytes
