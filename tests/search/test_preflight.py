"""Before the first trial: exact sizes at the corners, constraints that no profile meets, budgets that are too short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from search.compress import compress
from search.decisions import decisions, enough_steps
from search.preflight import check, look
from search.projection import PROJECTED, projected
from search.scoring import measure_baseline
from search.study_file import StudyFile
from spaces.errors import StudyFileError, TaskError
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from spaces.reconnection import ReconnectionPolicy
from spaces.space import SearchSpace
from tests.nets import Blobs

CHANNELS = {"granularity": "channel", "criterion": "magnitude", "allocation": "uniform", "schedule": "oneshot"}


def study(
    spaces: Mapping[str, Any], constraints: Mapping[str, str] | None = None, *, epochs: float = 2, target: str = ""
) -> StudyFile:
    return StudyFile.of(
        {
            "study": {"name": "s"},
            "task": {"target": target or "tests.nets:Blobs"},
            "objectives": {"accuracy": "maximize", "macs": "minimize"},
            "constraints": dict(constraints or {}),
            "budget": {"epochs": epochs},
            "spaces": dict(spaces),
        }
    )


def verdicts(file: StudyFile) -> list[str]:
    return [limit.verdict for limit in check(file).limits]


@pytest.mark.parametrize(
    "profile",
    [
        CompressionProfile.of(PruningPolicy(sparsity=0.5, schedule="oneshot")),
        CompressionProfile.of(PruningPolicy(granularity="channel", sparsity=0.5, schedule="oneshot")),
        CompressionProfile.of(PruningPolicy(granularity="nm", schedule="oneshot")),
        CompressionProfile.of(PruningPolicy(sparsity=0.8), ReconnectionPolicy()),
    ],
    ids=["weight", "channel", "nm", "reconnected"],
)
def test_a_projection_has_the_sizes_that_a_trial_ends_with(profile: CompressionProfile) -> None:
    task = Blobs()
    baseline = measure_baseline(task)
    ahead = projected(task, profile, baseline, steps=16)
    after = compress(task.network(), profile, task, epochs=2).scores
    assert set(ahead) == set(PROJECTED)
    for name in PROJECTED:
        assert ahead[name] == pytest.approx(after[name], rel=0.01), name


def test_the_corners_go_from_mild_to_harsh() -> None:
    found = check(study({"pruning": {**CHANNELS, "sparsity": {"low": 0.1, "high": 0.8}}}))
    macs = [found.corners[corner]["macs"] for corner in ("mildest", "middle", "harshest")]
    assert found.baseline["macs"] > macs[0] > macs[1] > macs[2]
    assert [found.profiles[c]["pruning.sparsity"] for c in found.profiles] == [0.1, pytest.approx(0.45), 0.8]
    assert (found.steps_per_epoch, found.steps) == (8, 16)
    assert found.refusals == ()
    found.refuse()


def test_every_granularity_has_its_line() -> None:
    found = check(study({"pruning": {**CHANNELS, "granularity": ["weight", "channel"]}}))
    assert list(found.corners) == ["mildest", "middle", "harshest", "harshest, channel"]
    assert found.corners["harshest"]["macs"] == found.baseline["macs"]
    assert found.corners["harshest, channel"]["macs"] < found.baseline["macs"]


@pytest.mark.parametrize(
    ("constraint", "verdict"),
    [
        ({"macs": "<= baseline"}, "met"),
        ({"macs": "<= 0.5 * baseline"}, "reachable"),
        ({"macs": "<= 0.0001 * baseline"}, "impossible"),
        ({"sparsity": ">= 0.5"}, "reachable"),
        ({"sparsity": ">= 1.5"}, "impossible"),
        ({"plasticity": ">= 2"}, "impossible"),
        ({"plasticity": ">= 0.1"}, "training"),
        ({"accuracy": ">= baseline - 0.01"}, "met"),
        ({"accuracy": ">= baseline + 0.001"}, "training"),
    ],
)
def test_constraints_are_judged_before_any_training(constraint: Mapping[str, str], verdict: str) -> None:
    file = study({"pruning": {**CHANNELS, "sparsity": {"low": 0.1, "high": 0.8}}}, constraint)
    found = check(file)
    assert [limit.verdict for limit in found.limits] == [verdict]
    assert bool(found.refusals) == (verdict == "impossible")
    if found.refusals:
        with pytest.raises(StudyFileError, match="relax it, or widen the space"):
            found.refuse()


def test_a_bound_that_only_another_choice_reaches_is_not_refused() -> None:
    space = {"pruning": {"granularity": ["weight", "channel"], "schedule": "oneshot"}}
    assert verdicts(study(space, {"macs": "<= 0.5 * baseline"})) == ["reachable"]
    assert verdicts(study({"pruning": {"granularity": "weight"}}, {"macs": "<= 0.5 * baseline"})) == ["impossible"]


def test_a_cost_just_out_of_reach_is_let_pass_with_a_note() -> None:
    space = {"pruning": {**CHANNELS, "sparsity": {"low": 0.1, "high": 0.5}}}
    reach = check(study(space)).corners["harshest"]["macs"]
    found = check(study(space, {"macs": f"<= {reach * 0.98}"}))
    assert [limit.verdict for limit in found.limits] == ["close"]
    assert any("edge" in note for note in found.notes)
    assert not found.refusals


def test_a_budget_in_which_a_policy_hardly_acts_is_refused_with_one_that_is_enough() -> None:
    space = {"pruning": CHANNELS, "reconnection": {"interval": {"low": 0.2, "high": 0.4}, "t_end": 0.5}}
    found = check(study(space, epochs=4))
    assert found.decisions["reconnection"].wanted == 3
    assert found.decisions["reconnection"].fewest == 2  # steps 0 and 0.4 of the budget
    with pytest.raises(
        StudyFileError, match="reconnection must act at least 3 times in a trial, but acts only 2 times"
    ):
        found.refuse()
    short = {"pruning": CHANNELS, "reconnection": {}}
    with pytest.raises(StudyFileError, match=r"raise budget\.epochs to 0\.5") as caught:
        check(study(short, epochs=0.25)).refuse()  # two steps
    assert "\n" not in str(caught.value)
    check(study(short, epochs=0.5)).refuse()


def test_a_network_that_cannot_be_traced_is_noted() -> None:
    found = check(study({"pruning": {"granularity": "weight"}}, target="tests.search.test_preflight:Branching"))
    assert any("cannot be traced" in note for note in found.notes)


def test_a_task_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(TaskError, match="there is nothing to compress"):
        check(study({"pruning": {}}, target="tests.search.test_preflight:Empty"))


def test_it_says_how_long_a_trial_takes() -> None:
    found = check(study({"pruning": CHANNELS}))
    assert 0 < found.seconds_per_trial < 60


def test_what_is_known_is_json() -> None:
    task = Blobs()
    found = look(study({"pruning": CHANNELS}, {"macs": "<= 0.5 * baseline"}), task, measure_baseline(task)).to_dict()
    assert found["limits"][0]["text"] == "macs <= 0.5 * baseline"
    assert found["decisions"]["pruning"] == {"fewest": 1, "most": 1, "wanted": 1}


# -- how often a policy acts ------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    steps=st.integers(1, 400),
    interval=st.tuples(st.floats(0.01, 0.4), st.floats(0.01, 0.4)).map(sorted),
    point=st.floats(0, 1),
)
def test_no_point_of_the_space_acts_less_often_than_said(steps: int, interval: list[float], point: float) -> None:
    low, high = interval
    space = SearchSpace.from_settings({"pruning": {}, "reconnection": {"interval": {"low": low, "high": high}}})
    found = decisions(space, "reconnection", steps)
    for t_end in (0.5, 0.7, 0.9):
        policy = ReconnectionPolicy(interval=low + point * (high - low), t_end=t_end)
        assert found.fewest <= len(policy.decision_steps(steps)) <= found.most


def test_a_knob_that_acts_under_another_choice_counts() -> None:
    space = SearchSpace.from_settings(
        {"pruning": {"schedule": ["oneshot", "iterative"], "rounds": {"low": 3, "high": 6}}}
    )
    found = decisions(space, "pruning", 100)
    assert (found.fewest, found.most) == (1, 6)
    assert found.enough


def test_enough_steps_are_enough_and_not_far_too_many() -> None:
    space = SearchSpace.from_settings({"pruning": {}, "reconnection": {"t_end": 0.9}})
    needed = enough_steps(space, "reconnection", 1)
    assert needed is not None
    assert decisions(space, "reconnection", needed).enough
    assert not decisions(space, "reconnection", 1).enough
    assert needed <= 4
    never = SearchSpace.from_settings({"pruning": {}, "reconnection": {"interval": 0.5, "t_end": 0.5}})
    assert enough_steps(never, "reconnection", 10) is None


# -- tasks of this test -----------------------------------------------------------------------------------------------


class Branching(Blobs):
    """Its network goes one way or the other, depending on the numbers."""

    def network(self) -> nn.Module:
        inner = super().network()

        class Either(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, x: Tensor) -> Tensor:
                y: Tensor = self.inner(x) if float(x.sum()) > -1e9 else -self.inner(x)
                return y

        return Either().eval()


class Empty(Blobs):
    """Its network has nothing to prune."""

    def network(self) -> nn.Module:
        return nn.Flatten()
