"""An export is there whole or not at all, and what a killed process left is cleared away by the next."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from search.artifact.place import draft
from spaces.errors import ExportError


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def killed_in(out: Path, where: str) -> None:
    """A process that writes an export and is killed there."""
    code = f"""
import os, signal
from pathlib import Path
import search.artifact.place as place
kill = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if {where!r} == "put aside":
    rename, seen = Path.rename, []
    place.Path.rename = lambda self, to: kill() if seen else (seen.append(1), rename(self, to))[1]
with place.draft(Path({str(out)!r}), overwrite=True) as folder:
    (folder / "new").write_text("half")
    if {where!r} == "filling":
        kill()
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == -signal.SIGKILL


def test_what_is_filled_takes_the_name_at_the_end(tmp_path: Path) -> None:
    with draft(tmp_path / "a" / "out", overwrite=False) as folder:
        (folder / "new").write_text("whole")
        assert not (tmp_path / "a" / "out").exists()
    assert (tmp_path / "a" / "out" / "new").read_text() == "whole"
    assert names(tmp_path / "a") == ["out"]


def test_nothing_is_left_of_what_failed(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="why"), draft(tmp_path / "out", overwrite=False):
        raise ExportError("why")
    assert names(tmp_path) == []


def test_what_a_killed_process_was_filling_is_removed_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "o*[u]t"
    killed_in(out, "filling")
    assert len(names(tmp_path)) == 1
    with draft(out, overwrite=False) as folder:
        (folder / "new").write_text("whole")
    assert names(tmp_path) == [out.name]


def test_an_export_that_was_put_aside_comes_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    earlier = out / "manifest.json"
    earlier.write_text("{}")
    # A folder that is no whole export cannot be overwritten: what is put aside is looked at before.
    with pytest.raises(ExportError, match="only an earlier export may be overwritten"), draft(out, overwrite=True):
        pass
    earlier.unlink()
    killed_in(out, "put aside")
    assert not out.exists()
    with draft(out, overwrite=True) as folder:
        assert out.exists()
        (folder / "new").write_text("whole")
    assert names(out) == ["new"]
    assert names(tmp_path) == ["out"]


def test_the_folder_of_a_process_that_lives_is_left_alone(tmp_path: Path) -> None:
    with draft(tmp_path / "out", overwrite=False) as first:
        (first / "one").write_text("1")
        with draft(tmp_path / "out", overwrite=False) as second:
            (second / "two").write_text("2")
        assert first.exists()
        (tmp_path / "out" / "two").unlink()
    assert names(tmp_path / "out") == ["one"]
