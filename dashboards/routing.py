"""Which blocks inputs run through, and which they bypass."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from dashboards.frames import Frames
from dashboards.style import BLUE, INK, SCALE, UNDER_TEXT, empty, styled

#: Share of the samples that bypass a block, per block, in [0, 1].
SKIPPED = "routing/skipped"


def routing_figure(frames: Frames, number: int) -> go.Figure:
    """The share of samples that each block of a trial runs for: over the iterations that report it, else as bars."""
    title = "Samples that run each block"
    rows = frames.places(SKIPPED)
    rows = rows[rows["number"] == number].assign(value=lambda skipped: 1 - skipped["value"])
    if rows.empty:
        return empty(title, f"Trial {number} routes nothing.")
    wide = rows.pivot_table(index="place", columns="iteration", values="value", sort=False)
    wide = wide.sort_index(axis="columns")
    if len(wide.columns) == 1:
        shares = wide.iloc[:, 0]
        data: go.Bar | go.Heatmap = go.Bar(
            x=shares,
            y=list(wide.index),
            orientation="h",
            marker={"color": BLUE},
            text=[f"{share:.0%}" for share in shares],
            hovertemplate="%{y}: %{x:.1%} of the samples<extra></extra>",
        )
        axis: dict[str, Any] = {"title": {"text": "share of the samples"}, "range": [0, 1.02], "tickformat": ".0%"}
    else:
        data = go.Heatmap(
            z=wide.to_numpy(),
            x=list(wide.columns),
            y=list(wide.index),
            colorscale=SCALE,
            zmin=0,
            zmax=1,
            xgap=1,
            ygap=1,
            texttemplate="%{z:.0%}",
            textfont={"color": INK},
            opacity=UNDER_TEXT,
            hovertemplate="%{y}, iteration %{x}: %{z:.1%} of the samples<extra></extra>",
            showscale=False,
        )
        axis = {"title": {"text": "iteration"}, "dtick": 1}
    return styled(
        go.Figure(data), title=title, height=120 + 26 * len(wide), xaxis=axis, yaxis={"autorange": "reversed"}
    )
