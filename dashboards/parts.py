"""The parts that pages and the report are put together from: functions from a study's tables to components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from dash import dcc, html
from dash.development.base_component import Component

from dashboards.frames import Frames
from dashboards.pareto import kinds_of
from dashboards.profile import Score, knobs_of, scores_of
from dashboards.style import CONFIG, short, untitled

#: The style of a chip by what a trial is.
CHIPS = {
    "front": "front",
    "feasible": "feasible",
    "infeasible": "missed",
    "stopped early": "early",
    "failed": "failed",
}
#: The most failures that are listed one by one.
LISTED = 30


def card(*children: Component) -> Component:
    """A box of its own."""
    return html.Div([*children], className="card")


def graph(figure: go.Figure) -> Component:
    """A figure under its heading, without plotly's own buttons."""
    return html.Div([html.H3(untitled(figure)[0]), untitled_graph(figure)])


def untitled_graph(figure: go.Figure) -> Component:
    """A figure where its heading is said otherwise."""
    return dcc.Graph(figure=untitled(figure)[1], config=CONFIG)


def header(frames: Frames, aside: Sequence[Component] = ()) -> Component:
    """Name, task, where the study is and how far; `aside` goes to the right."""
    done = len(frames.trials)
    said = f"{done} of {max(done, frames.wanted)} trials" if frames.wanted else f"{done} trials"
    facts = [said, f"{duration(frames.seconds)} so far" if frames.phase == "running" else duration(frames.seconds)]
    return html.Header(
        [
            html.Div(
                [
                    html.Div(
                        [
                            html.H1(frames.study),
                            html.Span(frames.phase, className=f"chip {frames.phase}"),
                            html.Span(f"task {frames.task}", className="faint") if frames.task else html.Span(),
                        ],
                        className="row",
                    ),
                    html.Div(list(aside), className="row"),
                ],
                className="row spread head",
            ),
            html.Progress(value=str(done), max=str(max(1, done, frames.wanted)), title=said),
            html.P(" · ".join([*facts, *([frames.reason] if frames.reason else [])]), className="faint wait"),
        ]
    )


def summary(frames: Frames) -> Component:
    """The cards: the baseline, the best trial, the constraints, and what became of the trials."""
    return html.Section([_baseline(frames), _best(frames), _limits(frames), _counts(frames)], className="cards")


def scores_table(frames: Frames, number: int) -> Component:
    """A trial's figures beside the baseline's, and whether it keeps the constraints."""
    rows = [
        [
            html.Td([score.name, html.Div(_verdict(score), className="faint")], className="name"),
            html.Td(short(score.before), className="number"),
            html.Td(html.B(short(score.after)), className="number"),
            html.Td(score.change, className="number"),
        ]
        for score in scores_of(frames, number)
    ]
    return table(["", "baseline", f"trial {number}", ""], rows, numbers=(1, 2, 3))


def knobs_table(frames: Frames, number: int) -> Component:
    """The profile: the knobs of each policy that act."""
    parts: list[Component] = []
    searched = set(frames.searched())
    for policy, knobs in knobs_of(frames, number).items():
        rows = [
            [
                html.Td(html.B(knob) if f"{policy}.{knob}" in searched else knob, className="name"),
                html.Td(value, className="number"),
            ]
            for knob, value in knobs.items()
        ]
        parts.append(html.Details([html.Summary(policy), table([], rows)], open=True))
    if not parts:
        return html.P("The profile is empty: the network as it was.", className="faint")
    return html.Div(parts, className="policies")


def failures_table(frames: Frames) -> Component:
    """The failed trials with their reasons; equal reasons in one line."""
    failed = frames.trials[frames.trials["state"] == "failed"]
    if failed.empty:
        return html.P("No trial has failed.", className="faint")
    groups = failed.groupby("reason", sort=False)["number"].agg(list)
    rows = [
        [
            html.Td(str(len(numbers)), className="number"),
            html.Td(str(reason), className="name"),
            html.Td(", ".join(str(number) for number in numbers[:8]) + (" …" if len(numbers) > 8 else "")),
        ]
        for reason, numbers in list(groups.items())[:LISTED]
    ]
    return table(["failed", "reason", "trials"], rows, numbers=(0,))


