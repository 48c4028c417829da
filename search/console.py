"""How the command line shows a study: numbers that can be read at a glance, tables that fit eighty columns."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

#: Shares of one, shown in per cent.
SHARES = ("accuracy", "plasticity", "sparsity")
#: Members of a front that a table shows; the others are in `--json`.
SHOWN = 12
STATES = {
    "new": "dim",
    "running": "cyan",
    "complete": "green",
    "stopped": "yellow",
    "interrupted": "yellow",
    "pruned": "dim",
    "failed": "red",
}


def out() -> Console:
    """For results: standard output."""
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def err(*, quiet: bool = False) -> Console:
    """For progress and errors; a quiet one says nothing."""
    return Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=not sys.stderr.isatty())


@contextmanager
def stdout_kept_for_json() -> Iterator[None]:
    """Whatever else writes to standard output meanwhile, a library or a worker process, goes to standard error."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed by whoever started us
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 1)
        os.close(kept)


def print_json(data: Mapping[str, Any] | Sequence[Any]) -> None:
    """One JSON value on standard output; what JSON cannot say is null."""
    sys.stdout.write(json.dumps(_plain(data), allow_nan=False) + "\n")
    sys.stdout.flush()


# -- numbers --------------------------------------------------------------------------------------------------------


def score(name: str, value: float | None) -> str:
    """A score with its unit: ``97.2 %``, ``318 k``, ``12.4 KiB``, ``3.21 ms``."""
    if value is None or math.isnan(value):
        return "-"
    if name in SHARES and -1 <= value <= 1:
        return f"{100 * value:.1f} %"
    if name.endswith("bytes"):
        return _scaled(value, 1024, ("B", "KiB", "MiB", "GiB", "TiB"))
    if name.endswith("_ms"):
        return f"{value:.3g} ms"
    if name in ("macs", "bops", "parameters", "throughput"):
        return _scaled(value, 1000, ("", "k", "M", "G", "T"))
    return f"{value:.4g}"


def against(name: str, value: float | None, baseline: float | None) -> Text:
    """A score beside the baseline's: points where it is a share, else its size as a multiple of it."""
    if value is None or baseline is None or math.isnan(value):
        return Text("")
    if name in SHARES:
        change = 100 * (value - baseline)
        return Text(f"{change:+.1f} pt", style="dim" if abs(change) < 0.05 else "red" if change < 0 else "green")
    if baseline == 0:
        return Text("")
    share = value / baseline
    shown = f"x {share:.2f}" if share >= 0.1 else f"x {share:.2g}"
    return Text(shown, style="green" if share < 0.995 else "dim" if share < 1.005 else "red")


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 20 s``, ``2 h 05 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def value(setting: object) -> str:
    """A knob's value."""
    if isinstance(setting, bool):
        return "yes" if setting else "no"
    return f"{setting:.4g}" if isinstance(setting, float) else str(setting)


# -- tables ---------------------------------------------------------------------------------------------------------


def study_tables(summary: Mapping[str, Any]) -> RenderableType:
    """A study that has been run: its end, the baseline beside the best, the front."""
    parts: list[RenderableType] = [headline(summary)]
    best = summary["best"]
    if best is not None:
        parts.append(best_table(summary))
    if summary["front"]:
        parts.append(front_table(summary))
    return Group(*parts)


def headline(summary: Mapping[str, Any]) -> Text:
    """One line: name, state, counts, time."""
    counts, state = summary["trials"], summary["state"]
    line = Text.assemble((summary["study"], "bold"), "  ", (state, STATES.get(state, "")), "  ")
    line.append(f"{counts['complete'] + counts['pruned'] + counts['failed']}/{counts['wanted']} trials (")
    parts = [f"{counts['complete']} complete", f"{counts['pruned']} stopped early", f"{counts['failed']} failed"]
    if counts["cached"]:
        parts[0] += f", {counts['cached']} of them cached"
    line.append(", ".join(part for part in parts if not part.startswith("0 ")) or "none yet")
    line.append(f")  {duration(summary['seconds'])}")
    if summary.get("reason"):
        line.append(f"\n{summary['reason']}", style="dim")
    return line


