"""The paper's data rules on masks made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from napari_histoseg._testing import he_image
from napari_histoseg.methods.joint.data import (
    UNLABELED,
    Picture,
    Place,
    crop,
    foreground,
    grid,
    on_tissue,
    places,
    split_count,
)

PINK, GRAY, WHITE = (230, 120, 170), (200, 200, 200), (245, 245, 245)


def painted(height: int = 100, width: int = 120) -> np.ndarray:
    """A white picture."""
    return np.full((height, width, 3), WHITE, np.uint8)


def test_foreground_is_saturated_without_holes_and_salt() -> None:
    image = painted()
    image[20:80, 20:90] = PINK
    image[40:60, 40:60] = WHITE  # a lumen
    image[5:7, 100:102] = PINK  # salt
    image[85:95, 10:30] = GRAY  # dust has no color
    found = foreground(image)
    assert found[45, 45] and found[25, 25]
    assert not found[:15].any() and not found[84:].any()
    assert found.sum() == pytest.approx(60 * 70, rel=0.02)


def test_saturation_of_just_ten_percent_divides() -> None:
    image = np.full((20, 40, 3), 200, np.uint8)
    image[:, 20:, 1] = 176  # saturation 24 / 200 = 12 %
    image[:, :20, 1] = 182  # 18 / 200 = 9 %
    found = foreground(image)
    assert not found[:, :18].any() and found[:, 22:].all()


def test_small_regions_are_cropped_around_their_center() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[20:40, 30:70] = 1
    mask[100:180, 150:170] = 2
    mask[190:, :20] = UNLABELED
    found = places(mask, 128, background=0)
    assert found == [Place(50, 30, 1), Place(160, 140, 2)]


@pytest.mark.parametrize(("area", "count"), [(1, 2), (128 * 128, 2), (128 * 128 + 1, 3), (4 * 128 * 128, 5)])
def test_the_number_of_parts_is_the_paper_s(area: int, count: int) -> None:
    assert split_count(area, 128) == count


def test_a_large_region_is_split_evenly_by_its_pixels() -> None:
    mask = np.zeros((64, 300), np.uint8)
    mask[12:52, 10:290] = 1
    found = places(mask, 64, background=0)
    # 1 + 40 · 280 / 64² = 3.7.
    assert len(found) == 4
    assert [p.x for p in found] == pytest.approx([45, 115, 185, 255], abs=12)
    assert all(p.y == pytest.approx(32, abs=2) and p.value == 1 for p in found)
    assert found == places(mask, 64, background=0), "the same every time"


def test_crops_on_glass_are_left_out_unless_nothing_is_left() -> None:
    image = painted(100, 200)
    image[:, :90] = PINK
    left, middle, right = Place(40, 50), Place(90, 50), Place(150, 50)
    assert on_tissue(image, [left, middle, right], 80, 0.75) == [left]
    assert on_tissue(image, [left, middle, right], 80, 0.5) == [left, middle]
    assert on_tissue(image, [right], 80, 0.75) == [right]


def test_a_grid_covers_a_picture() -> None:
    assert grid((100, 128), 128) == [Place(64, 50)]
    assert grid((128, 300), 128) == [Place(64, 64), Place(150, 64), Place(236, 64)]


def test_a_plain_crop_is_the_pixels_flipped_and_turned() -> None:
    image = he_image(96, 96, seed=1)
    mask = (image[..., 0] > 150).astype(np.uint8)
    picture = Picture(image, mask)
    for seed in range(6):
        made, labels = crop(np.random.default_rng(seed), picture, Place(48, 48), 96, 0)
        turned = [np.rot90(image[:, ::flip], k) for flip in (1, -1) for k in range(4)]
        assert any(np.array_equal(made, t) for t in turned)
        np.testing.assert_array_equal(labels, made[..., 0] > 150)


def test_a_crop_keeps_inside_where_there_is_room_and_is_unlabeled_outside() -> None:
    picture = Picture(he_image(300, 300, seed=1), np.ones((300, 300), np.uint8))
    _, labels = crop(np.random.default_rng(0), picture, Place(0, 0), 64, 0)
    assert (labels == 1).all()
    small = Picture(he_image(40, 40, seed=1), np.ones((40, 40), np.uint8))
    _, labels = crop(np.random.default_rng(0), small, Place(20, 20), 64, 0)
    assert (labels == 1).sum() == 40 * 40 and (labels[20:40, 20:40] == 1).all()
    assert set(np.unique(labels)) == {1, UNLABELED}


def test_image_and_mask_turn_together() -> None:
    image = painted(200, 200)
    image[60:140, 80:120] = PINK
    picture = Picture(image, (image[..., 1] < 200).astype(np.uint8))
    for seed in range(5):
        made, labels = crop(np.random.default_rng(seed), picture, Place(100, 100), 96, 1.0)
        assert np.mean((made[..., 1] < 182) == (labels == 1)) > 0.98


def test_the_same_seed_draws_the_same_crop() -> None:
    picture = Picture(he_image(200, 200, seed=2), None, 1)
    first, second = (crop(np.random.default_rng(7), picture, Place(90, 90), 64, 1.0)[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
