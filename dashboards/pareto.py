"""The front: which trade-offs between two objectives a study has found, and what the baseline and the limits are."""

from __future__ import annotations

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboards.frames import Frames
from dashboards.style import BLUE, GREEN, GREY, ORANGE, RED, empty, styled


def front_figure(frames: Frames, x: str | None = None, y: str | None = None) -> go.Figure:
    """All trials over two objectives.

    Args:
        frames: The study.
        x: The objective to the right; the first one that is minimised, else the second, if left out.
        y: The objective upwards; the first one, if left out.

    Returns:
        A scatter plot. Every point carries its trial's number as ``customdata[0]``, so that a page can follow a click.
    """
    names = list(frames.directions)
    y = y or names[0]
    x = x or next((n for n, way in frames.directions.items() if way == "minimize" and n != y), None)
    x = x or next((name for name in names if name != y), "number")
    title = f"{y} against {x}"
    known = frames.trials
    if x not in known or y not in known or known[[x, y]].dropna().empty:
        return empty(title, "No trial has been decided yet.")
    complete, stopped = known["state"] == "complete", known["state"] == "pruned"
    feasible, on_front = known["feasible"].astype(bool), known["front"].astype(bool)
    figure = go.Figure()
    groups = (
        ("stopped early", stopped, GREY, "x-thin", 8),
        ("misses a constraint", complete & ~feasible, ORANGE, "diamond-open", 9),
        ("feasible", complete & feasible & ~on_front, BLUE, "circle", 8),
        ("front", on_front, GREEN, "star", 14),
    )
    for name, rows, color, symbol, size in groups:
        figure.add_trace(_points(frames, known[rows], x, y, name, color, symbol, size))
    if len(names) == 2:  # with more, the front is no line in this plane
        _add_front_line(figure, known[on_front], x, y)
    if x in frames.baseline and y in frames.baseline:
        figure.add_trace(
            go.Scatter(
                x=[frames.baseline[x]],
                y=[frames.baseline[y]],
                mode="markers+text",
                text=["baseline"],
                textposition="bottom left",
                name="baseline",
                marker={"symbol": "square", "size": 12, "color": RED},
                hovertemplate=f"baseline<br>{x} %{{x}}<br>{y} %{{y}}<extra></extra>",
            )
        )
    for axis, name in (("x", x), ("y", y)):
        if name in frames.bounds:
            figure.add_shape(**_limit(axis, frames.bounds[name], f"{name} {frames.constraints.get(name, '')}"))
    return styled(figure, title=title, height=520, xaxis={"title": {"text": x}}, yaxis={"title": {"text": y}})


def _limit(axis: str, bound: float, text: str) -> dict[str, Any]:
    """A dashed line across the plot where a constraint ends."""
    other = "y" if axis == "x" else "x"
    ends = {f"{axis}0": bound, f"{axis}1": bound, f"{other}0": 0, f"{other}1": 1}
    references = {f"{axis}ref": axis, f"{other}ref": "paper"}
    line = {"dash": "dash", "color": ORANGE, "width": 1}
    return {
        "type": "line",
        "line": line,
        "label": {"text": text, "textposition": "start", "padding": 6},
        **ends,
        **references,
    }


def _points(
    frames: Frames, rows: pd.DataFrame, x: str, y: str, name: str, color: str, symbol: str, size: int
) -> go.Scatter:
    return go.Scatter(
        x=rows[x],
        y=rows[y],
        mode="markers",
        name=name,
        customdata=rows[["number"]],
        text=[_hover(frames, row) for _, row in rows.iterrows()],
        hovertemplate="%{text}<extra></extra>",
        marker={"symbol": symbol, "size": size, "color": color, "line": {"width": 1.5, "color": color}},
    )


def _hover(frames: Frames, row: pd.Series) -> str:
    lines = [f"<b>trial {row['number']}</b> {row['state']}"]
    lines += [f"{name} {row[name]:.4g}" for name in frames.directions if pd.notna(row.get(name))]
    lines += [f"{name} {_short(row[name])}" for name in _searched(frames) if pd.notna(row[name])]
    return "<br>".join(lines)


def _searched(frames: Frames) -> list[str]:
    """The knobs that differ between trials; the others say nothing about a point."""
    return [name for name in frames.knobs() if frames.trials[name].nunique(dropna=False) > 1]


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _add_front_line(figure: go.Figure, rows: pd.DataFrame, x: str, y: str) -> None:
    """Join the points of a front of two objectives."""
    ordered = rows.sort_values(x)
    line = {"color": GREEN, "width": 1.5, "dash": "dot"}
    figure.add_trace(
        go.Scatter(x=ordered[x], y=ordered[y], mode="lines", line=line, hoverinfo="skip", showlegend=False)
    )
