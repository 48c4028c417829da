"""At which frequencies the connections' gradients swing, and how the threshold between kept and cut moved."""

from __future__ import annotations

import plotly.graph_objects as go

from dashboards.curves import curves
from dashboards.frames import Frames
from dashboards.style import BLUE, GREEN, ORANGE, PURPLE, SCALE, empty, styled

#: Share of the connections whose dominant frequency, in cycles per sample of the history, is the place's.
SPECTRUM = "resonance/spectrum"
#: Curves of the controller: metric, name, colour, dash.
CONTROL = (
    ("resonance/threshold", "threshold", BLUE, "solid"),
    ("resonance/amplitude", "amplitude", ORANGE, "dash"),
    ("resonance/sparsity", "sparsity", GREEN, "dot"),
    ("resonance/target", "target", PURPLE, "dashdot"),
)


def threshold_figure(frames: Frames, number: int) -> go.Figure:
    """The resonance threshold of a trial over its iterations, with the sparsity that it controls."""
    return curves(frames, number, CONTROL, title="Resonance threshold", without="listens to no resonance")


def spectrum_figure(frames: Frames, number: int) -> go.Figure:
    """How many connections swing at which frequency: one line, or a heat map over the iterations that report it."""
    title = "Dominant frequencies"
    rows = frames.places(SPECTRUM)
    rows = rows[rows["number"] == number]
    if rows.empty:
        return empty(title, f"Trial {number} keeps no spectrum.")
    rows = rows.assign(place=rows["place"].astype(float))
    wide = rows.pivot_table(index="place", columns="iteration", values="value").sort_index()
    if len(wide.columns) == 1:
        data: go.Bar | go.Heatmap = go.Bar(
            x=list(wide.index),
            y=wide.iloc[:, 0],
            marker={"color": BLUE},
            hovertemplate="frequency %{x:.3g}: %{y:.1%} of the connections<extra></extra>",
        )
        axes = {
            "xaxis": {"title": {"text": "cycles per step of the history"}},
            "yaxis": {"title": {"text": "share of the connections"}, "tickformat": ".0%"},
        }
    else:
        data = go.Heatmap(
            z=wide.to_numpy(),
            x=list(wide.columns),
            y=list(wide.index),
            colorscale=SCALE,
            hovertemplate="iteration %{x}, frequency %{y:.3g}: %{z:.1%}<extra></extra>",
            colorbar={"thickness": 12, "outlinewidth": 0, "tickformat": ".0%"},
        )
        axes = {
            "xaxis": {"title": {"text": "iteration"}, "dtick": 1},
            "yaxis": {"title": {"text": "cycles per step of the history"}},
        }
    return styled(go.Figure(data), title=title, height=320, **axes)
