"""How fine the numbers of each layer are."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from dashboards.frames import Frames
from dashboards.style import BLUE, ORANGE, empty, styled

#: Average bits of a layer's weights, per layer.
BITS = "granularity/bits"


def bits_figure(frames: Frames, number: int) -> go.Figure:
    """The bits of each layer's weights in a trial, and of its activations where they are known."""
    title = "Bits per layer"
    weights = _bits(frames, number)
    if weights.empty:
        return empty(title, f"Trial {number} keeps every layer at full precision.")
    figure = go.Figure(_bars(weights, "weights", BLUE, ""))
    activations = _column(frames, number, "activation_bits")
    if not activations.empty:
        figure.add_trace(_bars(activations, "activations", ORANGE, "/"))
    return styled(
        figure,
        title=title,
        height=130 + 26 * len(weights),
        barmode="group",
        xaxis={"title": {"text": "bits"}, "tickvals": [2, 4, 8, 16, 32], "rangemode": "tozero"},
        yaxis={"autorange": "reversed"},
    )


def _bits(frames: Frames, number: int) -> pd.Series:
    """By layer: what the layer table says, else the last of what the trial reported."""
    table = _column(frames, number, "bits")
    if not table.empty:
        return table
    rows = frames.places(BITS)
    rows = rows[rows["number"] == number].sort_values("iteration")
    return rows.groupby("place", sort=False)["value"].last()


def _column(frames: Frames, number: int, name: str) -> pd.Series:
    rows = frames.layers[frames.layers["number"] == number]
    return rows.set_index("layer")[name].dropna() if name in rows else pd.Series(dtype="float64")


def _bars(bits: pd.Series, name: str, color: str, pattern: str) -> go.Bar:
    return go.Bar(
        x=bits,
        y=[str(layer).removesuffix(".weight") for layer in bits.index],
        orientation="h",
        name=name,
        marker={"color": color, "pattern": {"shape": pattern}},
        hovertemplate=f"%{{y}}: %{{x:.3g}} bits ({name})<extra></extra>",
    )
