"""Tables from CSV and parquet files, cut into splits, their columns made into numbers.

Everything that is learnt from a table (means, deviations, categories) is learnt from its training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from objectives.task import Split
from spaces.errors import TaskError
from spaces.policy import nearest

SPLITS: tuple[Split, Split, Split] = ("train", "validation", "test")
#: Values of a column of words that get a place of their own: the most frequent in training. All others get none.
MOST = 32
#: The largest number of a column, the least deviation that is one, and how many deviations a value may lie off.
LARGEST, LEAST, FARTHEST = 1e30, 1e-30, 1e6
_SUFFIXES = (".csv", ".parquet")


def read_splits(data: str, needed: Sequence[str], classes: str | None = None) -> dict[Split, pd.DataFrame]:
    """A file, cut 60 : 20 : 20, or a folder with a file for each split: ``train``, ``validation`` and ``test``.

    Args:
        data: CSV or parquet; a CSV has a head line.
        needed: Columns that must be there; rows that lack one of these values are left out.
        classes: The column whose values a file's splits shall have in equal shares; None for any.

    Raises:
        TaskError: If something is missing, cannot be read, or is too little.
    """
    path = Path(data).expanduser()
    if path.is_dir():
        return {split: _kept(_file_of(path, split), needed) for split in SPLITS}
    table = _kept(path, needed)
    parts = split_rows(len(table), None if classes is None else class_names(table[classes]))
    return {split: table.iloc[rows].reset_index(drop=True) for split, rows in parts.items()}


def split_rows(count: int, classes: NDArray[Any] | None) -> dict[Split, NDArray[np.int64]]:
    """Rows drawn for each split, in order: 60 % training, 20 % validation, 20 % test, always the same ones.

    Raises:
        TaskError: If there are fewer than 10 rows, or a class has fewer than 5.
    """
    if count < 10:
        raise TaskError(f"data must have at least 10 rows to be cut into splits, but has {count}: use more")
    values = None
    if classes is not None:
        found, values, counts = np.unique(classes.astype(str), return_inverse=True, return_counts=True)
        if counts.min() < 5:
            rare = found[counts.argmin()]
            raise TaskError(
                f"every class must have at least 5 rows to be in each split, but {str(rare)!r} has {counts.min()}: "
                "add rows or leave that class out"
            )
    rest, test = train_test_split(np.arange(count), test_size=0.2, stratify=values, random_state=0)
    of_rest = None if values is None else values[rest]
    train, validation = train_test_split(rest, test_size=0.25, stratify=of_rest, random_state=0)
    return dict(zip(SPLITS, (np.sort(train), np.sort(validation), np.sort(test)), strict=True))


def class_names(column: pd.Series) -> NDArray[np.str_]:
    """Values of a column as words; a whole number is written as one, also where a gap made the column a decimal one."""
    if pd.api.types.is_float_dtype(column) and bool((column == column.round()).all()):
        column = column.astype(np.int64)
    return np.asarray(column.astype(str).to_numpy(), dtype=np.str_)


def _file_of(folder: Path, split: Split) -> Path:
    for suffix in _SUFFIXES:
        path = folder / f"{split}{suffix}"
        if path.is_file():
            return path
    raise TaskError(
        f"a folder of data must hold {', '.join(SPLITS)} as .csv or .parquet, but {folder} has no {split}: add it"
    )


def _kept(path: Path, needed: Sequence[str]) -> pd.DataFrame:
    table = _read(path)
    for name in needed:
        if name not in table.columns:
            raise TaskError(f"{path} must have a column {name!r}, but has none: {nearest(name, list(table.columns))}")
    kept = table.dropna(subset=list(needed)).reset_index(drop=True)
    if kept.empty:
        raise TaskError(f"{path} must have rows with a value of {', '.join(needed)}, but has none: check the file")
    return kept


def _read(path: Path) -> pd.DataFrame:
    if path.suffix not in _SUFFIXES:
        raise TaskError(f"data must be a .csv or .parquet file, but is {str(path)!r}: convert it")
    try:
        table = pd.read_csv(path, low_memory=False) if path.suffix == ".csv" else pd.read_parquet(path)
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        raise TaskError(f"data must be a readable file, but {path} is not ({reason}): check the path") from None
    # What pandas keeps of a table beside it may be bent in ways that its reader does not look for.
    except (ValueError, TypeError, LookupError, AttributeError, pyarrow.ArrowException) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise TaskError(f"{path} must be a table, but is not ({reason}): check the file") from None
    table.columns = [str(name) for name in table.columns]
    return table


@dataclass(frozen=True)
class Encoder:
    """How the columns of a table become features.

    A column of numbers (or yes and no) becomes one feature, standardised; a missing number is the mean, and where the
    training rows lack some, a second feature is 1 where it is missing. A column of words becomes one feature of 0 or 1
    for each of its most frequent values; what is missing, rare or new is 0 in all of them.

    Args:
        numbers: By column its mean and its deviation.
        gaps: Columns that have a feature for what is missing.
        words: By column the values that have a feature.
    """

    numbers: Mapping[str, tuple[float, float]]
    gaps: Sequence[str]
    words: Mapping[str, Sequence[str]]

    @staticmethod
    def of(table: pd.DataFrame) -> Encoder:
        """Learn it from training rows.

        Raises:
            TaskError: If a column holds neither numbers nor words, or there is nothing to learn from.
        """
        numbers: dict[str, tuple[float, float]] = {}
        gaps: list[str] = []
        words: dict[str, list[str]] = {}
        for name in table.columns:
            column = table[name]
            if _is_numbers(column):
                values = _numbers(column)
                present = values[~np.isnan(values)]
                if len(present) and np.ptp(present) > 0 and present.std() > LEAST:
                    numbers[name] = (float(present.mean()), float(present.std()))
                if 0 < len(present) < len(values):
                    gaps.append(name)
            elif _is_words(column):
                counts = column.dropna().astype(str).value_counts()
                ranked = sorted(counts.index, key=lambda value: (-counts[value], value))
                if len(ranked) > 1 or (len(ranked) == 1 and column.isna().any()):
                    words[name] = sorted(ranked[:MOST])
            else:
                raise TaskError(
                    f"a column must hold numbers or words, but {name!r} holds {column.dtype}: convert or remove it"
                )
        if not numbers and not gaps and not words:
            raise TaskError("data must have a column beside the target whose values differ, but has none: check it")
        return Encoder(numbers, gaps, words)

    def features(self, table: pd.DataFrame) -> NDArray[np.float32]:
        """Shape (rows, features).

        Raises:
            TaskError: If a column is missing or holds something else than in training.
        """
        columns: list[NDArray[np.float64]] = []
        for name in dict.fromkeys((*self.numbers, *self.gaps, *self.words)):
            if name not in table.columns or (name not in self.words and not _is_numbers(table[name])):
                raise TaskError(f"column {name!r} must hold numbers in every split, but does not: check the files")
        for name, (mean, deviation) in self.numbers.items():
            columns.append(np.nan_to_num(np.clip((_numbers(table[name]) - mean) / deviation, -FARTHEST, FARTHEST)))
        columns += [np.isnan(_numbers(table[name])).astype(np.float64) for name in self.gaps]
        for name, values in self.words.items():
            found = table[name].astype(str).where(table[name].notna(), "").to_numpy()
            columns += [(found == value).astype(np.float64) for value in values]
        return np.stack(columns, axis=1).astype(np.float32)


def _is_numbers(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_complex_dtype(column))


def _is_words(column: pd.Series) -> bool:
    kinds = (pd.api.types.is_string_dtype, pd.api.types.is_object_dtype)
    return isinstance(column.dtype, pd.CategoricalDtype) or any(kind(column) for kind in kinds)


def _numbers(column: pd.Series) -> NDArray[np.float64]:
    """Infinite ones are missing ones."""
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    largest = np.abs(values[np.isfinite(values)]).max(initial=0.0)
    if largest > LARGEST:
        raise TaskError(
            f"the numbers of a column must be below {LARGEST:g}, but {column.name!r} has {largest:g}: rescale it"
        )
    return np.where(np.isfinite(values), values, np.nan)
