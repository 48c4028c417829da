"""Where in the network a trial acted: one row per layer."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from dashboards.frames import Frames
from dashboards.style import INK, SCALE, UNDER_TEXT, empty, styled

#: Columns of the layer table that are counts of connections: shown as shares of the layer's weights.
COUNTS = ("active", "created", "pruned", "edges")
#: What policies report of places, by the name of its column.
PLACED = {"skipped": "routing/skipped", "bits": "granularity/bits", "resonance": "resonance/threshold"}
#: Columns that say what a row is, and are no quantities.
LABELS = ("number", "layer", "weights")


def layer_figure(frames: Frames, number: int) -> go.Figure:
    """Everything known of a trial's layers as a heat map: layers downwards, quantities across.

    Counts are shown as shares of the layer's weights; other quantities are coloured by their share of the largest
    one in their column. The cells show the figures themselves.
    """
    title = "Layer by layer"
    rows = _with_places(frames, frames.layers[frames.layers["number"] == number])
    if rows.empty:
        return empty(title, f"Trial {number} has no layer table.")
    values = rows.drop(columns=list(LABELS)).select_dtypes("number").dropna(axis="columns", how="all")
    shades = pd.DataFrame({name: _shade(values[name], rows["weights"], name) for name in values.columns})
    figure = go.Figure(
        go.Heatmap(
            z=shades.to_numpy(),
            x=list(values.columns),
            y=_named(rows["layer"]),
            text=values.map(_figure).to_numpy(),
            customdata=rows["layer"].to_numpy()[:, None].repeat(len(values.columns), 1),
            texttemplate="%{text}",
            textfont={"color": INK},
            opacity=UNDER_TEXT,
            hovertemplate="%{customdata}<br>%{x}: %{text}<extra></extra>",
            colorscale=SCALE,
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
            showscale=False,
        )
    )
    return styled(
        figure,
        title=title,
        height=110 + 26 * len(rows),
        yaxis={"autorange": "reversed", "automargin": True},
        xaxis={"side": "top", "fixedrange": True},
        margin={"l": 8, "r": 8, "t": 72, "b": 8},
    )


def quantities(frames: Frames) -> list[str]:
    """What is known of layers: the numeric columns of the layer table."""
    known = _with_places(frames, frames.layers).drop(columns=list(LABELS)).infer_objects()
    return [str(name) for name in known.select_dtypes("number").dropna(axis="columns", how="all").columns]


def layers_by_trial(frames: Frames, quantity: str = "sparsity", numbers: list[int] | None = None) -> go.Figure:
    """One quantity of every layer (downwards) in every trial (across): what successful trials have in common.

    Counts of connections are shown as shares of the layer's weights.
    """
    title = f"{quantity} by layer and trial"
    rows = _with_places(frames, frames.layers)
    if quantity not in rows.columns or rows.empty:
        return empty(title, f"No trial reports {quantity}.")
    if quantity in COUNTS:
        share = rows[quantity] / rows["weights"].where(rows["weights"] > 0)
        rows = rows.assign(**{quantity: share.astype(float)})
        title = f"{quantity}, as a share of the weights, by layer and trial"
    wide = rows.pivot_table(index="layer", columns="number", values=quantity, sort=False)
    if numbers is not None:
        wide = wide[[number for number in numbers if number in wide.columns]]
    if wide.empty:
        return empty(title, "No trial is on the front yet.")
    figure = go.Figure(
        go.Heatmap(
            z=wide.to_numpy(),
            **_bounds(wide.to_numpy(float)),
            x=[f"trial {number}" for number in wide.columns],
            y=_named(wide.index.to_series()),
            colorscale=SCALE,
            xgap=1,
            ygap=1,
            hovertemplate="%{y}<br>%{x}: %{z:.4g}<extra></extra>",
            colorbar={"thickness": 12, "outlinewidth": 0},
        )
    )
    return styled(
        figure,
        title=title,
        height=130 + 22 * len(wide),
        yaxis={"autorange": "reversed", "automargin": True},
    )


def _bounds(values: NDArray[np.float64]) -> dict[str, float]:
    """Of the colours, where all values are the same: plotly would take the half below and above it."""
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    return {"zmin": min(0.0, least), "zmax": most if most > 0 else float(most == 0)} if least == most else {}


def _with_places(frames: Frames, layers: pd.DataFrame) -> pd.DataFrame:
    """The layer table with what policies report of places: of the layer itself, or of a block that it is in."""
    rows = layers
    for name, quantity in PLACED.items():
        found = frames.places(quantity).sort_values("iteration")
        last = {
            (n, place): value for n, place, value in zip(found["number"], found["place"], found["value"], strict=True)
        }
        if last and name not in rows:
            values = [_of_place(last, n, str(layer)) for n, layer in zip(rows["number"], rows["layer"], strict=True)]
            rows = rows.assign(**{name: values})
    return rows


def _of_place(values: Mapping[tuple[int, str], float], number: int, layer: str) -> float:
    """What is known of a layer, else of the innermost module around it that anything is known of; NaN for nothing."""
    parts = layer.split(".")
    places = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
    return next((values[number, place] for place in places if (number, place) in values), math.nan)


def _named(layers: pd.Series) -> list[str]:
    """The layers' names without what all of them end in."""
    return [str(layer).removesuffix(".weight") for layer in layers]


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
