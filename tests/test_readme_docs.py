"""The pages of the docs say what the code does: every key, every default, every link."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined

from objectives.objective import OBJECTIVES
from objectives.task import Evaluates, Labels, SharesArrays, Task
from search.installation import ROOT
from search.study_file import StudyFile
from search.study_tables import (
    BudgetTable,
    Confirm,
    LimitsTable,
    ResourcesTable,
    StorageTable,
    StudyTable,
    Table,
    TaskTable,
)
from tests import pages

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
STUDY_FILE = (ROOT / "docs" / "study-file.md").read_text(encoding="utf-8")
TASK = (ROOT / "docs" / "task.md").read_text(encoding="utf-8")


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its kind."""
    level = heading.partition(" ")[0]
    return re.split(rf"^{level} ", text.partition(f"\n{heading}\n")[2], flags=re.MULTILINE)[0]


def rows(text: str) -> dict[str, list[str]]:
    """The rows of the tables of a text whose first cell is a name in backticks, by that name."""
    found = re.findall(r"^\| `([^`]+)` \| (.*) \|$", text, flags=re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split(" | ")] for name, rest in found}


def fences(text: str, language: str) -> list[str]:
    """The code blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The names by which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def default_cell(default: Any) -> str:
    if default is PydanticUndefined or default is inspect.Parameter.empty:
        return "required"
    return "none" if default is None else f"`{json.dumps(default)}`"


@pytest.mark.parametrize("name", sorted(set(pages.PAGES) - {"networks.md"}))  # that one is compared beside its runs
def test_a_page_that_is_written_from_the_code_is_up_to_date(name: str) -> None:
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == pages.PAGES[name](), "run python -m tests.pages"


@pytest.mark.parametrize(
    ("heading", "tables"),
    [
        ("## `[study]`", {"": StudyTable}),
        ("## `[task]`", {"": TaskTable}),
        ("## `[budget]`", {"": BudgetTable, "limits.": LimitsTable, "confirm.": Confirm}),
        ("## `[resources]`", {"": ResourcesTable}),
        ("## `[storage]`", {"": StorageTable}),
    ],
)
def test_every_key_of_the_study_file_is_there_with_its_default(heading: str, tables: dict[str, type[Table]]) -> None:
    written = rows(section(STUDY_FILE, heading))
    fields = {
        f"{prefix}{name}": field for prefix, table in tables.items() for name, field in table.model_fields.items()
    }
    assert {name: row[1] for name, row in written.items()} == {
        name: default_cell(field.get_default(call_default_factory=True, validated_data={}))
        for name, field in fields.items()
    }
    for name, field in fields.items():
        choices = re.findall(r"'([^']*)'", str(field.annotation)) if "Literal" in str(field.annotation) else []
        assert [f'"{choice}"' for choice in choices] == (re.findall(r'"[^"]*"', written[name][0]) if choices else [])


def test_every_table_of_the_study_file_is_there() -> None:
    for name in StudyFile.model_fields:
        assert f"\n## `[{name}]`\n" in STUDY_FILE


def test_every_objective_is_there_with_its_direction() -> None:
    written = rows(section(STUDY_FILE, "## `[objectives]`"))
    assert {name: row[0] for name, row in written.items()} == {
        objective.name: f'`"{objective.direction}"`' for objective in OBJECTIVES.values()
    }


def test_the_study_file_of_the_page_is_one() -> None:
    for text in fences(STUDY_FILE, "toml"):
        study = StudyFile.parse(text, ROOT)
        assert study.space.policies.keys() == {"pruning", "reconnection"}
        assert len(study.criteria) == 2
        assert len(study.stop_criteria) == 2


def test_what_a_task_has_is_what_the_page_says() -> None:
    methods = {name for name in vars(Task) if not name.startswith("_")}
    assert set(re.findall(r"^    def (\w+)\(", fences(TASK, "python")[0], flags=re.MULTILINE)) == methods
    optional = {name for kind in (Evaluates, SharesArrays, Labels) for name in vars(kind) if not name.startswith("_")}
    written = section(TASK, "## Optional")
    assert set(re.findall(r"`(\w+)", "".join(re.findall(r"^\| ([^|]*) \|", written, re.MULTILINE)))) == {
        *optional,
        "name",
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"]+)", text):
        if not target.startswith(("http://", "https://")):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            assert file.exists(), f"{page.name} links to {target}"
            if anchor:
                assert anchor in anchors(file.read_text(encoding="utf-8")), f"{page.name} links to {target}"


def test_every_page_of_the_docs_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").iterdir():
        assert f"docs/{page.name}" in readme
