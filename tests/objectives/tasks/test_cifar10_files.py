"""One set of images in all three forms reads alike; a file that is none, or that wants to run code, is refused."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from objectives.tasks.cifar10_files import find_files, read_images
from spaces.errors import TaskError

COUNT = 10


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (COUNT, 3, 32, 32)).astype(np.uint8)


@pytest.fixture
def labels() -> list[int]:
    return [n % 10 for n in range(COUNT)]


def encoded(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.transpose(1, 2, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(path: Path, images: np.ndarray, labels: list[int], column: str = "image") -> None:
    cells = [{"bytes": encoded(image), "path": None} for image in images]
    pyarrow.parquet.write_table(pyarrow.table({column: cells, "label": labels}), path)


def as_python2(images: np.ndarray, labels: list[int]) -> bytes:
    """The bytes that Python 2 wrote: its strings are bytes, which only the opcodes of its time say so."""
    data = images.reshape(len(images), -1)
    text = pickle.dumps({"data": data, "labels": labels, "batch_label": "training batch 1 of 5"}, protocol=2)
    # Protocol 2 of Python 3 names numpy's current module; the published files name the one of their time.
    return text.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def check(folder: Path, file: str, images: np.ndarray, labels: list[int], cache: Path) -> None:
    read, classes = read_images(folder, file, cache)
    assert read.dtype == np.uint8
    assert classes.dtype == np.int64
    assert np.array_equal(read, images)
    assert classes.tolist() == labels


@pytest.mark.parametrize("column", ["image", "img"])
@pytest.mark.parametrize("name", ["test.parquet", "plain_text/test-00000-of-00001.parquet"])
def test_parquet(tmp_path: Path, images: np.ndarray, labels: list[int], column: str, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write_parquet(tmp_path / name, images, labels, column)
    check(tmp_path, "test", images, labels, tmp_path / "cache")


def test_parquet_in_several_parts_keeps_its_order(tmp_path: Path, images: np.ndarray, labels: list[int]) -> None:
    write_parquet(tmp_path / "train-00000-of-00002.parquet", images[:4], labels[:4])
    write_parquet(tmp_path / "train-00001-of-00002.parquet", images[4:], labels[4:])
    check(tmp_path, "train", images, labels, tmp_path / "cache")


def test_images_are_decoded_once_until_the_file_changes(
    tmp_path: Path, images: np.ndarray, labels: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tmp_path / "test.parquet", tmp_path / "cache"
    write_parquet(path, images, labels)
    check(tmp_path, "test", images, labels, cache)
    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", lambda *_: pytest.fail("decoded again"))
        check(tmp_path, "test", images, labels, cache)
    write_parquet(path, images[::-1], labels)
    os.utime(path, ns=(1, 1))
    check(tmp_path, "test", images[::-1], labels, cache)


@pytest.mark.parametrize("folder", [".", "cifar-10-batches-py"])
@pytest.mark.parametrize("by", ["python 2", "python 3"])
def test_python_batches(tmp_path: Path, images: np.ndarray, labels: list[int], folder: str, by: str) -> None:
    (tmp_path / folder).mkdir(exist_ok=True)
    for n in range(5):
        part, classes = images[2 * n : 2 * n + 2], labels[2 * n : 2 * n + 2]
        content = as_python2(part, classes)
        if by == "python 3":
            content = pickle.dumps({b"data": part.reshape(2, -1), b"labels": classes}, protocol=2)
        (tmp_path / folder / f"data_batch_{n + 1}").write_bytes(content)
    check(tmp_path, "train", images, labels, tmp_path / "cache")


def test_binary_files(tmp_path: Path, images: np.ndarray, labels: list[int]) -> None:
    records = np.concatenate([np.array(labels, dtype=np.uint8)[:, None], images.reshape(COUNT, -1)], axis=1)
    records.tofile(tmp_path / "test_batch.bin")
    check(tmp_path, "test", images, labels, tmp_path / "cache")


class Runs:
    """A pickle of this would run a command where it is read without care."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps(Runs(os.system, "touch ran"), protocol=2), "it asks for posix.system"),
        (pickle.dumps(Runs(eval, "open('ran', 'w')"), protocol=2), "eval, which a batch of images has no use for"),
        (pickle.dumps(Runs(os.getcwd)), "it asks for posix.getcwd"),
        (pickle.dumps(Runs(np.ndarray, (2,), "O"), protocol=2), "not callable"),
        (pickle.dumps({"data": np.array([object()]), "labels": []}, protocol=2), "array of 'O8'"),
        (pickle.dumps({"data": Runs(print, 1), "labels": []}, protocol=2), "it asks for __builtin__.print"),
        (pickle.dumps({"data": np.zeros((2, 3072)), "labels": [0, 1]}, protocol=2), "instead of bytes"),
        (pickle.dumps({"data": np.zeros((2, 7), np.uint8), "labels": [0, 1]}, protocol=2), "bytes of shape (N, 3072)"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, protocol=2), "one for each image"),
        (pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [10]}, protocol=2), "from 0 to 9"),
        (pickle.dumps([1, 2]), "it holds a list instead of a dict"),
        (b"", "Ran out of input"),
        (b"no pickle at all", "must be a file of CIFAR-10"),
        (pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}, protocol=2)[:-300], "truncated"),
    ],
)
def test_a_python_batch_that_is_none_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(TaskError) as caught:
        read_images(tmp_path, "test", tmp_path / "cache")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_batch_cannot_change_numpys_own_types(tmp_path: Path) -> None:
    content = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1]}, protocol=2)
    (tmp_path / "test_batch").write_bytes(content)
    read_images(tmp_path, "test", tmp_path / "cache")
    assert np.dtype("u1").metadata is None
    assert np.dtype("u1").isbuiltin == 1


def test_binary_and_parquet_files_that_are_none_are_refused(tmp_path: Path, images: np.ndarray) -> None:
    def refusal() -> str:
        with pytest.raises(TaskError) as caught:
            read_images(tmp_path, "test", tmp_path / "cache")
        return str(caught.value)

    binary, parquet = tmp_path / "test_batch.bin", tmp_path / "test.parquet"
    binary.write_bytes(bytes(3072))
    assert "its size must be a multiple of 3073 bytes, but is 3072" in refusal()
    binary.write_bytes(bytes([11]) + bytes(3072))
    assert "its labels must be whole numbers from 0 to 9" in refusal()
    parquet.write_bytes(b"PAR1 it is not")
    assert "it is no parquet file" in refusal()
    pyarrow.parquet.write_table(pyarrow.table({"pixels": [1], "label": [1]}), parquet)
    assert "it has the columns pixels, label instead of image and label" in refusal()
    pyarrow.parquet.write_table(pyarrow.table({"image": [{"bytes": b"no image"}], "label": [1]}), parquet)
    assert "row 0 is no image" in refusal()
    small = encoded(images[0][:, :20, :30])
    pyarrow.parquet.write_table(pyarrow.table({"image": [{"bytes": small}], "label": [1]}), parquet)
    assert "row 0 is an image of 30 x 20" in refusal()
    assert not (tmp_path / "cache").exists()


def test_a_folder_without_the_data_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"train\.parquet, data_batch_1 or data_batch_1\.bin, but .* does not"):
        find_files(tmp_path, "train")
