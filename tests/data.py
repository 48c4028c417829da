"""The data that some tests need and that is no part of the project: where it lies, and what to say where it is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: ``cifar10/{train,test}.parquet`` and ``weights/*.safetensors``.
FOLDER = Path(os.environ.get("PLEACH_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")

needs_data = pytest.mark.skipif(
    not (FOLDER / "cifar10").is_dir() or not (FOLDER / "weights").is_dir(),
    reason=f"no test data in {FOLDER}: set PLEACH_TEST_DATA to the folder with cifar10/ and weights/",
)
