"""Reads CIFAR-10 from the three forms in which it is handed on: parquet, the python batches, the binary files.

Shapes: images (N, 3, 32, 32) uint8, labels (N,) int64 in 0-9. A file that is not what its name says is refused.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from objectives.cache import cache_folder, write_whole
from objectives.tasks.images import Images
from spaces.errors import TaskError

SHAPE = (3, 32, 32)
PIXELS = 3 * 32 * 32
#: In the python and binary forms the training images lie in five files.
_BATCHES = {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}


def find_files(data_dir: Path, file: str) -> list[Path]:
    """The files that hold ``train`` or ``test``, in whichever form they lie in the folder or just below it.

    Raises:
        TaskError: If there are none.
    """
    for folder in (data_dir, *sorted(path for path in data_dir.glob("*") if path.is_dir())):
        parquet = sorted({*folder.glob(f"{file}.parquet"), *folder.glob(f"{file}-*.parquet")})
        if parquet:
            return parquet
        for suffix in ("", ".bin"):
            batches = [folder / f"{name}{suffix}" for name in _BATCHES[file]]
            if all(path.is_file() for path in batches):
                return batches
    raise TaskError(
        f"data_dir must hold CIFAR-10's {file} images as {file}.parquet, {_BATCHES[file][0]} or "
        f"{_BATCHES[file][0]}.bin, but {data_dir} does not: unpack the data there"
    )


def read_images(data_dir: Path, file: str, cache_dir: str | Path | None = None) -> Images:
    """All images and labels of ``train`` or ``test``, in the files' order.

    Compressed images are decoded once and kept, uncompressed, in the cache; from there they are mapped, not copied.

    Raises:
        TaskError: If the files are not there or not CIFAR-10.
    """
    paths = find_files(data_dir, file)
    if paths[0].suffix == ".parquet":
        return _decoded(paths, cache_dir)
    parts = [_read_binary(path) if path.suffix == ".bin" else _read_python(path) for path in paths]
    return np.concatenate([images for images, _ in parts]), np.concatenate([labels for _, labels in parts])


def _decoded(paths: list[Path], cache_dir: str | Path | None) -> Images:
    state = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    folder = cache_folder(hashlib.sha256(repr(state).encode()).hexdigest()[:16], cache_dir)
    kept = folder / "images.npy", folder / "labels.npy"
    if not all(path.is_file() for path in kept):
        parts = [_read_parquet(path) for path in paths]
        for path, arrays in zip(kept, zip(*parts, strict=True), strict=True):
            whole = np.concatenate(arrays)
            write_whole(path, lambda temporary, whole=whole: np.save(temporary, whole))  # type: ignore[misc]
    return np.load(kept[0], mmap_mode="r"), np.load(kept[1])


def _read_parquet(path: Path) -> Images:
    """The Hugging Face layout: a column of encoded images (``image`` or ``img``) and one of labels."""
    try:
        table = pyarrow.parquet.read_table(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise _refused(path, f"it is no parquet file: {error}") from None
    column = next((name for name in ("image", "img") if name in table.column_names), None)
    if column is None or "label" not in table.column_names:
        raise _refused(path, f"it has the columns {', '.join(table.column_names)} instead of image and label")
    images = np.empty((table.num_rows, *SHAPE), dtype=np.uint8)
    for row, cell in enumerate(table.column(column).to_pylist()):
        encoded: Any = cell.get("bytes") if isinstance(cell, dict) else cell
        try:
            pixels = np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))
        except (TypeError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
            raise _refused(path, f"row {row} is no image: {error}") from None
        if pixels.shape != (32, 32, 3):
            raise _refused(path, f"row {row} is an image of {pixels.shape[1]} x {pixels.shape[0]}")
        images[row] = pixels.transpose(2, 0, 1)
    return images, _labels(path, table.column("label").to_pylist())


def _read_python(path: Path) -> Images:
    """A pickled dict with ``data`` (N, 3072) and ``labels``, written by Python 2."""
    try:
        with path.open("rb") as file:
            batch = _BatchUnpickler(file, encoding="bytes").load()
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _refused(path, str(error)) from None
    found = {key.decode() if isinstance(key, bytes) else key: value for key, value in _as_dict(path, batch).items()}
    data, labels = found.get("data"), found.get("labels")
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != PIXELS:
        raise _refused(path, f"its data must be bytes of shape (N, {PIXELS})")
    images = np.ascontiguousarray(data).reshape(-1, *SHAPE)
    return images, _labels(path, labels, len(images))


def _read_binary(path: Path) -> Images:
    """Records of one byte for the label and 3,072 for the pixels, plane by plane."""
    content = np.fromfile(path, dtype=np.uint8)
    if not len(content) or len(content) % (1 + PIXELS):
        raise _refused(path, f"its size must be a multiple of {1 + PIXELS} bytes, but is {len(content)}")
    records = content.reshape(-1, 1 + PIXELS)
    return np.ascontiguousarray(records[:, 1:]).reshape(-1, *SHAPE), _labels(path, records[:, 0].tolist())


class _BatchUnpickler(pickle.Unpickler):
    """Builds arrays of bytes and plain values, nothing else: a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        asked = (module, name)
        if asked not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a batch of images has no use for")
        return _ALLOWED[asked]


def _empty_array(_: object, shape: object, code: object) -> NDArray[np.uint8]:
    """What numpy's own function gives before the array's state is set."""
    return np.empty(0, dtype=np.uint8)


def _dtype(code: str | bytes, *_: object) -> np.dtype[np.uint8]:
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"it holds an array of {code!r} instead of bytes")
    # A copy, because the file then sets the state of what it gets, and numpy's own instance is everybody's.
    return np.dtype(np.uint8, copy=True)


def _latin1(text: str, encoding: str) -> bytes:
    """How Python 3 writes bytes in the older protocols."""
    return text.encode("latin1")


#: What a pickled batch names, and what it gets instead. The class of arrays is only ever named, never called.
_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _empty_array,
    ("numpy._core.multiarray", "_reconstruct"): _empty_array,
    ("numpy", "ndarray"): None,
    ("numpy", "dtype"): _dtype,
    ("_codecs", "encode"): _latin1,
}


def _as_dict(path: Path, value: object) -> dict[Any, Any]:
    if not isinstance(value, dict):
        raise _refused(path, f"it holds a {type(value).__name__} instead of a dict")
    return value


def _labels(path: Path, labels: object, count: int | None = None) -> NDArray[np.int64]:
    if not isinstance(labels, list) or (count is not None and len(labels) != count):
        raise _refused(path, "it must have a list of labels, one for each image")
    if not all(isinstance(label, int) and 0 <= label <= 9 for label in labels):
        raise _refused(path, "its labels must be whole numbers from 0 to 9")
    return np.array(labels, dtype=np.int64)


def _refused(path: Path, reason: str) -> TaskError:
    return TaskError(
        f"{path} must be a file of CIFAR-10, but is not ({' '.join(reason.split())}): unpack the data again"
    )
