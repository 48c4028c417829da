"""The finalists again, with fresh seeds and the full budget: does the best hold, or was it luck?"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from search.books import Books, read_result, write_result
from search.home import StudyFolder
from search.result import TrialRequest, TrialResult
from search.study_file import StudyFile


class Confirmation:
    """Which finalists are to be run again, and what came of it. These runs are no trials: they count for nothing.

    Args:
        file: The study; without ``budget.confirm`` there is nothing to do.
        folder: Where the results are kept.
        books: Whose best trials are the finalists.
        take: Claims a run by its key; False where another driver has it.
    """

    def __init__(
        self, file: StudyFile, folder: StudyFolder, books: Books, take: Callable[[str], bool] = lambda key: True
    ) -> None:
        self._plan, self._seed = file.budget.confirm, file.study.seed
        self._folder, self._books, self._take = folder, books, take
        self._started: set[str] = set()
        self._queue: list[TrialRequest] | None = None

    def owns(self, request: TrialRequest) -> bool:
        """Whether a request is one of these."""
        return request.key in self._started

    @property
    def over(self) -> bool:
        """Whether every finalist has been started with every seed, and what other drivers started is over.

        Asked when no trial is under way any more.
        """
        return not self._requests()

    @property
    def wanted(self) -> bool:
        """Whether the study asks for it at all."""
        return self._plan is not None

    def next(self) -> TrialRequest | None:
        """The next run, or None: then none is left, or others have what is left."""
        requests = self._requests()
        for request in list(requests):
            if self._take(request.key):
                requests.remove(request)
                self._started.add(request.key)
                return request
        return None

    def _requests(self) -> list[TrialRequest]:
        if self._queue is None:
            self._queue = self._planned()
        self._queue = [request for request in self._queue if not self._folder.confirmation(request.key).exists()]
        return self._queue

    def _planned(self) -> list[TrialRequest]:
        if self._plan is None:
            return []
        places = self._books.places()
        finalists = [self._books.results[n] for n in sorted(places, key=lambda n: places[n])]
        finalists = [result for result in finalists if result.cached is None][: self._plan.top]
        return [
            replace(result.request, key=key, seed=self._seed + offset)
            for result in finalists
            for offset in range(1, self._plan.seeds + 1)
            if not self._folder.confirmation(key := f"{result.number:05d}-seed-{self._seed + offset}").exists()
        ]

    def keep(self, result: TrialResult) -> None:
        """Write what came of a run."""
        write_result(self._folder.confirmation(result.request.key), result)


def confirmed(folder: StudyFolder) -> list[dict[str, Any]]:
    """Per finalist that ran again: the seeds, and the mean and spread of each score over them, by trial."""
    found: dict[int, list[TrialResult]] = {}
    for path in folder.confirmations():
        result = read_result(path)
        if result.state == "complete":
            found.setdefault(result.number, []).append(result)
    return [
        {
            "trial": number,
            "seeds": [result.request.seed for result in results],
            "scores": {
                name: {
                    "mean": statistics.fmean(result.scores[name] for result in results),
                    "deviation": statistics.pstdev(result.scores[name] for result in results),
                }
                for name in results[0].scores
            },
        }
        for number, results in sorted(found.items())
    ]
