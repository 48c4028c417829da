"""What the verbs of buds look like on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from search.console import study_tables

Answer = Mapping[str, Any]


def run_answer(found: Answer) -> RenderableType:
    """The end of a study of buds, and what serves from now on."""
    if not found["system"]:
        return Group(study_tables(found), Text("No trial is complete, so nothing is registered.", style="yellow"))
    name = found["system"]
    lines = [f"pleach bud list {name}", f"pleach bud serve {name}", f"pleach ui {found['study']}"]
    return Group(study_tables(found), _versions(found["versions"]), _next(lines))


def list_answer(found: Answer) -> RenderableType:
    """The systems, or the versions of one."""
    if found["versions"]:
        return _versions(found["versions"])
    if not found["systems"]:
        return Text("There is no system of buds yet: pleach bud run STUDY.toml makes one.")
    return Group(*(Text(name) for name in found["systems"]), _next([f"pleach bud list {found['systems'][0]}"]))


def changed_answer(found: Answer) -> RenderableType:
    """What serves after a change."""
    return _versions(found["versions"])


def deleted_answer(found: Answer) -> RenderableType:
    """What is gone."""
    return Text(f"deleted {', '.join(found['deleted'])}; the files are still with their runs")


def _versions(versions: list[Mapping[str, Any]]) -> Table:
    table = Table(box=None)
    for index, name in enumerate(("model", "version", "serves", "accuracy", "parent", "macs", "share", "classes")):
        table.add_column(name, justify="left" if index in (0, 2, 7) else "right")
    for version in versions:
        tags = version["tags"]
        table.add_row(
            version["model"],
            str(version["version"]),
            ", ".join(version["aliases"]),
            _percent(tags.get("accuracy")),
            _percent(tags.get("parent_accuracy")),
            f"{float(tags['macs']):,.0f}" if "macs" in tags else "",
            _percent(tags.get("share")),
            tags.get("classes", "").strip("[]"),
            style="" if "champion" in version["aliases"] else "dim",
        )
    return table


def _percent(text: str | None) -> str:
    return f"{100 * float(text):.1f} %" if text else ""


def _next(lines: list[str]) -> Text:
    return Text("next:\n" + "\n".join(f"  {line}" for line in lines), style="dim")


#: By the name that the command line gives them.
RENDER_BUDS: Mapping[str, Callable[[Answer], RenderableType]] = {
    "bud run": run_answer,
    "bud list": list_answer,
    "bud promote": changed_answer,
    "bud rollback": changed_answer,
    "bud delete": deleted_answer,
}
