"""How figures look: one palette that colour-blind readers can tell apart, one layout that fits a phone."""

from __future__ import annotations

from html import escape as html_escape
from typing import Any

import plotly.graph_objects as go

#: Okabe and Ito's palette; markers differ as well, so that no meaning hangs on colour alone.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#8A8A8A",
)
#: Light to dark, even in grey print.
SCALE = "Viridis"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"


def styled(figure: go.Figure, *, title: str, height: int = 440, **layout: Any) -> go.Figure:
    """The figure with the common layout; `layout` adds to it."""
    figure.update_layout(
        title={"text": title, "x": 0.0, "xanchor": "left", "font": {"size": 16}},
        font={"family": FONT, "size": 13},
        template="plotly_white",
        height=height,
        margin={"l": 64, "r": 24, "t": 56, "b": 56},
        legend={"orientation": "h", "yanchor": "top", "y": -0.18, "x": 0.0},
        hoverlabel={"align": "left"},
    )
    figure.update_layout(**layout)
    return figure


def empty(title: str, why: str) -> go.Figure:
    """A figure that says why there is nothing to see yet."""
    figure = go.Figure()
    figure.add_annotation(text=why, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5, font={"color": GREY})
    return styled(figure, title=title, xaxis={"visible": False}, yaxis={"visible": False}, height=240)


def html(*figures: go.Figure) -> str:
    """A page of figures that stands alone: plotly's script is in it (five megabytes), so it needs no internet."""
    parts = [
        figure.to_html(
            include_plotlyjs=index == 0, full_html=False, config={"displayModeBar": False, "responsive": True}
        )
        for index, figure in enumerate(figures)
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    title = html_escape(figures[0].layout.title.text or "")
    return (
        f'<!doctype html><html lang="en"><head>{head}<title>{title}</title></head><body>{"".join(parts)}</body></html>'
    )
