"""Which runner carries out a study's trials, as its file asks."""

from __future__ import annotations

import os
from collections.abc import Callable

from objectives.task import Task
from search.home import Home, ray_folder
from search.runners.environment import IN_JOB, settle
from search.runners.inline import InlineRunner
from search.runners.runner import Runner
from search.study_tables import ResourcesTable, size


def runner_for(
    resources: ResourcesTable,
    home: Home,
    task: Task,
    keep: Callable[[str], None],
    *,
    target: str = "",
    tell: Callable[[str], None] = lambda line: None,
) -> Runner:
    """The runner; it holds no machine until it is entered.

    Args:
        resources: What the study file asks for.
        home: Where the study is.
        task: Built.
        keep: Called with Ray's folder where that cannot be in the home.
        target: Where the task comes from.
        tell: Called with a line that the user should see.
    """
    if resources.runner == "inline":
        return InlineRunner(task)
    folder = ray_folder(home)
    if folder.parent != home.root:
        keep(str(folder))
    # A job that names no cluster means its own, so the same study runs here today and there tomorrow.
    address = resources.address or ("auto" if IN_JOB in os.environ else None)
    settle(folder if address is None else None)
    # Ray reads its settings when it is imported.
    from search.runners.cluster import Share
    from search.runners.tune import TuneRunner

    return TuneRunner(
        task,
        folder,
        concurrent=resources.concurrent,
        share=Share(resources.cpu, resources.gpu, size(resources.memory) if resources.memory else None),
        allowed=resources.memory or "",
        address=address,
        target=target,
        tell=tell,
    )
