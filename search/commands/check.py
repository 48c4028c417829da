"""`pleach check`: everything that can be known of a study before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from search.preflight import check
from search.study_file import StudyFile


def check_file(path: Path) -> dict[str, Any]:
    """The pre-flight of a study file, JSON-able.

    Raises:
        PleachError: If the file, the task or its network cannot be used at all.
    """
    return check(StudyFile.load(path)).to_dict()
