"""The files that are kept with a finished study: tables, and figures that show without the internet."""

from __future__ import annotations

from collections.abc import Mapping

from dashboards.frames import Frames
from dashboards.layers import layer_figure, layers_by_trial
from dashboards.pareto import front_figure
from dashboards.style import html
from dashboards.trials import history_figure, importance_figure, ledger_figure


def study_files(frames: Frames, importances: Mapping[str, float]) -> dict[str, str]:
    """Files of a study's run by name. Each page is five megabytes, for plotly's script is in it.

    Args:
        frames: The study.
        importances: How much each knob decides, by name.
    """
    front = frames.trials[frames.trials["front"].astype(bool)]["number"].tolist()
    return {
        "trials.csv": frames.trials.to_csv(index=False),
        "front.html": html(front_figure(frames), *(history_figure(frames, name) for name in frames.directions)),
        "importances.html": html(importance_figure({name: share for name, share in importances.items() if share > 0})),
        "layers.html": html(layers_by_trial(frames, numbers=front)),
    }


def member_files(frames: Frames, number: int) -> dict[str, str]:
    """Files of one member of the front, by name: five megabytes, which is why the other trials keep tables only."""
    return {"layers.html": html(layer_figure(frames, number), ledger_figure(frames, number))}
