"""`pleach init`: a study file that explains itself, from what is given, asked, or usual."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from objectives.objective import OBJECTIVES
from objectives.tasks import TASKS
from search.home import STUDY_NAME
from search.machine import cores
from search.study_file import StudyFile
from spaces import POLICIES
from spaces.errors import StorageError, StudyFileError
from spaces.policy import Knob, Policy, nearest

#: Asks a question with a default.
Ask = Callable[[str, str], str]


@dataclass(frozen=True)
class Answers:
    """What decides a study file; None where it is still open."""

    task: str | None = None
    name: str | None = None
    objectives: Sequence[str] | None = None
    constraints: Sequence[str] | None = None
    policies: Sequence[str] | None = None
    trials: int | None = None
    epochs: float | None = None
    concurrent: int | None = None


def known(given: Answers, path: Path, ask: Ask | None) -> Answers:
    """Close what is open: by asking where somebody can answer, else by what is usual.

    Raises:
        StudyFileError: If an answer is not possible; the message names what is.
    """
    usual = {
        "task": "digits",
        "name": _folder_name(path.stem),
        "objectives": "accuracy, plasticity, macs",
        "constraints": "accuracy >= baseline - 0.01",
        "policies": "pruning, reconnection",
        "trials": "50",
        "epochs": "1",
        "concurrent": str(min(2, cores())),
    }
    questions = {
        "task": f"Task ({', '.join(TASKS)}, pkg.module:Name or file.py:Name)",
        "name": "Name of the study",
        "objectives": f"Objectives, with commas ({', '.join(OBJECTIVES)}, or the task's own)",
        "constraints": 'Constraints, joined by "and" (empty for none)',
        "policies": f"Policies, with commas ({', '.join(POLICIES)})",
        "trials": "Trials",
        "epochs": "Epochs of training per trial",
        "concurrent": "Trials at once",
    }
    closed: dict[str, object] = {}
    for field in fields(Answers):
        answer = getattr(given, field.name)
        if answer is None:
            answer = _read(field.name, ask(questions[field.name], usual[field.name]) if ask else usual[field.name])
        closed[field.name] = answer
    answers = replace(given, **closed)  # type: ignore[arg-type]
    for policy in answers.policies or ():
        if policy not in POLICIES:
            raise StudyFileError(f"there is no policy {policy!r}: {nearest(policy, POLICIES)}")
    return answers


def write(path: Path, answers: Answers, *, force: bool = False) -> Path:
    """Write the study file, once it is sure that it can be read.

    Raises:
        StudyFileError: If the answers make no study, or the file is there.
        StorageError: If it cannot be written.
    """
    if path.exists() and not force:
        raise StudyFileError(f"{path} must not exist, but does: choose another file, or overwrite it with --force")
    text = study_text(answers)
    StudyFile.parse(text, path.resolve().parent, name="the answers")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror}): choose another file") from None
    return path


def study_text(answers: Answers) -> str:
    """The commented study file."""
    return "\n".join(
        [
            *_study_lines(answers),
            "[objectives]  # which way is better",
            *(f"{_key(name)} = {json.dumps(_direction(name))}" for name in answers.objectives or ()),
            "",
            '[constraints]  # absolute, or relative to the network before compression: "<= 0.6 * baseline"',
            *(f"{_key(name)} = {json.dumps(bound)}" for name, bound in map(_constraint, answers.constraints or ())),
            "",
            "[budget]  # of one trial",
            f"epochs = {answers.epochs:g}",
            "iterations = 6                # reports and checkpoints; early stopping looks at each",
            'scheduler = "none"            # or "asha" (one objective), "mo-asha": stop what falls behind',
            "# confirm = {top = 5, seeds = 3}  # the finalists again, with fresh seeds",
            "",
            "[resources]",
            f"concurrent = {answers.concurrent}                # trials at once",
            "cpu = 1                       # cores for each",
            "gpu = 0                       # share of a GPU for each, e.g. 0.25",
            '# address = "auto"            # a Ray cluster; left out: this machine',
            "",
            "# [storage]                   # left out: everything is in the home",
            '# optuna = "postgresql+psycopg://user@host/optuna"',
            '# mlflow = "http://mlflow:5000"',
            "",
            "# What is searched. A policy that is not named is off; a knob that is not named has the range shown.",
            "# A range narrows it, a list offers choices, a plain value fixes it; optional = true lets the search",
            "# turn the policy off.",
            "",
            *(line for name in POLICIES for line in _policy_lines(name, name in (answers.policies or ()))),
            "# Other ranges for some layers, by name pattern:",
            "# [[spaces.layers]]",
            '# match = "layer3.*"',
            "# pruning = {sparsity = {low = 0.0, high = 0.5}}",
            "",
        ]
    )


def _study_lines(answers: Answers) -> list[str]:
    return [
        "# A study: what to search, on which task, for what. Check it with pleach check, run it with pleach run.",
        "",
        "[study]",
        f"name = {json.dumps(answers.name)}",
        "seed = 0",
        f"trials = {answers.trials}",
        '# time_limit = "4h"           # over all its runs',
        '# stop_when = "accuracy >= baseline - 0.01 and macs <= 0.5 * baseline"',
        'sampler = "tpe"               # or nsga2, nsga3, gp, random, grid',
        "",
        "[task]",
        f"target = {json.dumps(answers.task)}",
        "# args = {}                   # keyword arguments of the task; paths start at this file",
        "",
    ]


def _policy_lines(name: str, on: bool) -> list[str]:
    """A policy's table with every knob, its range and its meaning as comments."""
    policy = POLICIES[name]
    meanings = knob_meanings(policy)
    about = inspect.getdoc(policy) or ""
    head = f"{'' if on else '# '}[spaces.{name}]  # {about.splitlines()[0]}"
    return [head, *(_knob_line(knob, meanings.get(knob.name, "")) for knob in policy.knobs().values()), ""]