def best_table(summary: Mapping[str, Any]) -> RenderableType:
    """The baseline and the best trial, objective by objective."""
    best, baseline = summary["best"], summary["baseline"]
    table = Table(title=f"Best: trial {best['trial']}", title_justify="left", title_style="bold", box=None)
    table.add_column("objective")
    table.add_column("baseline", justify="right")
    table.add_column("best", justify="right")
    table.add_column("")
    for name, reached in best["scores"].items():
        before = baseline.get(name)
        table.add_row(name, score(name, before), score(name, reached), against(name, reached, before))
    if best["feasible"]:
        return table
    warning = Text("It misses a constraint: no trial meets all of them. This one misses least.", style="yellow")
    return Group(table, warning)


def front_table(summary: Mapping[str, Any]) -> RenderableType:
    """The front, every member with its objectives."""
    front, best = summary["front"], summary["best"]
    names = list(front[0]["scores"])
    title = f"Front: {len(front)} trial{'s' if len(front) > 1 else ''}"
    table = Table(title=title, title_justify="left", title_style="bold", box=None)
    table.add_column("trial", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    for member in front[:SHOWN]:
        chosen = best is not None and member["trial"] == best["trial"]
        cells = [score(name, member["scores"].get(name)) for name in names]
        table.add_row(f"{'* ' if chosen else ''}{member['trial']}", *cells, style="bold" if chosen else "")
    if len(front) <= SHOWN:
        return table
    return Group(table, Text(f"and {len(front) - SHOWN} more: see --json", style="dim"))


def profile_table(profile: Mapping[str, Any]) -> Table:
    """The knobs of a profile, policy by policy."""
    table = Table(title="Profile", title_justify="left", title_style="bold", box=None, show_header=False)
    table.add_column("policy", style="cyan")
    table.add_column("knobs")
    for policy, knobs in profile["policies"].items():
        table.add_row(policy, ", ".join(f"{name} {value(setting)}" for name, setting in knobs.items()))
    for layer in profile["layers"]:
        changed = ", ".join(f"{name} {value(setting)}" for name, setting in layer["values"].items())
        table.add_row(layer["policy"], f"{changed} for {layer['match']}")
    return table


def studies_table(summaries: Sequence[Mapping[str, Any]]) -> RenderableType:
    """All studies of a home."""
    if not summaries:
        return Text("No study has run here yet. Begin with: pleach demo")
    table = Table(box=None)
    table.add_column("study", style="bold")
    table.add_column("state")
    table.add_column("trials", justify="right")
    table.add_column("front", justify="right")
    table.add_column("best")
    table.add_column("time", justify="right")
    for summary in summaries:
        counts, best, state = summary["trials"], summary["best"], summary["state"]
        decided = counts["complete"] + counts["pruned"] + counts["failed"]
        shown = ", ".join(f"{name} {score(name, v)}" for name, v in (best["scores"] if best else {}).items())
        table.add_row(
            summary["study"],
            Text(state, style=STATES.get(state, "")),
            f"{decided}/{counts['wanted']}",
            str(len(summary["front"])),
            Text(shown if best is None or best["feasible"] else f"{shown} (infeasible)"),
            duration(summary["seconds"]),
        )
    return table


def _scaled(number: float, base: int, units: Sequence[str]) -> str:
    power = 0
    while abs(number) >= base and power < len(units) - 1:
        number /= base
        power += 1
    text = (
        f"{number:.0f}"
        if power == 0 and float(number).is_integer()
        else f"{number:.3g}"
        if number < 1000
        else f"{number:.0f}"
    )
    return f"{text} {units[power]}".strip()


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {str(key): _plain(item) for key, item in data.items()}
    if isinstance(data, list | tuple | set):
        return [_plain(item) for item in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data if isinstance(data, str | int | float | bool | None) else str(data)
