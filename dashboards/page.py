"""The live pages: what stands where, and by which name `dashboards.app` fills it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dash import dcc, html
from dash.development.base_component import Component

from dashboards.frames import Frames
from dashboards.pareto import axes_of
from dashboards.parts import card, graph, kind_chip, knobs_table, scores_table, untitled_graph
from dashboards.profile import profile_figure
from dashboards.report import trial_figures
from dashboards.style import CONFIG

#: Milliseconds between two looks at the study.
EVERY = 2000
#: Of the figure of the front, in pixels.
FRONT_HEIGHT = 480


def shell() -> Component:
    """What every page has: the address, the clock, and room for the page."""
    return html.Div([dcc.Location(id="where", refresh=False), html.Div(id="page")])


def index_page(studies: Sequence[Mapping[str, Any]], prefix: str) -> Component:
    """All studies: ``study``, ``state`` and ``said`` of each."""
    entries = [
        html.Li(
            dcc.Link(
                [
                    html.Div(
                        [html.H3(study["study"]), html.Span(study["state"], className=f"chip {study['state']}")],
                        className="row spread",
                    ),
                    html.P(study["said"], className="faint"),
                ],
                href=f"{prefix}{study['study']}",
                className="card",
            )
        )
        for study in studies
    ]
    nothing = html.P("No study has run in this home yet: start one with pleach run FILE, or pleach demo.")
    return html.Main([html.H1("Studies"), html.Ul(entries, className="list") if entries else nothing])


def trouble_page(message: str, prefix: str) -> Component:
    """Why there is nothing to see."""
    return html.Main([html.H1("Not here"), html.P(message), dcc.Link("all studies", href=prefix)])


def study_page(frames: Frames, prefix: str, *, exports: bool, linked: bool) -> Component:
    """One study; the parts are filled in by callbacks as it goes on."""
    return html.Main(
        [
            dcc.Interval(id="clock", interval=EVERY),
            dcc.Store(id="study", data=frames.study),
            dcc.Store(id="version"),
            dcc.Store(id="followed"),
            html.Nav(dcc.Link("all studies", href=prefix), className="crumb"),
            html.Div(id="trouble", className="trouble", role="alert"),
            html.Div(id="head"),
            html.Div(id="summary"),
            html.Div(
                [
                    html.Div([_front_card(frames), html.Div(id="members", className="card")], className="stack"),
                    html.Div([_chooser(exports=exports, linked=linked), html.Div(id="trial-card")], className="card"),
                ],
                className="two",
            ),
            html.H2("How it went on"),
            html.Div(id="progress", className="halves"),
            html.H2(id="trial-title"),
            html.Div(id="trial-figures", className="halves"),
            html.H2("Layers over trials"),
            _layers_card(),
            html.H2("Failures"),
            html.Div(id="failures", className="card"),
        ]
    )


def trial_card(frames: Frames, number: int | None) -> list[Component]:
    """One trial beside the baseline: figures, constraints, profile."""
    if number is None or frames.trial(number) is None:
        return [html.P("No trial is decided yet.", className="faint")]
    row = frames.trial(number)
    assert row is not None
    parts: list[Component] = [html.Div([html.H3(f"Trial {number}"), kind_chip(frames, number)], className="row spread")]
    if row["reason"]:
        parts.append(html.P(str(row["reason"]), className="faint"))
    if row["state"] != "failed":
        parts += [untitled_graph(profile_figure(frames, number)), scores_table(frames, number)]
    return [*parts, html.H3("Profile", className="wait"), knobs_table(frames, number)]


def trial_cards(frames: Frames, number: int | None) -> list[Component]:
    """The figures of one trial, each on its card."""
    if number is None:
        return []
    figures = trial_figures(frames, number)
    return [card(graph(figure)) for figure in figures] or [
        card(html.P("It left no figures behind.", className="faint"))
    ]


def _front_card(frames: Frames) -> Component:
    x, y = axes_of(frames)
    axes = [*frames.directions, "number"] if len(frames.directions) == 1 else list(frames.directions)
    hint = "A click on a point shows its trial; so do the field and the buttons of the trial's card."
    fields = html.Div([_pick("across", "x", axes, x), _pick("upwards", "y", axes, y)], className="row")
    return card(
        html.Div([html.H3("The front"), fields], className="row spread"),
        dcc.Graph(id="front", config=CONFIG, style={"height": FRONT_HEIGHT}),
        _faint(hint),
    )


def _layers_card() -> Component:
    fields = [_pick("quantity", "quantity", ["sparsity"], "sparsity"), _scope()]
    return card(html.Div(fields, className="row spread"), html.Div(id="layers"))


def _faint(text: str) -> Component:
    return html.P(text, className="faint")


def _chooser(*, exports: bool, linked: bool) -> Component:
    """Which trial is shown, for mouse and keyboard, and what can be done with it."""
    buttons: list[Component] = [
        html.Button("\N{LEFTWARDS ARROW} before", id="before", className="button", title="the trial before"),
        html.Button("next \N{RIGHTWARDS ARROW}", id="next", className="button", title="the next trial"),
        html.Button("best", id="to-best", className="button", title="the best trial, also when it changes"),
    ]
    if linked:
        buttons.append(html.A("MLflow", id="run", className="button", target="_blank", title="its run in MLflow"))
    if exports:
        buttons.append(
            html.Button("Export", id="export", className="button first", title="its network as a folder, zipped")
        )
    return html.Div(
        [
            html.Div([_pick("trial", "trial", [], None), *buttons], className="row"),
            dcc.Loading(html.Div(id="exported", className="faint wait", role="status"), type="dot"),
            dcc.Location(id="download", refresh=True),
        ]
    )


def _scope() -> Component:
    choices = [{"label": " the front", "value": "front"}, {"label": " all trials", "value": "all"}]
    return dcc.RadioItems(choices, "front", id="scope", inline=True, labelStyle={"marginRight": "14px"})


def _pick(label: str, name: str, options: Sequence[str], value: str | None) -> Component:
    field = dcc.Dropdown(list(options), value, id=name, clearable=False, searchable=name == "trial")
    return html.Label([label, html.Div(field)], className="pick", htmlFor=name)
