"""Augmentation moves picture and mask together, keeps glass bright, and repeats with its seed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoseg.train.augment import degrade, jitter_stain, warp


def picture() -> tuple[np.ndarray, np.ndarray]:
    """A disc in the middle of glass, and its mask."""
    rows, columns = np.mgrid[:200, :200]
    mask = ((rows - 100) ** 2 + (columns - 100) ** 2 < 30**2).astype(np.int32) * 4
    image = np.full((200, 200, 3), 240, np.uint8)
    image[mask > 0] = (90, 60, 140)
    return image, mask


@given(st.integers(0, 10_000), st.floats(0.6, 1.6))
def test_picture_and_mask_stay_on_each_other(seed: int, zoom: float) -> None:
    image, mask = picture()
    crop, ids = warp(np.random.default_rng(seed), image, mask, 128, zoom, -1)
    assert crop.shape == (128, 128, 3) and set(np.unique(ids)) <= {-1, 0, 4}
    dark = crop.mean(2) < 168
    known = ids >= 0
    assert (dark[known] == (ids[known] > 0)).mean() > 0.98
    assert (ids == 4).sum() <= np.pi * (30 * zoom + 1.5) ** 2


@given(st.integers(0, 10_000))
def test_a_picture_smaller_than_the_crop_is_unlabeled_around(seed: int) -> None:
    image, mask = picture()
    crop, ids = warp(np.random.default_rng(seed), image[:80, :80], mask[:80, :80], 128, 1.0, -1)
    assert (ids == -1).any() and crop.min() > 0


@given(st.integers(0, 10_000))
def test_glass_stays_brighter_than_tissue(seed: int) -> None:
    image, mask = picture()
    rng = np.random.default_rng(seed)
    changed = degrade(rng, jitter_stain(rng, image, 1.0), 1.0)
    assert changed.shape == image.shape and changed.dtype == np.uint8
    assert changed[mask == 0].mean() > changed[mask > 0].mean() + 10


@pytest.mark.parametrize("change", [jitter_stain, degrade])
def test_the_same_seed_gives_the_same_picture(change: object) -> None:
    image, _ = picture()
    a, b = (change(np.random.default_rng(1), image, 1.0) for _ in range(2))  # type: ignore[operator]
    np.testing.assert_array_equal(a, b)


def test_stains_really_change() -> None:
    image, mask = picture()
    colors = [jitter_stain(np.random.default_rng(i), image, 1.0)[mask > 0].mean(0) for i in range(40)]
    assert np.std(colors, axis=0).min() > 10