def front_table(frames: Frames) -> Component:
    """The front, best first objective first, as figures."""
    names = list(frames.directions)
    rows = frames.trials[frames.trials["number"].isin(frames.front())]
    if rows.empty:
        return html.P("No trial meets every constraint yet.", className="faint")
    ordered = rows.sort_values(names[0], ascending=frames.directions[names[0]] == "minimize")
    cells = [
        [
            html.Td(_trial_name(frames, int(row["number"])), className="name"),
            *(html.Td(short(row[name]), className="number") for name in names),
        ]
        for _, row in ordered.iterrows()
    ]
    return table(["trial", *names], cells, numbers=range(1, len(names) + 1))


def kind_chip(frames: Frames, number: int) -> Component:
    """What a trial is, as a chip."""
    row = frames.trial(number)
    if row is None:
        return html.Span()
    kind = str(kinds_of(pd.DataFrame([row])).iloc[0])
    return html.Span("on the front" if kind == "front" else kind, className=f"chip {CHIPS[kind]}")


def table(head: Sequence[str], rows: Sequence[Sequence[Component]], numbers: Sequence[int] = ()) -> Component:
    """A table that scrolls where it is too wide; `numbers` are the columns that stand to the right."""
    parts: list[Component] = []
    if head:
        cells = [
            html.Th(name, className="number" if index in numbers else "", scope="col")
            for index, name in enumerate(head)
        ]
        parts.append(html.Thead(html.Tr(cells)))
    parts.append(html.Tbody([html.Tr(list(row)) for row in rows]))
    return html.Div(html.Table(parts), className="scroll")


def duration(seconds: float) -> str:
    """``2 h 05 min``, ``3 min 20 s``, ``12 s``."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def _baseline(frames: Frames) -> Component:
    names = dict.fromkeys([*frames.directions, *frames.constraints])
    figures = {name: short(frames.baseline[name]) for name in names if name in frames.baseline}
    return _card("Baseline", _figures(figures) if figures else html.P("Not measured yet.", className="faint"))


def _best(frames: Frames) -> Component:
    if frames.best is None:
        return _card("Best", html.P("No trial is complete yet.", className="faint"))
    scores = scores_of(frames, frames.best)
    figures = {
        f"{score.name} {score.change}".strip(): short(score.after) for score in scores if score.after is not None
    }
    title = html.Div([html.H3(f"Best: trial {frames.best}"), kind_chip(frames, frames.best)], className="row spread")
    return html.Div([title, _figures(figures)], className="card")


def _limits(frames: Frames) -> Component:
    if not frames.constraints:
        return _card("Constraints", html.P("None: every complete trial is feasible.", className="faint"))
    best = {score.name: score for score in scores_of(frames, frames.best)} if frames.best is not None else {}
    rows = [
        [
            html.Td(f"{name} {text}", className="name"),
            html.Td(short(frames.bounds.get(name)), className="number"),
            html.Td(_verdict(best[name], plain=True) if name in best else ""),
        ]
        for name, text in frames.constraints.items()
    ]
    return _card("Constraints", table(["", "comes to", "best"], rows, numbers=(1,)))


def _counts(frames: Frames) -> Component:
    kinds = kinds_of(frames.trials).value_counts()
    figures = {
        "on the front": kinds.get("front", 0),
        "feasible": len(frames.feasible()),
        "infeasible": kinds.get("infeasible", 0),
        "stopped early": kinds.get("stopped early", 0),
        "failed": kinds.get("failed", 0),
    }
    return _card("Trials", _figures({name: str(count) for name, count in figures.items()}))


def _verdict(score: Score, *, plain: bool = False) -> Component | str:
    if score.met is None:
        return "" if plain else score.constraint
    word = html.Span("met" if score.met else "missed", className="met" if score.met else "missed")
    return word if plain else html.Span([word, f" {score.constraint}"])


def _trial_name(frames: Frames, number: int) -> str:
    return f"{number} (best)" if number == frames.best else str(number)


def _figures(figures: Mapping[str, str]) -> Component:
    return html.Div(
        [html.Div([html.B(value), html.Span(name)], className="figure") for name, value in figures.items()],
        className="figures",
    )


def _card(title: str, *children: Any) -> Component:
    return html.Div([html.H3(title), *children], className="card")
