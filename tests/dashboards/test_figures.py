"""The figures: every trial is where its scores say, the front is marked, and an empty study says so."""

from __future__ import annotations

import re
import subprocess
import sys

import plotly.graph_objects as go
import pytest

from dashboards.frames import Frames
from dashboards.layers import layer_figure, layers_by_trial
from dashboards.pareto import front_figure
from dashboards.progress import history_figure
from dashboards.standalone import document
from dashboards.trials import importance_figure, ledger_figure
from search.record import tabulate
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from tests.search.results import result


@pytest.fixture
def frames() -> Frames:
    results = [
        result(0, scores={"accuracy": 0.95, "macs": 8e5}),
        result(1, scores={"accuracy": 0.90, "macs": 4e5}),
        result(2, scores={"accuracy": 0.80, "macs": 9e5}),
        result(3, scores={"accuracy": 0.97, "macs": 9e5}, violation=0.2),
        result(4, scores={"accuracy": 0.70, "macs": 5e5}, state="pruned", reason="stopped"),
        result(5, state="failed", reason="NaN"),
    ]
    return tabulate(
        results,
        study="s",
        directions={"accuracy": "maximize", "macs": "minimize"},
        front=[0, 1],
        baseline={"accuracy": 0.98, "macs": 1e6},
        constraints={"macs": "<= 0.85 * baseline"},
        bounds={"macs": 8.5e5},
    )


def traces(figure: go.Figure) -> dict[str, list[int]]:
    """The trials of each group of points."""
    return {
        trace.name: [int(number) for number, *_ in trace.customdata]
        for trace in figure.data
        if trace.customdata is not None
    }


def test_tables_hold_every_trial(frames: Frames) -> None:
    assert frames.trials["number"].tolist() == [0, 1, 2, 3, 4, 5]
    assert frames.trials["front"].tolist() == [True, True, False, False, False, False]
    assert frames.trials["feasible"].tolist() == [True, True, True, False, False, False]
    assert frames.complete()["number"].tolist() == [0, 1, 2, 3]
    assert frames.trials["pruning.sparsity"].tolist() == pytest.approx([0.5, 0.501, 0.502, 0.503, 0.504, 0.505])
    assert "pruning.sparsity" in frames.knobs()
    assert "violation.macs" not in frames.knobs()
    assert len(frames.series) == 10 + 4 * 2, "the last report, and the final figures in its place"
    assert frames.events.groupby("number")["pruned"].sum().tolist() == [60] * 6
    assert frames.layers[frames.layers["number"] == 2]["active"].tolist() == [42, 10]


def test_a_knob_that_does_not_act_is_missing() -> None:
    made = tabulate(
        [result(0, profile=CompressionProfile()), result(1, profile=CompressionProfile.of(PruningPolicy()))],
        study="s",
        directions={"accuracy": "maximize"},
    )
    assert made.trials["pruning.sparsity"].isna().tolist() == [True, False]


def test_every_trial_is_in_the_group_it_belongs_to(frames: Frames) -> None:
    assert traces(front_figure(frames)) == {
        "front": [0, 1],
        "feasible": [2],
        "infeasible": [3],
        "stopped early": [4],
    }


def test_the_baseline_and_the_limits_are_drawn(frames: Frames) -> None:
    figure = front_figure(frames)
    baseline = next(trace for trace in figure.data if trace.name == "baseline")
    assert (baseline.x[0], baseline.y[0]) == (1e6, 0.98)
    assert [(shape.x0, shape.x1, shape.label.text) for shape in figure.layout.shapes] == [
        (8.5e5, 8.5e5, "macs <= 0.85 * baseline")
    ]


def test_axes_are_chosen_or_given(frames: Frames) -> None:
    assert front_figure(frames).layout.xaxis.title.text == "macs"
    assert front_figure(frames).layout.yaxis.title.text == "accuracy"
    assert front_figure(frames, x="accuracy", y="macs").layout.xaxis.title.text == "accuracy"


def test_a_study_of_one_objective_is_drawn_over_its_trials() -> None:
    frames = tabulate([result(0, scores={"accuracy": 0.9})], study="s", directions={"accuracy": "maximize"})
    assert front_figure(frames).layout.xaxis.title.text == "number"


def test_hovering_shows_only_the_knobs_that_differ(frames: Frames) -> None:
    text = next(trace for trace in front_figure(frames).data if trace.name == "front").text[0]
    assert "trial 0" in text
    assert "pruning.sparsity 0.5" in text
    assert "pruning.criterion" not in text


def test_shades_of_counts_are_shares_of_the_layer(frames: Frames) -> None:
    heat = layer_figure(frames, 0).data[0]
    assert list(heat.y) == ["conv", "linear"]
    assert list(heat.x) == ["active", "created", "pruned", "sparsity"]
    assert heat.z[0].tolist() == pytest.approx([42 / 80, 12 / 80, 50 / 80, 0.475])
    assert heat.text[0].tolist() == ["42", "12", "50", "0.475"]


def test_layers_by_trial_keeps_the_networks_order(frames: Frames) -> None:
    heat = layers_by_trial(frames, numbers=[1, 0]).data[0]
    assert list(heat.y) == ["conv", "linear"]
    assert list(heat.x) == ["trial 1", "trial 0"]
    assert heat.z[1].tolist() == [0.5, 0.5]


def test_the_best_so_far_never_gets_worse(frames: Frames) -> None:
    line = next(trace for trace in history_figure(frames, "macs").data if trace.mode == "lines")
    assert list(line.y) == [8e5, 4e5, 4e5]
    rising = next(trace for trace in history_figure(frames).data if trace.mode == "lines")
    assert list(rising.y) == [0.95, 0.95, 0.95]


def test_the_ledger_shows_what_came_and_went(frames: Frames) -> None:
    bars = {trace.name: dict(zip(trace.x, trace.y, strict=True)) for trace in ledger_figure(frames, 1).data}
    assert bars == {"pruning: created": {1: 12}, "pruning: pruned": {0: -40, 1: -20}}


def test_importances_are_ranked() -> None:
    bar = importance_figure({"a": 0.1, "b": 0.6, "c": 0.3}, most=2).data[0]
    assert list(bar.y) == ["b", "c"]


def test_a_study_without_trials_says_so() -> None:
    frames = tabulate([], study="s", directions={"accuracy": "maximize", "macs": "minimize"})
    for figure in (front_figure(frames), history_figure(frames), layer_figure(frames, 0), layers_by_trial(frames),
                   ledger_figure(frames, 0), importance_figure({})):  # fmt: skip
        assert not figure.data
        assert figure.layout.annotations[0].text.endswith(".")


def test_a_page_needs_no_internet(frames: Frames) -> None:
    page = document("s", front_figure(frames), history_figure(frames))
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page)
    assert 1_000_000 < len(page) < 8_000_000, "plotly's own script must be in it, once"


def test_figures_do_without_torch() -> None:
    code = "import sys, dashboards.pareto, dashboards.layers, dashboards.trials; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
