"""Where in the network a trial acted: one row per layer."""

from __future__ import annotations

import math

import pandas as pd
import plotly.graph_objects as go

from dashboards.frames import Frames
from dashboards.style import SCALE, empty, styled

#: Columns of the layer table that are counts of connections: shown as shares of the layer's weights.
COUNTS = ("active", "created", "pruned")


def layer_figure(frames: Frames, number: int) -> go.Figure:
    """Everything known of a trial's layers as a heat map: layers downwards, quantities across.

    Counts are shown as shares of the layer's weights; other quantities are coloured by their share of the largest
    one in their column. The cells show the figures themselves.
    """
    title = f"Layers of trial {number}"
    rows = frames.layers[frames.layers["number"] == number]
    if rows.empty:
        return empty(title, f"Trial {number} has no layer table.")
    values = rows.drop(columns=["number", "layer", "weights"]).select_dtypes("number").dropna(axis="columns", how="all")
    shades = pd.DataFrame({name: _shade(values[name], rows["weights"], name) for name in values.columns})
    figure = go.Figure(
        go.Heatmap(
            z=shades.to_numpy(),
            x=list(values.columns),
            y=rows["layer"],
            text=values.map(_figure).to_numpy(),
            texttemplate="%{text}",
            hovertemplate="%{y}<br>%{x}: %{text}<extra></extra>",
            colorscale=SCALE,
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
            colorbar={"title": {"text": "share"}, "tickformat": ".0%"},
        )
    )
    return styled(
        figure,
        title=title,
        height=160 + 26 * len(rows),
        yaxis={"autorange": "reversed", "automargin": True},
        xaxis={"side": "top"},
    )


def layers_by_trial(frames: Frames, quantity: str = "sparsity", numbers: list[int] | None = None) -> go.Figure:
    """One quantity of every layer (downwards) in every trial (across): what successful trials have in common."""
    title = f"{quantity} by layer and trial"
    if quantity not in frames.layers.columns or frames.layers.empty:
        return empty(title, f"No trial reports {quantity}.")
    wide = frames.layers.pivot_table(index="layer", columns="number", values=quantity, sort=False)
    if numbers is not None:
        wide = wide[[number for number in numbers if number in wide.columns]]
    figure = go.Figure(
        go.Heatmap(
            z=wide.to_numpy(),
            x=[f"trial {number}" for number in wide.columns],
            y=list(wide.index),
            colorscale=SCALE,
            hovertemplate="%{y}<br>%{x}: %{z:.4g}<extra></extra>",
            colorbar={"title": {"text": quantity}},
        )
    )
    return styled(
        figure,
        title=title,
        height=160 + 26 * len(wide),
        yaxis={"autorange": "reversed", "automargin": True},
    )


def _shade(values: pd.Series, weights: pd.Series, name: str) -> pd.Series:
    """The column between 0 and 1."""
    if name in COUNTS:
        return (values / weights.where(weights > 0)).clip(0, 1).fillna(0.0)
    largest = max(float(values.abs().max()), 1.0)
    return values.abs() / largest


def _figure(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 2 else f"{value:.3g}"
