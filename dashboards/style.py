"""How figures look: one palette that colour-blind readers can tell apart, one layout that fits a phone."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

import numpy as np
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
#: How dark the colours of cells are that have figures in them.
UNDER_TEXT = 0.5
#: Where there is no figure.
NOTHING = "\N{EN DASH}"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, FAINT, GRID = "#1c2733", "#667382", "#e8ecf0"
#: What plotly draws around a figure: nothing that a click on a point could be taken for.
CONFIG: Any = {"displayModeBar": False, "responsive": True}
_AXIS = {
    "automargin": True,
    "gridcolor": GRID,
    "linecolor": GRID,
    "zerolinecolor": GRID,
    "zerolinewidth": 2,
    "ticks": "",
    "title": {"standoff": 15},
}
#: What all figures share. One of plotly's own templates says much more, which is checked anew for every figure.
_TEMPLATE = go.layout.Template(
    layout={
        "autotypenumbers": "strict",
        "colorway": [BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY],
        "font": {"family": FONT, "size": 12, "color": INK},
        "hoverlabel": {"align": "left", "font": {"family": FONT}},
        "hovermode": "closest",
        "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.01, "x": 0.0, "font": {"size": 11}},
        "paper_bgcolor": "white",
        "plot_bgcolor": "white",
        "title": {"x": 0.0, "y": 1.0, "yanchor": "top", "pad": {"l": 4, "t": 8}, "font": {"size": 15}},
        "xaxis": _AXIS,
        "yaxis": _AXIS,
    }
)


def styled(figure: go.Figure, *, title: str, height: int = 400, **layout: Any) -> go.Figure:
    """The figure with the common layout; `layout` adds to it.

    What a reader has zoomed into stays as it is when the figure is drawn anew.
    """
    common: dict[str, Any] = {
        "title": {"text": title},
        "template": _TEMPLATE,
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 62, "b": 8},
        "uirevision": title,
    }
    return figure.update_layout(common | layout)  # in one go: plotly checks the whole layout every time


def line_across(axis: str, value: float, text: str = "", color: str = RED) -> dict[str, Any]:
    """A dotted line through the whole figure.

    Args:
        axis: ``x`` for an upright line, ``y`` for a level one.
        value: Where it crosses that axis.
        text: What stands at it.
        color: Of the line.
    """
    other = "y" if axis == "x" else "x"
    ends = {f"{axis}0": value, f"{axis}1": value, f"{other}0": 0, f"{other}1": 1}
    return {
        "type": "line",
        "line": {"dash": "dot", "color": color, "width": 1.5},
        "label": {"text": text, "textposition": "start", "padding": 6, "font": {"size": 11}},
        f"{axis}ref": axis,
        f"{other}ref": "paper",
        **ends,
    }


def untitled(figure: go.Figure) -> tuple[str, dict[str, Any]]:
    """The title, and the figure without it, as plain data: a page says it in a heading, and long legends have room."""
    plain: dict[str, Any] = figure.to_dict()
    title = plain["layout"].pop("title", {}).get("text", "")
    plain["layout"]["margin"]["t"] = 8
    return title, plain


def empty(title: str, why: str) -> go.Figure:
    """A figure that says why there is nothing to see yet."""
    figure = go.Figure()
    figure.add_annotation(text=why, showarrow=False, xref="paper", yref="paper", x=0.5, y=0.5, font={"color": FAINT})
    return styled(figure, title=title, xaxis={"visible": False}, yaxis={"visible": False}, height=180)


def short(value: object) -> str:
    """A figure as people write it: ``0.9812``, ``318,286``, ``41.0 M``; a dash where there is none."""
    if isinstance(value, bool | np.bool_):
        return str(value).lower()
    if not isinstance(value, Real):
        return NOTHING if value is None else str(value)
    number = float(value)
    if math.isnan(number):
        return NOTHING
    for size, unit in ((1e9, "G"), (1e6, "M")):
        if abs(number) >= size:
            return f"{number / size:.3g} {unit}"
    if number.is_integer():
        return f"{number:,.0f}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"
