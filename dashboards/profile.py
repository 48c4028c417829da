"""One trial's profile beside the baseline: what it costs and wins, which constraints it keeps, and its knobs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real

import pandas as pd
import plotly.graph_objects as go

from dashboards.frames import Frames
from dashboards.style import BLUE, GREEN, ORANGE, empty, line_across, short, styled


@dataclass(frozen=True)
class Score:
    """One figure of a trial beside the baseline's.

    Args:
        name: The objective or the constrained figure.
        before: The baseline's, or None.
        after: The trial's, or None.
        constraint: As the study file has it, or "".
        met: Whether the constraint is met; None where there is none or the trial was not judged.
    """

    name: str
    before: float | None
    after: float | None
    constraint: str
    met: bool | None

    @property
    def change(self) -> str:
        """In words: ``-1.2 points`` for a share, ``x 0.31`` for a size or a cost, or ""."""
        if self.before is None or self.after is None:
            return ""
        if 0 < self.before <= 1 and 0 <= self.after <= 1:
            points = 100 * (self.after - self.before)
            return f"{points:+.1f} points" if abs(points) >= 0.05 else "unchanged"
        return f"\N{MULTIPLICATION SIGN} {self.after / self.before:.3g}" if self.before else ""


def scores_of(frames: Frames, number: int) -> list[Score]:
    """The objectives and what is constrained, of one trial."""
    row = frames.trial(number)
    if row is None:
        return []
    return [
        Score(
            name,
            frames.baseline.get(name),
            _number(row.get(name)),
            frames.constraints.get(name, ""),
            None if (missed := _number(row.get(f"violation.{name}"))) is None else missed <= 0,
        )
        for name in dict.fromkeys([*frames.directions, *frames.constraints])
    ]


def knobs_of(frames: Frames, number: int) -> dict[str, dict[str, str]]:
    """By policy, the knobs that act in a trial and their values as text; those that the study searches come first."""
    row = frames.trial(number)
    if row is None:
        return {}
    searched = set(frames.searched())
    policies: dict[str, dict[str, str]] = {}
    for name in sorted(frames.knobs(), key=lambda name: name not in searched):
        if pd.notna(row[name]):
            policy, _, knob = name.partition(".")
            policies.setdefault(policy, {})[knob] = _text(row[name])
    return policies


def profile_figure(frames: Frames, number: int) -> go.Figure:
    """A trial's figures as shares of the baseline's; a tick marks what a constraint allows."""
    title = f"Trial {number} against the baseline"
    shown = [score for score in scores_of(frames, number) if score.before and score.after is not None]
    if not shown:
        return empty(title, f"Trial {number} has no figures.")
    names = [score.name for score in shown]
    shares = [(score.after or 0.0) / (score.before or 1.0) for score in shown]
    figure = go.Figure(
        go.Bar(
            x=shares,
            y=names,
            orientation="h",
            marker={"color": [ORANGE if score.met is False else BLUE for score in shown]},
            text=[f"{share:.0%}" if share >= 0.1 else f"{share:.1%}" for share in shares],
            textposition="auto",
            insidetextanchor="start",
            hovertemplate="%{y}: %{x:.1%} of the baseline<extra></extra>",
            showlegend=False,
        )
    )
    limits = [(s.name, frames.bounds[s.name] / s.before) for s in shown if s.before and s.name in frames.bounds]
    if limits:
        figure.add_trace(
            go.Scatter(
                x=[limit for _, limit in limits],
                y=[name for name, _ in limits],
                mode="markers",
                name="limit",
                marker={"symbol": "line-ns", "size": 22, "line": {"width": 3, "color": GREEN}},
                hovertemplate="%{y}: the limit is %{x:.1%}<extra></extra>",
                showlegend=False,
            )
        )
    return styled(
        figure,
        title=title,
        height=90 + 34 * len(shown),
        xaxis={"tickformat": ".0%", "rangemode": "tozero"},
        yaxis={"autorange": "reversed"},
        bargap=0.35,
        shapes=[line_across("x", 1.0)],
    )


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, Real) and not math.isnan(value) else None


def _text(value: object) -> str:
    return short(value)
