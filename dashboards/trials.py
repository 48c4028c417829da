"""The trials of a study: which knobs mattered, how it went on, how connections came and went."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from dashboards.frames import Frames
from dashboards.style import BLUE, GREEN, GREY, ORANGE, RED, SKY, empty, styled


def importance_figure(importances: Mapping[str, float], *, most: int = 20) -> go.Figure:
    """How much of the difference between trials each knob explains, the greatest first.

    Args:
        importances: By knob, >= 0.
        most: So many are shown.
    """
    title = "What mattered"
    if not importances:
        return empty(title, "Too few complete trials to tell.")
    ranked = sorted(importances.items(), key=lambda pair: pair[1], reverse=True)[:most]
    figure = go.Figure(
        go.Bar(
            x=[share for _, share in ranked],
            y=[name for name, _ in ranked],
            orientation="h",
            marker={"color": BLUE},
            text=[f"{share:.0%}" for _, share in ranked],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    return styled(
        figure,
        title=title,
        height=140 + 26 * len(ranked),
        yaxis={"autorange": "reversed", "automargin": True},
        xaxis={"title": {"text": "importance"}, "tickformat": ".0%"},
        margin={"l": 64, "r": 64, "t": 56, "b": 56},
    )


def history_figure(frames: Frames, objective: str | None = None) -> go.Figure:
    """One objective over the trials, with the best feasible value so far."""
    objective = objective or next(iter(frames.directions))
    title = f"{objective} over the trials"
    if objective not in frames.trials or frames.complete().empty:
        return empty(title, "No trial is complete yet.")
    complete = frames.complete()
    feasible = complete[complete["feasible"].astype(bool)]
    figure = go.Figure()
    for name, rows, color, symbol in (
        ("misses a constraint", complete[~complete["feasible"].astype(bool)], ORANGE, "diamond-open"),
        ("feasible", feasible, BLUE, "circle"),
    ):
        marker = {"color": color, "symbol": symbol, "size": 8}
        figure.add_trace(go.Scatter(x=rows["number"], y=rows[objective], mode="markers", name=name, marker=marker))
    best = feasible[objective].cummax() if frames.directions[objective] == "maximize" else feasible[objective].cummin()
    line = {"color": GREEN, "shape": "hv", "width": 2}
    figure.add_trace(go.Scatter(x=feasible["number"], y=best, mode="lines", name="best feasible so far", line=line))
    if objective in frames.baseline:
        figure.add_hline(y=frames.baseline[objective], line={"dash": "dot", "color": RED}, annotation_text="baseline")
    return styled(figure, title=title, xaxis={"title": {"text": "trial"}}, yaxis={"title": {"text": objective}})


def ledger_figure(frames: Frames, number: int) -> go.Figure:
    """The connections that a trial created (upwards) and pruned (downwards), by iteration and policy."""
    title = f"Connections of trial {number}"
    rows = frames.events[frames.events["number"] == number]
    if rows.empty:
        return empty(title, f"Trial {number} switched nothing on or off.")
    sums = rows.groupby(["policy", "iteration"], as_index=False)[["created", "pruned"]].sum()
    figure = go.Figure()
    for index, (policy, part) in enumerate(sums.groupby("policy")):
        color = (BLUE, SKY, ORANGE, RED, GREY)[index % 5]
        for sign, column in ((1, "created"), (-1, "pruned")):
            shown = part[part[column] > 0]
            if not shown.empty:
                figure.add_trace(
                    go.Bar(
                        x=shown["iteration"],
                        y=sign * shown[column],
                        name=f"{policy}: {column}",
                        marker={"color": color, "pattern": {"shape": "" if sign > 0 else "/"}},
                        customdata=shown[[column]],
                        hovertemplate="iteration %{x}: %{customdata[0]:,}<extra>%{fullData.name}</extra>",
                    )
                )
    return styled(
        figure,
        title=title,
        barmode="relative",
        xaxis={"title": {"text": "iteration"}, "dtick": 1},
        yaxis={"title": {"text": "connections"}},
    )
