"""`pleach demo`: a real study with three objectives, pruning and reconnection, small enough to wait for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from search.commands.run import look_first, run_study
from search.export_trial import export_trial
from search.home import Home
from search.machine import cores
from search.study import Study

NAME = "demo"


def demo_study(trials: int, concurrent: int) -> dict[str, Any]:
    """The study as a file would say it."""
    return {
        "study": {"name": NAME, "trials": trials},
        "task": {"target": "digits"},
        "objectives": {"accuracy": "maximize", "plasticity": "maximize", "macs": "minimize"},
        "constraints": {"accuracy": ">= baseline - 0.05"},
        "budget": {"epochs": 6.0, "iterations": 6},
        "resources": {"concurrent": concurrent},
        "spaces": {
            "pruning": {"granularity": "channel", "sparsity": {"low": 0.2, "high": 0.85}},
            "reconnection": {"mode": "gmp_regrow", "radius": 0, "zeta": {"low": 0.2, "high": 0.5}},
        },
    }


def run_demo(home: Home, *, out: Path | None, trials: int, console: Console) -> dict[str, Any]:
    """Run the study, or what is left of it, and export its best network.

    Returns:
        The study's summary and, under ``export``, the folder; None where no trial was complete.

    Raises:
        PleachError: If the home or the folder cannot be written.
    """
    console.print(
        "A small residual network reads handwritten digits. It is pruned, rewoven and measured.", markup=False
    )
    study = Study.create(demo_study(trials, min(2, cores())), home)
    if study.state.phase == "new":
        look_first(study, console)
    summary = run_study(study, console)
    folder = None
    if summary["best"] is not None and summary["state"] != "stopped":
        with console.status("exporting the best network"):
            folder, _ = export_trial(study, out or home.root / "demo-export", overwrite=True)
    return summary | {"export": str(folder) if folder else None}
