"""What `pleach bench` and `pleach sensitivity` look like on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.console import score

Answer = Mapping[str, Any]
#: Layers that a table shows; the others are in ``--json``.
SHOWN = 40


def bench_answer(found: Answer) -> RenderableType:
    """The artefact beside its baseline, then its layers."""
    macs = found["macs"]
    table = _table("file", "runtime", "batch", "baseline", "median", "95 %", "speed-up", "efficiency")
    for row in found["rows"]:
        style = "green" if row["speedup"] > 1.02 else "red" if row["speedup"] < 0.98 else "dim"
        table.add_row(
            row["what"],
            row["runtime"],
            str(row["batch"]),
            score("_ms", row["baseline_ms"]),
            score("_ms", row["p50_ms"]),
            score("_ms", row["p95_ms"]),
            Text(f"{row['speedup']:.2f} x", style=style),
            f"{row['efficiency']:.2f}",
        )
    plural = "s" if found["threads"] > 1 else ""
    parts: list[RenderableType] = [table]
    if macs:
        ratio = macs["baseline"] / macs["compressed"]
        parts.append(
            Text(
                f"{found['threads']} thread{plural} of {found['hardware']}. Multiply-accumulates fell {ratio:.2f} x; "
                "efficiency is the speed-up by that.",
                style="dim",
            )
        )
    parts += [Text(f"{what}: {why}", style="yellow") for what, why in found["skipped"].items()]
    if found["layers"]:
        parts.append(_layers(found))
    return Group(*parts)


def sensitivity_answer(found: Answer) -> RenderableType:
    """What each layer loses at each level, in points."""
    table = _table("layer", "policy", *(f"{float(level):.0%} off" for level in found["levels"]))
    for row in found["layers"]:
        cells = [
            Text(_points(row["drop"][level]), style=_style(row["drop"][level])) if level in row["drop"] else Text("-")
            for level in found["levels"]
        ]
        table.add_row(row["layer"], row["policy"], *cells)
    line = Text(f"Score {100 * found['baseline']:.1f} % before, without training after each cut.", style="dim")
    return Group(table, line)


def _layers(found: Answer) -> RenderableType:
    batches = sorted({batch for row in found["layers"] for batch in row["gain"]}, key=int)
    table = _table("layer", "runs", "only simulated", *(f"alone, batch {batch}" for batch in batches))
    for row in found["layers"][:SHOWN]:
        gains = [f"{row['gain'][b]['speedup']:.2f} x" if b in row["gain"] else "" for b in batches]
        told = (Text(text) for text in (row["layer"], ", ".join(row["runs"]), ", ".join(row["simulated"])))
        table.add_row(*told, *gains)
    left = len(found["layers"]) - SHOWN
    return Group(table, Text(f"and {left} more: see --json", style="dim")) if left > 0 else table


def _points(drop: float) -> str:
    """What a drop leaves, in points; without a minus where it rounds to nothing."""
    return f"{round(-100 * drop, 1) + 0.0:+.1f} pt"


def _style(drop: float) -> str:
    return "green" if drop < 0.01 else "yellow" if drop < 0.05 else "red"


def _table(*columns: str) -> Table:
    table = Table(box=None)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < 2 else "right")
    return table
