"""`pleach compare`: profiles and scores of trials, studies, profile files and exports side by side."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search.export_trial import chosen
from search.home import Home
from search.study import Study
from spaces.errors import StorageError, StudyError
from spaces.profile import CompressionProfile


@dataclass(frozen=True)
class Item:
    """One column."""

    name: str
    profile: CompressionProfile
    scores: Mapping[str, float]


def compare_items(names: Sequence[str], home: Home, *, every: bool) -> dict[str, Any]:
    """Compare two or more.

    Args:
        names: Each a study's name (its best trial), ``NAME:TRIAL``, a profile file or an exported folder.
        home: Where the studies are.
        every: Whether knobs that agree are listed too.

    Returns:
        ``items`` with name, scores and parameters; ``knobs`` to list; those that are ``different``.

    Raises:
        PleachError: If one cannot be found or read.
    """
    if len(names) < 2:
        raise StudyError(f"compare needs at least two, but got {len(names)}: write pleach compare A B")
    items = [_item(name, home) for name in names]
    parameters = [item.profile.parameters() for item in items]
    knobs = list(dict.fromkeys(knob for flat in parameters for knob in flat))
    different = [knob for knob in knobs if len({repr(flat.get(knob)) for flat in parameters}) > 1]
    return {
        "items": [
            {"name": item.name, "scores": dict(item.scores), "parameters": flat}
            for item, flat in zip(items, parameters, strict=True)
        ],
        "knobs": knobs if every else different,
        "different": different,
    }


def _item(name: str, home: Home) -> Item:
    path = Path(name)
    if path.is_dir():
        return Item(path.name, CompressionProfile.load(path / "profile.json"), _exported_scores(path))
    if path.is_file() or path.suffix == ".json":
        return Item(path.stem, CompressionProfile.load(path), {})
    study_name, colon, number = name.partition(":")
    if colon and not number.isdigit():
        raise StudyError(f"a trial is named by its number, as in {study_name}:3, but is {number!r}: see pleach list")
    study = Study.load(study_name, home)
    result = chosen(study.name, study.books(), int(number) if colon else None)
    return Item(f"{study_name}:{result.number}", result.request.profile, result.scores)


def _exported_scores(folder: Path) -> dict[str, float]:
    try:
        compressed = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["compressed"]
        return {str(name): float(reached) for name, reached in compressed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{folder / 'metrics.json'} cannot be read ({error}): export it again") from None
