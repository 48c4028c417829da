"""Others see a whole file or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from objectives.cache import cache_folder, write_whole
from spaces.errors import StorageError


def test_the_cache_lies_under_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLEACH_HOME", raising=False)
    assert cache_folder("abc") == tmp_path / ".pleach" / "cache" / "abc"
    monkeypatch.setenv("PLEACH_HOME", str(tmp_path / "home"))
    assert cache_folder("abc") == tmp_path / "home" / "cache" / "abc"
    assert cache_folder("abc", tmp_path / "elsewhere") == tmp_path / "elsewhere" / "abc"
    assert not any(tmp_path.iterdir())


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_whole(path, lambda temporary: temporary.write_text("first"))

    def breaks(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_whole(path, breaks)
    assert path.read_text() == "first"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="must be writable, but is not"):
        write_whole(tmp_path / "file" / "inner.txt", lambda temporary: None)
