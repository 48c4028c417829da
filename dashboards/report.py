"""A study as one file that stands alone: the same parts and figures as the live page, for the best and the front."""

from __future__ import annotations

from collections.abc import Iterator

import plotly.graph_objects as go
from dash import html
from dash.development.base_component import Component

from dashboards.frames import Frames
from dashboards.granularity import bits_figure
from dashboards.layers import layer_figure, layers_by_trial, quantities
from dashboards.pareto import front_figure
from dashboards.parts import (
    card,
    failures_table,
    front_table,
    graph,
    header,
    kind_chip,
    knobs_table,
    scores_table,
    summary,
)
from dashboards.profile import profile_figure
from dashboards.progress import history_figure, hypervolume_figure
from dashboards.resonance import spectrum_figure, threshold_figure
from dashboards.routing import routing_figure
from dashboards.standalone import document
from dashboards.trials import curve_figure, importance_figure, ledger_figure

#: So many members of the front are shown in full.
SHOWN = 6


def report(frames: Frames) -> str:
    """The whole study."""
    return document(f"{frames.study}: report", *_parts(frames))


def trial_figures(frames: Frames, number: int) -> list[go.Figure]:
    """What there is to see of one trial's way and of its layers; figures without anything to show are left out."""
    figures = (
        curve_figure(frames, number),
        ledger_figure(frames, number),
        layer_figure(frames, number),
        routing_figure(frames, number),
        bits_figure(frames, number),
        threshold_figure(frames, number),
        spectrum_figure(frames, number),
    )
    return [figure for figure in figures if figure.data]


def progress_figures(frames: Frames) -> list[go.Figure]:
    """How the study went on, as a whole and in each objective."""
    return [hypervolume_figure(frames), *(history_figure(frames, name) for name in frames.directions)]


def front_layers(frames: Frames) -> list[go.Figure]:
    """Every quantity of the layers, over the trials of the front."""
    return [layers_by_trial(frames, quantity, frames.front()) for quantity in quantities(frames)]


def _parts(frames: Frames) -> Iterator[Component]:
    yield header(frames)
    yield summary(frames)
    yield html.H2("The front")
    yield card(graph(front_figure(frames, selected=frames.best)))
    yield html.Div(card(front_table(frames)), className="halves")
    yield html.H2("How it went on")
    figures = [*progress_figures(frames), importance_figure(frames.importances)]
    yield html.Div([card(graph(figure)) for figure in figures], className="halves")
    yield html.H2("Failures")
    yield card(failures_table(frames))
    if front_layers(frames):
        yield html.H2("The front's layers")
        yield html.Div([card(graph(figure)) for figure in front_layers(frames)], className="halves")
    shown = dict.fromkeys([*([frames.best] if frames.best is not None else []), *frames.front()])
    for number in list(shown)[:SHOWN]:
        yield from _trial(frames, number)


def _trial(frames: Frames, number: int) -> Iterator[Component]:
    best = " (best)" if number == frames.best else ""
    yield html.H2([f"Trial {number}{best} ", kind_chip(frames, number)])
    yield html.Div(
        [
            card(graph(profile_figure(frames, number)), scores_table(frames, number)),
            card(knobs_table(frames, number)),
            *(card(graph(figure)) for figure in trial_figures(frames, number)),
        ],
        className="halves",
    )
