"""The files that are kept with a finished study: tables, and figures that show without the internet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from dashboards.frames import Frames
from dashboards.pareto import front_figure
from dashboards.profile import profile_figure
from dashboards.report import front_layers, progress_figures, report, trial_figures
from dashboards.standalone import document
from dashboards.trials import importance_figure


def study_files(frames: Frames, importances: Mapping[str, float]) -> dict[str, str]:
    """Files of a study's run by name. Each page is five megabytes, for plotly's script is in it.

    Args:
        frames: The study.
        importances: How much each knob decides, by name.
    """
    known = replace(frames, importances=dict(importances))
    return {
        "trials.csv": known.trials.to_csv(index=False),
        "report.html": report(known),
        "front.html": document(f"{known.study}: front", front_figure(known), *progress_figures(known)),
        "importances.html": document(f"{known.study}: importances", importance_figure(known.importances)),
        "layers.html": document(f"{known.study}: layers", *front_layers(known)),
    }


def member_files(frames: Frames, number: int) -> dict[str, str]:
    """Files of one member of the front, by name: five megabytes, which is why the other trials keep tables only."""
    shown = [profile_figure(frames, number), *trial_figures(frames, number)]
    return {"layers.html": document(f"trial {number}", *shown)}
