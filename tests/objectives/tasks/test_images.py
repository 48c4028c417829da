"""Batches of images: every pixel where it belongs, the same under the same seed, read-only arrays left alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from objectives.tasks.images import ImageBatches, Look

PLAIN = Look(top=255.0, mean=(0.0, 0.0), deviation=(1.0, 1.0), shift=0, flip=False)
VARIED = Look(top=255.0, mean=(0.0, 0.0), deviation=(1.0, 1.0), shift=2, flip=True)


def images(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of 1 to 255, so that black is always padding, and labels that number the images."""
    generator = np.random.default_rng(0)
    return generator.integers(1, 256, (count, 2, 6, 5)).astype(np.uint8), np.arange(count, dtype=np.int64)


def test_fixed_order_gives_the_pixels_as_they_are_scaled() -> None:
    pixels, labels = images(5)
    look = Look(top=16.0, mean=(0.5, 0.25), deviation=(0.5, 0.1), shift=2, flip=True)
    batches = list(ImageBatches(pixels, labels, look, 2, shuffle_seed=None))
    assert [len(targets) for _, targets in batches] == [2, 2, 1]
    x = torch.cat([inputs for inputs, _ in batches])
    # By hand: the pixel over 16, less the mean, over the deviation.
    assert x[3, 1, 2, 4].item() == pytest.approx((int(pixels[3, 1, 2, 4]) / 16 - 0.25) / 0.1, rel=1e-5)
    expected = (pixels / 16 - np.array([0.5, 0.25])[:, None, None]) / np.array([0.5, 0.1])[:, None, None]
    torch.testing.assert_close(x, torch.from_numpy(expected).float())
    assert torch.cat([targets for _, targets in batches]).tolist() == [0, 1, 2, 3, 4]


@given(count=st.integers(1, 20), size=st.integers(1, 8), seed=st.none() | st.integers(0, 99))
def test_one_pass_meets_every_image_once(count: int, size: int, seed: int | None) -> None:
    batches = ImageBatches(*images(count), VARIED, size, seed)
    targets = [targets for _, targets in batches]
    assert len(targets) == len(batches)
    assert sorted(torch.cat(targets).tolist()) == list(range(count))
    assert all(len(part) == size for part in targets[:-1])


def test_a_varied_image_is_a_shift_and_perhaps_a_mirror_of_itself() -> None:
    pixels, labels = images(64)
    padded = np.pad(pixels, ((0, 0), (0, 0), (2, 2), (2, 2)))
    places = set()
    for inputs, targets in ImageBatches(pixels, labels, VARIED, 16, shuffle_seed=3):
        found = (inputs * 255).round().to(torch.uint8).numpy()
        for image, label in zip(found, targets.tolist(), strict=True):
            matches = [
                (row, column, mirrored)
                for row in range(5)
                for column in range(5)
                for mirrored in (False, True)
                if np.array_equal(
                    image[:, :, ::-1] if mirrored else image, padded[label, :, row : row + 6, column : column + 5]
                )
            ]
            assert len(matches) == 1
            places.add(matches[0])
    # 64 draws over 50 possibilities: each shift in either direction and both mirrors occur.
    assert {row for row, _, _ in places} == {column for _, column, _ in places} == set(range(5))
    assert {mirrored for _, _, mirrored in places} == {False, True}


def test_the_seed_decides_the_pass() -> None:
    def passing(seed: int) -> torch.Tensor:
        return torch.cat([inputs for inputs, _ in ImageBatches(*images(20), VARIED, 8, seed)])

    torch.manual_seed(1)
    first = passing(0)
    torch.manual_seed(2)
    assert torch.equal(first, passing(0))
    assert not torch.equal(first, passing(1))


@pytest.mark.parametrize("seed", [None, 0])
def test_read_only_arrays_are_read_only(seed: int | None) -> None:
    pixels, labels = images(6)
    kept = pixels.copy()
    pixels.flags.writeable = labels.flags.writeable = False
    for inputs, targets in ImageBatches(pixels, labels, PLAIN, 4, seed):
        inputs.zero_()
        targets.zero_()
    assert np.array_equal(pixels, kept)
    assert labels.tolist() == list(range(6))
