"""Pages that stand alone: components and figures as one file of HTML, with plotly's script in it and no internet."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import plotly.graph_objects as go
from dash import dcc
from dash.development.base_component import Component
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from dashboards.look import CSS
from dashboards.style import CONFIG, untitled

#: How components name what HTML names otherwise.
ATTRIBUTES = {"className": "class", "colSpan": "colspan", "htmlFor": "for"}
#: HTML elements that have no end tag.
VOID = ("br", "hr", "img", "input")
#: A figure is drawn as soon as it is read, when those that share its row are not there yet.
FITTING = '<script>addEventListener("load", () => dispatchEvent(new Event("resize")))</script>'


def document(title: str, *parts: Component | go.Figure) -> str:
    """One page, five megabytes: plotly's script is in it, once."""
    body = "".join(markup(part) for part in parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><main>{body}</main>{FITTING}</body></html>"
    )


def markup(part: Any) -> str:
    """A component, a figure, text, or a list of them as HTML.

    Raises:
        TypeError: If a component needs a live page, like a field to type in.
    """
    if part is None:
        return ""
    if isinstance(part, list | tuple):
        return "".join(markup(child) for child in part)
    if isinstance(part, go.Figure):
        title, plain = untitled(part)
        return f"<h3>{escape(title)}</h3>{_plot(plain)}"
    if isinstance(part, dcc.Graph):
        return _plot(getattr(part, "figure", {}))
    if not isinstance(part, Component):
        return escape(str(part))
    if part._namespace != "dash_html_components":
        raise TypeError(f"a page that stands alone holds HTML and figures, but not a {part._type}")
    return _element(part)


def _plot(figure: Mapping[str, Any]) -> str:
    return str(to_html(figure, include_plotlyjs=False, full_html=False, config=CONFIG, validate=False))


def _element(part: Component) -> str:
    tag = str(part._type).lower()
    given = {name: getattr(part, name) for name in part._prop_names if hasattr(part, name)}
    given |= {name: value for name, value in vars(part).items() if name.startswith(("data-", "aria-"))}
    children = given.pop("children", None)
    attributes = "".join(
        f" {ATTRIBUTES.get(name, name.lower())}" + ("" if value is True else f'="{escape(str(value))}"')
        for name, value in given.items()
        if value is not None and value is not False
    )
    return f"<{tag}{attributes}>" + ("" if tag in VOID else f"{markup(children)}</{tag}>")
