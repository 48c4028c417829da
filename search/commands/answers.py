"""What each verb's answer looks like on a terminal, and which exit code it comes to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.ablation import cells_of
from search.commands.bud_answers import RENDER_BUDS
from search.commands.device_answers import bench_answer, sensitivity_answer
from search.commands.service_answers import RENDER_SERVICE
from search.console import (
    best_table,
    duration,
    front_table,
    headline,
    profile_table,
    score,
    study_tables,
    value,
)

Answer = Mapping[str, Any]

VERDICTS = {
    "met": ("met", "green"),
    "reachable": ("within reach", "green"),
    "training": ("training decides", "yellow"),
    "close": ("at the edge", "yellow"),
    "impossible": ("out of reach", "red"),
}


def exit_code(verb: str, answer: Answer) -> int:
    """0 done, 1 no trial meets the constraints, 2 bad input, 130 interrupted."""
    if verb == "check":
        return 2 if answer["refusals"] else 0
    if verb == "doctor":
        return 0 if answer["fit"] else 1
    if verb in ("run", "demo", "bud run") and answer["state"] == "stopped" and answer["reason"] == "interrupted":
        return 130
    if verb == "ablate":
        return 130 if answer["interrupted"] else 0
    if verb in ("run", "demo", "best", "bud run"):
        return 0 if answer["best"] and answer["best"]["feasible"] else 1
    return 0


def run_answer(summary: Answer) -> RenderableType:
    """The end of a run."""
    name, best = summary["study"], summary["best"]
    lines = [f"pleach best {name}", f"pleach export {name} --out DIR", f"pleach ui {name}"]
    if summary["state"] != "complete":
        lines.insert(0, f"pleach resume {name}")
    if best is None:
        lines = [f"pleach resume {name}", f"look at {summary['home']}/studies/{name}/log.txt"]
    return Group(study_tables(summary), _next(lines))


def submit_answer(job: Answer) -> RenderableType:
    """A study that a cluster has now."""
    said = Text.assemble((job["study"], "bold"), f" is job {job['job']} of {job['address']}\n")
    notes = {"follow": "what it says", "status": "how it stands", "stop": "end it; what is decided stays"}
    commands = job["commands"]
    lines = [f"{commands[name]}    {note}" for name, note in notes.items()]
    return Group(said, _next([*lines, f"{commands['watch']}    on a machine that has that folder"]))


def demo_answer(summary: Answer) -> RenderableType:
    """The end of the demonstration."""
    if summary["export"] is None:
        return run_answer(summary)
    lines = [
        "pleach best demo                     the best profile",
        "pleach ui demo                       every trial, curve and knob in the MLflow UI",
        f"python -c \"from search.export import load; print(load('{summary['export']}'))\"",
        "pleach init study.toml               a study of your own network",
    ]
    return Group(study_tables(summary), Text(f"exported to {summary['export']}\n"), _next(lines))


def best_answer(summary: Answer) -> RenderableType:
    """The best trial with its profile."""
    best = summary["best"]
    if best is None:
        return Group(headline(summary), Text("No trial is complete yet.", style="yellow"))
    parts: list[RenderableType] = [headline(summary), best_table(summary), profile_table(best["profile"])]
    if summary["front"]:
        parts.append(front_table(summary))
    return Group(*parts)


def check_answer(found: Answer) -> RenderableType:
    """The pre-flight table."""
    baseline, time = found["baseline"], duration(max(1, found["seconds_per_trial"]))
    head = Text.assemble(
        (found["study"], "bold"), f" on {found['task']}, accuracy {score('accuracy', baseline['accuracy'])}; "
    )
    head.append(f"{found['steps']} steps per trial, about {time} each on one thread")
    parts: list[RenderableType] = [head]
    names = [name for name in ("macs", "parameters", "size_bytes", "sparsity") if name in baseline]
    table = _table("What is left, without training", "profile", *names)
    table.add_row("baseline", *(score(name, baseline[name]) for name in names))
    for label, scores in found["corners"].items():
        table.add_row(label, *(_beside(name, scores.get(name), baseline[name]) for name in names))
    parts.append(table)
    if found["limits"]:
        table = _table("Constraints", "constraint", "bound", "baseline", "reach", "")
        for limit in found["limits"]:
            name, (words, style) = limit["text"].split()[0], VERDICTS[limit["verdict"]]
            cells = (score(name, limit[key]) for key in ("bound", "baseline", "reachable"))
            table.add_row(limit["text"], *cells, Text(words, style=style))
        parts.append(table)
    table = _table("How often policies act in a trial", "policy", "at least", "at most", "needed")
    for policy, acts in found["decisions"].items():
        style = "red" if acts["fewest"] < acts["wanted"] else ""
        table.add_row(policy, str(acts["fewest"]), str(acts["most"]), str(acts["wanted"]), style=style)
    parts.append(table)
    parts += [Text(f"note: {note}", style="dim") for note in found["notes"]]
    if found["refusals"]:
        parts += [Text(f"refused: {refusal}", style="red") for refusal in found["refusals"]]
    else:
        parts.append(Text("The study can run.", style="green"))
    return Group(*parts)


def compare_answer(found: Answer) -> RenderableType:
    """Profiles side by side: what differs, and what came of it."""
    items = found["items"]
    table = _table("", "", *(item["name"] for item in items))
    names = list(dict.fromkeys(name for item in items for name in item["scores"]))
    for name in names:
        table.add_row(name, *(score(name, item["scores"].get(name)) for item in items))
    if names:
        table.add_section()
    for knob in found["knobs"]:
        cells = [value(item["parameters"][knob]) if knob in item["parameters"] else "-" for item in items]
        style = "" if knob in found["different"] else "dim"
        table.add_row(knob, *cells, style=style)
    if found["knobs"]:
        return table
    return Group(table, Text("The profiles are the same.", style="dim"))


def ablate_answer(found: Answer) -> RenderableType:
    """What each policy is worth."""
    table = Table(
        title=f"Trial {found['trial']} of {found['study']}", title_justify="left", title_style="bold", box=None
    )
    table.add_column("variant")
    for name in found["measures"]:
        table.add_column(name, justify="right")
        table.add_column("difference", justify="right")
    for row in found["rows"]:
        cells = [
            Text(cell, style="dim" if cell.startswith("(") else "")
            for n in found["measures"]
            for cell in cells_of(row, n)
        ]
        table.add_row(row["label"], *cells)
    failed = [f"{row['label']}: {reason}" for row in found["rows"] for reason in row["reasons"]]
    end = f"{found['seeds']} fresh seeds, paired; (in brackets): within noise; see the study's run in MLflow"
    if found["interrupted"]:
        end = f"Some runs are missing: pleach ablate {found['study']} goes on where it was."
    return Group(table, *(Text(line, style="red") for line in failed), Text(end, style="dim"))


def export_answer(found: Answer) -> RenderableType:
    """What was written."""
    text = Text(f"trial {found['trial']} is in {found['out']}", style="" if found["feasible"] else "yellow")
    if not found["feasible"]:
        text.append(" (it misses a constraint)")
    return Group(text, *(Text(f"  {name}", style="dim") for name in found["files"]))


def init_answer(found: Answer) -> RenderableType:
    """What was written, and what to do with it."""
    file = found["file"]
    return Group(Text(f"wrote {file}\n"), _next([f"pleach check {file}", f"pleach run {file}"]))


def report_answer(found: Answer) -> RenderableType:
    """What was written."""
    return Text(f"wrote {found['out']}, {found['bytes'] / 1e6:.1f} MB: open it in a browser, it needs no internet")


def stop_answer(found: Answer) -> RenderableType:
    """That it was asked."""
    return Text(f"{found['study']} stops {found['stopping']}")


def doctor_answer(found: Answer) -> RenderableType:
    """The checks of the machine."""
    table = _table("", "", "what", "found", "remedy")
    marks = {"ok": Text("ok", style="green"), "missing": Text("--", style="yellow"), "broken": Text("!!", style="red")}
    for check in found["checks"]:
        table.add_row(marks[check["verdict"]], check["what"], check["found"], check["remedy"])
    end = "Pleach can work here." if found["fit"] else "Something that every study needs does not work: see !! above."
    return Group(table, Text(end, style="green" if found["fit"] else "red"))


def _beside(name: str, reached: float | None, before: float) -> Text:
    """A cost, and what share of the baseline's it is."""
    text = Text(score(name, reached))
    if reached is not None and before and name != "sparsity":
        share = 100 * reached / before
        text.append(f" {share:4.0f} %" if share >= 1 else f" {share:4.1f} %", style="dim")
    return text


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None)
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 or not title else "right")
    return table


def _next(lines: list[str]) -> Text:
    return Text("next:\n" + "\n".join(f"  {line}" for line in lines), style="dim")


#: By the name that the command line gives them.
RENDER: Mapping[str, Callable[[Answer], RenderableType]] = {
    "run": run_answer,
    "submit": submit_answer,
    "demo": demo_answer,
    "bench": bench_answer,
    "best": best_answer,
    "ablate": ablate_answer,
    "check": check_answer,
    "compare": compare_answer,
    "export": export_answer,
    "sensitivity": sensitivity_answer,
    "doctor": doctor_answer,
    "init": init_answer,
    "report": report_answer,
    "stop": stop_answer,
    "watch": study_tables,
    **RENDER_BUDS,
    **RENDER_SERVICE,
}
