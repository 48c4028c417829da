"""The model card: README.md of an export, for whoever finds the folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spaces.ledger import Ledger
from spaces.profile import CompressionProfile

_FILES: Mapping[str, str] = {
    "README.md": "this card",
    "profile.json": "the compression profile: policies, their values, per-layer overrides",
    "search_policy.json": "what the search learnt; warm-starts the next study",
    "model.safetensors": "the weights",
    "architecture.json": "the network as data; loading it runs no code of the file",
    "metrics.json": "all figures, baseline beside compressed, and the hardware",
    "ledger.json": "every connection that was created or pruned, by layer and iteration",
    "model.onnx": "the network for onnxruntime, any batch",
    "model.int8.onnx": "the same in int8, calibrated on validation inputs",
    "model.pt2": "the network for torch.export.load; open it only where this folder comes from a friend",
    "baseline.json": "the graph before compression, without weights, for `pleach bench`",
    "execution.json": "layer by layer: what really runs, what is only simulated, and what it gains",
    "parity.json": "how far the reloaded network's outputs are from those in memory, in every format",
    "manifest.json": "size and sha256 of every file; loading checks them first",
}


def card(
    title: str,
    profile: CompressionProfile,
    figures: Mapping[str, Any],
    ledger: Ledger | None,
    parity: Mapping[str, Any],
    rebuild: Mapping[str, Any] | None,
    files: tuple[str, ...],
    execution: Mapping[str, Any],
) -> str:
    """The text of the card, Markdown.

    Args:
        title: What was compressed.
        profile: How.
        figures: The contents of ``metrics.json``.
        ledger: What was switched on and off, or None.
        parity: The contents of ``parity.json``.
        rebuild: ``{class, args, reason}`` of a network that needs its own class, else None.
        files: Names of the files in the folder.
        execution: The contents of ``execution.json``.
    """
    parts = [f"# {title}", "A network compressed by Pleach.", _use(rebuild), _figures(figures)]
    if figures.get("timings"):
        parts.append(_timings(figures["timings"]["rows"], execution.get("recommended", {})))
    parts.append(_profile(profile))
    if ledger is not None:
        parts.append(
            "## Connections\n\n"
            f"{sum(ledger.active_at_start.values()):,} before, {sum(ledger.active().values()):,} after: "
            f"{ledger.pruned():,} pruned, {ledger.created():,} created."
        )
    difference = f"{parity['max_abs_difference']:.3g}, in {parity['process']}"
    parts.append(f"## Parity\n\nLargest difference between the reloaded outputs and those in memory: {difference}.")
    listed = "\n".join(f"- `{name}`: {_FILES.get(name, 'further material')}" for name in files)
    return "\n\n".join([*parts, f"## Files\n\n{listed}"]) + "\n"


def _use(rebuild: Mapping[str, Any] | None) -> str:
    if rebuild is None:
        code, why = 'load("path/of/this/folder")', "Checksums are verified first; nothing is unpickled or imported."
    else:
        code = 'load("path/of/this/folder", network=...)'
        why = f"`network` is a `{rebuild['class']}`, for its graph could not be stored: {rebuild['reason']}."
    return f"## Use\n\n```python\nfrom search.export import load\n\nnetwork = {code}\n```\n\n{why}"


def _figures(figures: Mapping[str, Any]) -> str:
    rows = ["## Figures", "", "| | baseline | compressed | |", "|---|---|---|---|"]
    baseline, compressed = figures["baseline"], figures["compressed"]
    for name in [*compressed, *(name for name in baseline if name not in compressed)]:
        before, after = baseline.get(name), compressed.get(name)
        change = f"{after / before:.3g} x" if before and after is not None else ""
        rows.append(f"| {name} | {_number(before)} | {_number(after)} | {change} |")
    return "\n".join([*rows, "", f"Measured on {figures['hardware']}."])


def _timings(rows: list[Mapping[str, Any]], recommended: Mapping[str, str]) -> str:
    lines = [
        "## Speed",
        "",
        "Beside the baseline, in turn; efficiency is the speed-up by the ratio of multiply-accumulates.",
        "",
        "| file | runtime | batch | threads | baseline | median | 95 % | speed-up | efficiency |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| `{row['what']}` | {row['runtime']} | {row['batch']} | {row['threads']} | {row['baseline_ms']:.3g} ms "
        f"| {row['p50_ms']:.3g} ms | {row['p95_ms']:.3g} ms | {row['speedup']:.2f} x | {row['efficiency']:.2f} |"
        for row in rows
    ]
    said = [f"batch {batch}: `{file}`" for batch, file in recommended.items()]
    return "\n".join([*lines, *(["", f"Fastest here: {', '.join(said)}."] if said else [])])


def _profile(profile: CompressionProfile) -> str:
    rows = [f"| `{name}` | {value} |" for name, value in profile.parameters().items()] or ["| nothing | |"]
    return "\n".join(["## Profile", "", "| knob | value |", "|---|---|", *rows])


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) >= 1000 else f"{value:.5g}"
