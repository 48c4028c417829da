"""The figures of one trial: what is drawn is what the trial reported, and a trial that reported nothing says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd
import plotly.graph_objects as go
import pytest

from dashboards.frames import Frames
from dashboards.granularity import bits_figure
from dashboards.profile import Score, knobs_of, profile_figure, scores_of
from dashboards.progress import hypervolume_figure, progress_of
from dashboards.resonance import spectrum_figure, threshold_figure
from dashboards.routing import routing_figure
from dashboards.trials import curve_figure
from search.record import tabulate
from search.result import Report
from tests.search.results import result


def frames(
    first: Mapping[str, float], second: Mapping[str, float], layers: Mapping[str, float] | None = None
) -> Frames:
    """A study whose trial 0 reported two iterations and whose trial 1 reported nothing."""
    reports = (Report(1, 2, {}, first), Report(2, 2, {}, second))
    rows = tuple({**row, **(layers or {})} for row in result(0).layers)
    told = replace(result(0), reports=reports, metrics={}, layers=rows)
    silent = replace(result(1), reports=(), metrics={}, layers=())
    return tabulate(
        [told, silent],
        study="s",
        directions={"accuracy": "maximize", "macs": "minimize"},
        front=[0],
        baseline={"accuracy": 0.98, "macs": 1e6},
        constraints={"macs": "<= 0.6 * baseline"},
        bounds={"macs": 6e5},
    )


EMPTY = frames({}, {})


def said(figure: go.Figure) -> str:
    return " ".join(str(note.text) for note in figure.layout.annotations)


@pytest.mark.parametrize(
    "draw",
    [bits_figure, routing_figure, threshold_figure, spectrum_figure, curve_figure],
    ids=lambda draw: draw.__name__,
)
def test_a_trial_that_reported_nothing_of_the_kind_says_so(draw: Callable[[Frames, int], go.Figure]) -> None:
    figure = draw(EMPTY, 1)
    assert "Trial 1" in said(figure)
    assert not figure.data


def test_the_blocks_that_samples_run_are_what_they_do_not_skip() -> None:
    figure = routing_figure(
        frames({"routing/skipped/a": 0.25, "routing/skipped/b": 1.0}, {"routing/skipped/a": 0.5}), 0
    )
    (drawn,) = figure.data
    assert list(drawn.x) == [1, 2]
    shown = dict(zip(drawn.y, drawn.z, strict=True))
    assert list(shown["a"]) == [0.75, 0.5]
    assert shown["b"][0] == 0.0


def test_blocks_told_once_are_bars() -> None:
    (drawn,) = routing_figure(frames({}, {"routing/skipped/a": 0.25}), 0).data
    assert (drawn.type, list(drawn.y), list(drawn.x)) == ("bar", ["a"], [0.75])


def test_the_bits_of_a_layer_are_the_last_that_were_told() -> None:
    (drawn,) = bits_figure(frames({"granularity/bits/conv.weight": 8.0}, {"granularity/bits/conv.weight": 4.0}), 0).data
    assert (list(drawn.y), list(drawn.x)) == (["conv"], [4.0])


def test_the_layer_table_says_more_of_bits_than_the_reports() -> None:
    table = {"bits": 2.5, "activation_bits": 8.0}
    weights, activations = bits_figure(frames({}, {"granularity/bits/conv.weight": 4.0}, table), 0).data
    assert list(weights.x) == [2.5, 2.5]
    assert list(activations.x) == [8.0, 8.0]


def test_frequencies_stand_in_order_whatever_their_text() -> None:
    told = {"resonance/spectrum/0.25": 0.1, "resonance/spectrum/0.0625": 0.6, "resonance/spectrum/0.125": 0.3}
    (drawn,) = spectrum_figure(frames({}, told), 0).data
    assert list(drawn.x) == [0.0625, 0.125, 0.25]
    assert list(drawn.y) == [0.6, 0.3, 0.1]


def test_the_threshold_is_drawn_with_what_it_controls() -> None:
    figure = threshold_figure(
        frames({"resonance/threshold": 0.3, "resonance/sparsity": 0.1}, {"resonance/threshold": 0.4}), 0
    )
    assert {line.name: list(line.y) for line in figure.data} == {"threshold": [0.3, 0.4], "sparsity": [0.1]}


def test_a_trial_is_drawn_iteration_by_iteration() -> None:
    figure = curve_figure(frames({"quality/accuracy": 0.5}, {"quality/accuracy": 0.9, "size/sparsity": 0.2}), 0)
    assert {line.name: (list(line.x), list(line.y)) for line in figure.data} == {
        "accuracy": ([1, 2], [0.5, 0.9]),
        "sparsity": ([2], [0.2]),
    }


def test_a_trial_is_a_share_of_the_baseline_with_its_limit() -> None:
    bars, limits = profile_figure(EMPTY, 0).data
    assert dict(zip(bars.y, bars.x, strict=True)) == pytest.approx({"accuracy": 0.9 / 0.98, "macs": 0.5})
    assert dict(zip(limits.y, limits.x, strict=True)) == {"macs": 0.6}
    assert "no figures" in said(profile_figure(EMPTY, 7))


def test_a_change_is_said_in_points_or_as_a_factor() -> None:
    accuracy, macs = scores_of(EMPTY, 0)
    assert (accuracy.change, accuracy.met) == ("-8.0 points", None)
    assert (macs.change, macs.met, macs.constraint) == ("\N{MULTIPLICATION SIGN} 0.5", True, "<= 0.6 * baseline")
    assert Score("x", 0.5, 0.5, "", None).change == "unchanged"
    assert Score("x", None, 0.5, "", None).change == ""
    assert scores_of(EMPTY, 9) == []


def test_the_knobs_that_a_study_searches_come_first() -> None:
    assert next(iter(knobs_of(EMPTY, 0)["pruning"])) == "sparsity"
    assert knobs_of(EMPTY, 9) == {}


def test_the_hypervolume_after_each_trial_is_worked_out_by_hand() -> None:
    rows = [result(n, scores={"accuracy": a, "macs": m}) for n, (a, m) in enumerate([(0.49, 5e5), (0.98, 5e5)])]
    rows.append(result(2, scores={"accuracy": 0.9, "macs": 1e5}, violation=1.0))
    known = tabulate(
        rows, study="s", directions={"accuracy": "maximize", "macs": "minimize"}, front=[1],
        baseline={"accuracy": 0.98, "macs": 1e6}, constraints={}, bounds={},
    )  # fmt: skip
    progress = progress_of(known)
    # Boxes of accuracy / baseline by 1 - macs / baseline: 0.5 x 0.5, then 1 x 0.5; the third is infeasible.
    assert progress["hypervolume"].tolist() == pytest.approx([0.25, 0.5, 0.5])
    assert progress["feasible share"].tolist() == pytest.approx([1, 1, 2 / 3])
    volume, share = hypervolume_figure(known).data
    assert list(volume.y) == pytest.approx([0.25, 0.5, 0.5])
    assert list(share.x) == [0, 1, 2]
    none = replace(known, trials=pd.DataFrame(columns=known.trials.columns))
    assert "No trial is complete" in said(hypervolume_figure(none))
