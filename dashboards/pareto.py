"""The front: which trade-offs between two objectives a study has found, and what the baseline and the limits are."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from dashboards.frames import Frames
from dashboards.style import BLUE, GREEN, GREY, INK, ORANGE, RED, empty, line_across, short, styled

#: What a point is, in the order in which they are drawn: name, colour, symbol, size.
KINDS = (
    ("stopped early", GREY, "x-thin", 8),
    ("infeasible", ORANGE, "diamond-open", 9),
    ("feasible", BLUE, "circle", 8),
    ("front", GREEN, "star", 14),
)


def axes_of(frames: Frames, x: str | None = None, y: str | None = None) -> tuple[str, str]:
    """The objectives to the right and upwards: what is asked for, else the first that is minimised over the first."""
    names = list(frames.directions)
    y = y if y in names else names[0]
    x = x if x in names and x != y else None
    x = x or next((n for n, way in frames.directions.items() if way == "minimize" and n != y), None)
    return x or next((name for name in names if name != y), "number"), y


def front_figure(
    frames: Frames, x: str | None = None, y: str | None = None, *, selected: int | None = None, height: int = 480
) -> go.Figure:
    """All trials over two objectives.

    Args:
        frames: The study.
        x: The objective to the right; the first one that is minimised, else the second, if left out.
        y: The objective upwards; the first one, if left out.
        selected: A trial to draw a ring around.
        height: In pixels.

    Returns:
        A scatter plot. Every point carries its trial's number as ``customdata[0]``, so that a page can follow a click.
    """
    x, y = axes_of(frames, x, y)
    title = f"{y} against {x}"
    known = frames.trials
    if x not in known or y not in known or known[[x, y]].dropna().empty:
        return empty(title, "No trial has been decided yet.")
    figure = go.Figure()
    kinds = kinds_of(known)
    for name, color, symbol, size in KINDS:
        figure.add_trace(_points(frames, known[kinds == name], x, y, name, color, symbol, size))
    if len(frames.directions) == 2:  # with more, the front is no line in this plane
        _add_front_line(figure, known[kinds == "front"], x, y)
    if x in frames.baseline and y in frames.baseline:
        figure.add_trace(_baseline(frames, x, y))
    chosen = frames.trial(selected)
    if chosen is not None and pd.notna(chosen[x]) and pd.notna(chosen[y]):
        figure.add_trace(_ring(float(chosen[x]), float(chosen[y])))
    return styled(
        figure,
        title=title,
        height=height,
        xaxis={"title": {"text": x}},
        yaxis={"title": {"text": y}},
        clickmode="event",
        hovermode="closest",
        shapes=[
            line_across(axis, frames.bounds[name], f"{name} {frames.constraints.get(name, '')}", ORANGE)
            for axis, name in (("x", x), ("y", y))
            if name in frames.bounds
        ],
    )


def kinds_of(trials: pd.DataFrame) -> pd.Series:
    """What each row is, in the words of `KINDS`, or ``failed``."""
    kinds = pd.Series("failed", index=trials.index)
    complete, feasible = trials["state"] == "complete", trials["feasible"].astype(bool)
    kinds[trials["state"] == "pruned"] = "stopped early"
    kinds[complete & ~feasible] = "infeasible"
    kinds[complete & feasible] = "feasible"
    kinds[trials["front"].astype(bool)] = "front"
    return kinds


def _baseline(frames: Frames, x: str, y: str) -> go.Scatter:
    return go.Scatter(
        x=[frames.baseline[x]],
        y=[frames.baseline[y]],
        mode="markers",
        name="baseline",
        marker={"symbol": "square", "size": 12, "color": RED},
        hovertemplate=f"<b>baseline</b><br>{x} %{{x}}<br>{y} %{{y}}<extra></extra>",
    )


def _ring(x: float, y: float) -> go.Scatter:
    ring = {"symbol": "circle-open", "size": 24, "color": INK, "line": {"width": 2}}
    return go.Scatter(x=[x], y=[y], mode="markers", name="shown", marker=ring, hoverinfo="skip")


def _points(
    frames: Frames, rows: pd.DataFrame, x: str, y: str, name: str, color: str, symbol: str, size: int
) -> go.Scatter:
    return go.Scatter(
        x=rows[x],
        y=rows[y],
        mode="markers",
        name=name,
        # Plain lists: what plotly packs as an array comes back from a click as a mapping.
        customdata=[[int(number)] for number in rows["number"]],
        text=[_hover(frames, row, name) for _, row in rows.iterrows()],
        hovertemplate="%{text}<extra></extra>",
        marker={"symbol": symbol, "size": size, "color": color, "line": {"width": 1.5, "color": color}},
    )


def _hover(frames: Frames, row: pd.Series, kind: str) -> str:
    lines = [f"<b>trial {row['number']}</b> {kind}"]
    lines += [f"{name} {short(row[name])}" for name in frames.directions if pd.notna(row.get(name))]
    lines += [f"{name} {short(row[name])}" for name in frames.searched() if pd.notna(row[name])]
    return "<br>".join(lines[:14])


def _add_front_line(figure: go.Figure, rows: pd.DataFrame, x: str, y: str) -> None:
    """Join the points of a front of two objectives."""
    ordered = rows.sort_values(x)
    line = {"color": GREEN, "width": 1.5, "dash": "dot"}
    figure.add_trace(
        go.Scatter(x=ordered[x], y=ordered[y], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    )
