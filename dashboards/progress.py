"""How a study went on: the hypervolume of its front, its best trial, and how many are feasible, over the trials."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from dashboards.frames import Frames
from dashboards.pareto import kinds_of
from dashboards.style import BLUE, GREEN, ORANGE, SKY, empty, line_across, styled
from objectives.pareto import Growing


def hypervolume_figure(frames: Frames) -> go.Figure:
    """The normalised hypervolume of what is feasible, and the feasible share of the complete trials, both in [0, 1]."""
    title = "Hypervolume"
    progress = progress_of(frames)
    if progress.empty:
        return empty(title, "No trial is complete yet.")
    figure = go.Figure()
    for name, color, dash in (("hypervolume", BLUE, "solid"), ("feasible share", SKY, "dot")):
        figure.add_trace(
            go.Scatter(
                x=progress["number"],
                y=progress[name],
                name=name,
                mode="lines",
                line={"color": color, "width": 2, "shape": "hv", "dash": dash},
                hovertemplate=f"after trial %{{x}}<br>{name} %{{y:.3f}}<extra></extra>",
            )
        )
    return styled(
        figure,
        title=title,
        height=320,
        xaxis={"title": {"text": "trial"}},
        yaxis={"range": [0, 1.02], "tickformat": ".0%"},
    )


def progress_of(frames: Frames) -> pd.DataFrame:
    """After each complete trial: ``number``, ``hypervolume`` and ``feasible share``."""
    rows = []
    growing, feasible = Growing(frames.directions, frames.baseline), 0
    for done, (_, row) in enumerate(frames.complete().sort_values("number").iterrows(), start=1):
        if row["feasible"]:
            feasible += 1
            growing.add({name: float(row[name]) for name in frames.directions})
        rows.append({"number": int(row["number"]), "hypervolume": growing.volume, "feasible share": feasible / done})
    return pd.DataFrame(rows, columns=["number", "hypervolume", "feasible share"])


def history_figure(frames: Frames, objective: str | None = None) -> go.Figure:
    """One objective over the trials, with the best feasible value so far."""
    objective = objective or next(iter(frames.directions))
    title = f"Best feasible {objective}"
    if objective not in frames.trials or frames.complete().empty:
        return empty(title, "No trial is complete yet.")
    complete, feasible = frames.complete(), frames.feasible()
    missing = complete[kinds_of(complete) == "infeasible"]
    figure = go.Figure()
    for name, rows, color, symbol in (
        ("infeasible", missing, ORANGE, "diamond-open"),
        ("feasible", feasible, BLUE, "circle"),
    ):
        figure.add_trace(
            go.Scatter(
                x=rows["number"],
                y=rows[objective],
                mode="markers",
                name=name,
                customdata=rows[["number"]],
                marker={"color": color, "symbol": symbol, "size": 8},
                hovertemplate=f"trial %{{x}}<br>{objective} %{{y:.4g}}<extra>{name}</extra>",
            )
        )
    best = feasible[objective].cummax() if frames.directions[objective] == "maximize" else feasible[objective].cummin()
    line = {"color": GREEN, "shape": "hv", "width": 2}
    figure.add_trace(go.Scatter(x=feasible["number"], y=best, mode="lines", name="best so far", line=line))
    before = [line_across("y", frames.baseline[objective], "baseline")] if objective in frames.baseline else []
    return styled(
        figure,
        title=title,
        height=320,
        xaxis={"title": {"text": "trial"}},
        yaxis={"title": {"text": objective}},
        shapes=before,
    )