def _knob_line(knob: Knob, meaning: str) -> str:
    setting = f"{knob.name} = {_setting(knob.distribution)}"
    return f"# {setting:<58} # {meaning}".rstrip(" #")


def knob_meanings(policy: type[Policy]) -> dict[str, str]:
    """The first sentence that the policy's docstring says of each knob."""
    _, _, arguments = (inspect.getdoc(policy) or "").partition("Args:\n")
    meanings: dict[str, str] = {}
    for match in re.finditer(r"^    (\w+): (.*(?:\n        .*)*)", arguments, re.MULTILINE):
        text = re.sub(r" \([^()]*\d{4}[^()]*\)", "", " ".join(match[2].split()).replace("`", ""))  # without citations
        meanings[match[1]] = re.split(r"(?<=[a-z\])])[.;:] ", text + " ")[0].rstrip(". ")
    return meanings


def _setting(distribution: BaseDistribution) -> str:
    if isinstance(distribution, FloatDistribution | IntDistribution):
        log = ", log = true" if distribution.log else ""
        return f"{{low = {distribution.low}, high = {distribution.high}{log}}}"
    return json.dumps(list(distribution.choices))  # type: ignore[attr-defined]


def _read(name: str, text: str) -> object:
    text = text.strip()
    if name in ("objectives", "policies"):
        return [part.strip() for part in text.split(",") if part.strip()]
    if name == "constraints":
        return [part.strip() for part in re.split(r"\band\b", text) if part.strip()]
    try:
        return int(text) if name in ("trials", "concurrent") else float(text) if name == "epochs" else text
    except ValueError:
        raise StudyFileError(f"{name} must be a number, but is {text!r}: write e.g. 1") from None


def _constraint(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"\s*([\w./]+)\s*((?:<=|>=).+)", text)
    if match is None:
        raise StudyFileError(
            f"a constraint must be NAME <= BOUND or NAME >= BOUND, but is {text!r}: write e.g. macs <= 0.5 * baseline"
        )
    return match[1], match[2].strip()


def _direction(objective: str) -> str:
    """Which way is better; of a task's own objective nobody knows, so that the user must look at it."""
    return OBJECTIVES[objective].direction if objective in OBJECTIVES else "maximize"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name) else json.dumps(name)


def _folder_name(stem: str) -> str:
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64]
    return plain if STUDY_NAME.fullmatch(plain) else "study"
