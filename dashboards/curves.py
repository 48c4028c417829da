"""Several quantities of one trial over its iterations."""

from __future__ import annotations

from collections.abc import Iterable

import plotly.graph_objects as go

from dashboards.frames import Frames
from dashboards.style import empty, styled


def curves(
    frames: Frames, number: int, wanted: Iterable[tuple[str, str, str, str]], *, title: str, without: str
) -> go.Figure:
    """A line for each metric that a trial reported.

    Args:
        frames: The study.
        number: The trial's.
        wanted: Metric, name, colour and dash of each line.
        title: Of the figure.
        without: What is said of a trial that reported none of them.
    """
    figure = go.Figure()
    for metric, name, color, dash in wanted:
        rows = frames.curve(number, metric)
        if not rows.empty:
            figure.add_trace(
                go.Scatter(
                    x=rows["iteration"],
                    y=rows["value"],
                    name=name,
                    mode="lines+markers",
                    line={"color": color, "dash": dash, "width": 2},
                    hovertemplate=f"iteration %{{x}}<br>{name} %{{y:.4g}}<extra></extra>",
                )
            )
    if not figure.data:
        return empty(title, f"Trial {number} {without}.")
    return styled(figure, title=title, height=320, xaxis={"title": {"text": "iteration"}, "dtick": 1})
