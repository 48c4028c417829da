"""The contract as a class of tests: a mechanism's file derives from it and says over which profiles its laws hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from objectives.task import Task
from spaces.profile import CompressionProfile
from tests import contracts
from tests.nets import Blobs


class Laws:
    """I1 to I6 over many profiles.

    Attributes:
        profiles: By name; every law without a list of its own is tried on each.
        mixing, repeated: The names of those whose batches are taken apart, and which are run twice.
        steps: Of each run: enough for every policy to act in it.
        at: The step at which the interrupted run breaks off.
    """

    profiles: ClassVar[Mapping[str, CompressionProfile]]
    mixing: ClassVar[Iterable[str]]
    repeated: ClassVar[Iterable[str]]
    task: ClassVar[Task] = Blobs()
    steps: ClassVar[int] = contracts.STEPS
    at: ClassVar[int]

    def pytest_generate_tests(self, metafunc: Any) -> None:
        chosen = {
            "test_samples_of_a_batch_do_not_mix": self.mixing,
            "test_same_seed_same_result": self.repeated,
        }.get(metafunc.function.__name__, self.profiles)
        metafunc.parametrize("profile", [self.profiles[name] for name in chosen], ids=list(chosen))

    def test_attaching_keeps_outputs(self, profile: CompressionProfile) -> None:
        contracts.attaching_keeps_outputs(self.task, profile, self.steps)

    def test_finalized_equals_attached_and_the_ledger_counts_its_nonzeros(self, profile: CompressionProfile) -> None:
        contracts.finalized_equals_attached(self.task, profile, self.steps)

    def test_interrupted_run_ends_like_a_whole_one(self, profile: CompressionProfile, tmp_path: Path) -> None:
        assert self.at < self.steps
        contracts.interrupted_equals_whole(self.task, profile, tmp_path, self.at, self.steps)

    def test_same_seed_same_result(self, profile: CompressionProfile) -> None:
        contracts.same_seed_same_result(self.task, profile, self.steps)

    def test_samples_of_a_batch_do_not_mix(self, profile: CompressionProfile) -> None:
        contracts.batches_do_not_mix(self.task, profile, self.steps)
