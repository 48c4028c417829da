"""The map of sub-tasks: where inputs lie among the parent's activations, and which bud has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from dashboards.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, empty, styled

_COLOURS = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY)
_MARKERS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star")


def map_frame(portrait: Mapping[str, Any]) -> pd.DataFrame:
    """One row per sample that was looked at: ``x``, ``y``, ``subtask``, ``label``.

    Args:
        portrait: As a system's ``system.json`` has it under ``portrait``.
    """
    points = portrait.get("points", [])
    return pd.DataFrame(
        {
            "x": [point[0] for point in points],
            "y": [point[1] for point in points],
            "subtask": portrait.get("members", []),
            "label": portrait.get("labels", []),
        }
    )


def map_figure(frame: pd.DataFrame, *, agreement: float | None = None) -> go.Figure:
    """The samples on the first two principal directions of the last stages, a colour and a marker per sub-task.

    Args:
        frame: From `map_frame`.
        agreement: Normalized mutual information of sub-tasks and classes, in [0, 1]; shown where it is given.
    """
    title = "Sub-tasks" if agreement is None else f"Sub-tasks (agreement with the classes {agreement:.2f})"
    if frame.empty:
        return empty(title, "No samples were kept of this system.")
    figure = go.Figure()
    for number in sorted(frame["subtask"].unique().tolist()):
        rows = frame[frame["subtask"] == number]
        figure.add_trace(
            go.Scatter(
                x=rows["x"],
                y=rows["y"],
                mode="markers",
                name=f"bud {number}: {len(rows) / len(frame):.0%}",
                text=["" if label < 0 else f"class {label}" for label in rows["label"]],
                hovertemplate="%{text}<extra>%{fullData.name}</extra>",
                marker={
                    "color": _COLOURS[number % len(_COLOURS)],
                    "symbol": _MARKERS[number % len(_MARKERS)],
                    "size": 7,
                    "opacity": 0.7,
                },
            )
        )
    axis = {"showticklabels": False, "zeroline": False}
    return styled(
        figure,
        title=title,
        xaxis={**axis, "title": {"text": "first principal direction"}},
        yaxis={**axis, "title": {"text": "second"}},
    )
