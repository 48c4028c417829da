"""What a driver hears of the study's other drivers, and what they hear of it: results, as files in every home."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from search.books import result_text
from search.home import StudyFolder, write_text
from search.register import Entry, Register
from search.result import TrialResult
from spaces.errors import StorageError


class Share(Protocol):
    """What a driver needs of it."""

    def news(self) -> Sequence[TrialResult]:
        """The trials that others decided since the last time, each in this home's files by now."""
        ...

    def take(self, key: str) -> bool:
        """Claim what is no trial; False where another driver has it."""
        ...

    def give(self, result: TrialResult) -> bool:
        """Let the others know of what was taken; False where another driver did it before."""
        ...


class Alone:
    """There is one driver: nothing is heard, and everything is its own."""

    def news(self) -> Sequence[TrialResult]:
        return ()

    def take(self, key: str) -> bool:
        return True

    def give(self, result: TrialResult) -> bool:
        return True


class Mirror:
    """Keeps a home's result files equal to the study's register, letter for letter.

    Args:
        register: Joined.
        folder: The study's, in this home.
    """

    def __init__(self, register: Register, folder: StudyFolder) -> None:
        self._register, self._folder, self._heard = register, folder, 0

    def start(self) -> None:
        """Enter what lies here and nobody has entered, then fetch everything else.

        Raises:
            StorageError: If the database cannot be used, or a file cannot be read or written.
        """
        own = {entry.key: entry for entry in entries_in(self._folder)}
        sums = {key: hashlib.md5(entry.text.encode(), usedforsecurity=False).hexdigest() for key, entry in own.items()}
        entered: set[str] = set()

        def known(key: str, md5: str) -> bool:
            entered.add(key)
            return sums.get(key) == md5

        self._heard, entries = self._register.news(0, known)
        for key, entry in own.items():
            if key not in entered and not self._register.enter(entry):
                self._path(entry).unlink()  # cut off before it was entered, and taken up elsewhere: that one counts
        for entry in entries:
            self._write(entry)

    def news(self) -> Sequence[TrialResult]:
        self._heard, entries = self._register.news(self._heard)
        trials = []
        for entry in entries:
            if entry.number is None or not self._folder.result(entry.number).exists():
                self._write(entry)
                if entry.number is not None:
                    trials.append(TrialResult.from_dict(json.loads(entry.text)))
        return trials

    def take(self, key: str) -> bool:
        return self._register.take(key)

    def give(self, result: TrialResult) -> bool:
        return self._register.decide(result.request.key, result_text(result)) is not None

    def _write(self, entry: Entry) -> None:
        write_text(self._path(entry), entry.text)

    def _path(self, entry: Entry) -> Path:
        return self._folder.confirmation(entry.key) if entry.number is None else self._folder.result(entry.number)


def entries_in(folder: StudyFolder) -> list[Entry]:
    """What is decided in a home, by number.

    Raises:
        StorageError: If a file cannot be read.
    """
    try:
        trials = [Entry(str(n), n, path.read_text(encoding="utf-8")) for n, path in folder.results().items()]
        return trials + [Entry(path.stem, None, path.read_text(encoding="utf-8")) for path in folder.confirmations()]
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{folder.root / 'results'} cannot be read ({error}): restore it from a copy") from None
