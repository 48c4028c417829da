"""Single trials and their knobs: which knobs mattered, how a trial went, how connections came and went."""

from __future__ import annotations

from collections.abc import Mapping

import plotly.graph_objects as go

from dashboards.curves import curves
from dashboards.frames import Frames
from dashboards.style import BLUE, GREEN, GREY, ORANGE, PURPLE, RED, SKY, empty, styled

#: What explains less than this is not shown.
LEAST = 0.005
#: The curves of a trial that are shares: metric, name, colour, dash.
CURVES = (
    ("quality/accuracy", "accuracy", BLUE, "solid"),
    ("size/sparsity", "sparsity", ORANGE, "dash"),
    ("plasticity/ratio", "created per pruned", GREEN, "dot"),
    ("routing/skipped", "skipped", PURPLE, "dashdot"),
)


def importance_figure(importances: Mapping[str, float], *, most: int = 15) -> go.Figure:
    """How much of the difference between trials each knob explains, the greatest first.

    Args:
        importances: By knob, >= 0; those that explain next to nothing are left out.
        most: So many are shown.
    """
    title = "What mattered"
    ranked = sorted(importances.items(), key=lambda pair: pair[1], reverse=True)[:most]
    ranked = [(name, share) for name, share in ranked if share >= LEAST]
    if not ranked:
        return empty(title, "Too few complete trials to tell.")
    figure = go.Figure(
        go.Bar(
            x=[share for _, share in ranked],
            y=[name for name, _ in ranked],
            orientation="h",
            marker={"color": BLUE},
            text=[f"{share:.0%}" for _, share in ranked],
            textposition="outside",
            cliponaxis=False,
            hovertemplate="%{y}: %{x:.3f}<extra></extra>",
        )
    )
    return styled(
        figure,
        title=title,
        height=110 + 24 * len(ranked),
        yaxis={"autorange": "reversed", "automargin": True},
        xaxis={"title": {"text": "share of the differences"}, "tickformat": ".0%"},
        margin={"l": 8, "r": 48, "t": 40, "b": 8},
    )


def curve_figure(frames: Frames, number: int) -> go.Figure:
    """How a trial went, iteration by iteration: accuracy, sparsity and what else is a share."""
    return curves(frames, number, CURVES, title="Over its iterations", without="has reported nothing")


def ledger_figure(frames: Frames, number: int) -> go.Figure:
    """The connections that a trial created (upwards) and pruned (downwards), by iteration and policy."""
    title = "Connections created and pruned"
    rows = frames.events[frames.events["number"] == number]
    if rows.empty:
        return empty(title, f"Trial {number} switched nothing on or off.")
    sums = rows.groupby(["policy", "iteration"], as_index=False)[["created", "pruned"]].sum()
    figure = go.Figure()
    for index, (policy, part) in enumerate(sums.groupby("policy")):
        color = (BLUE, SKY, ORANGE, RED, GREY)[index % 5]
        for sign, column in ((1, "created"), (-1, "pruned")):
            shown = part[part[column] > 0]
            if not shown.empty:
                figure.add_trace(
                    go.Bar(
                        x=shown["iteration"],
                        y=sign * shown[column],
                        name=f"{policy}: {column}",
                        marker={"color": color, "pattern": {"shape": "" if sign > 0 else "/"}},
                        customdata=shown[[column]],
                        hovertemplate="iteration %{x}: %{customdata[0]:,}<extra>%{fullData.name}</extra>",
                    )
                )
    return styled(
        figure,
        title=title,
        height=320,
        barmode="relative",
        xaxis={"title": {"text": "iteration"}, "dtick": 1},
        yaxis={"title": {"text": "connections"}},
    )
