"""What is seen of nuclei, and of those around them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import napari_histoseg as hs
from napari_histoseg._testing import he_tissue
from napari_histoseg.methods.cells.config import CellsSettings
from napari_histoseg.methods.cells.looks import (
    SHAPE,
    Viewer,
    local_labels,
    picture_numbers,
    shape_numbers,
    size_and_roundness,
)
from napari_histoseg.methods.cells.sources import source_of
from napari_histoseg.slide import Box

MPP = 0.25


@pytest.fixture(scope="module")
def viewer() -> Viewer:
    image, labels = he_tissue(500, 400, seed=3, mpp=MPP)
    slide = hs.open_slide(image, mpp=MPP)
    source = source_of(labels.astype(np.int32), slide)
    made = Viewer(source, source.index(), CellsSettings().style, MPP, 1.0, 10.0)
    object.__setattr__(made, "pixels", image)
    return made


def seen(viewer: Viewer, keep: Box) -> tuple[np.ndarray, np.ndarray, pd.DataFrame]:
    """Ids, means around and measurements of a box's own nuclei."""
    image = viewer.pixels  # type: ignore[attr-defined]
    bounds = Box(0, 0, image.shape[1], image.shape[0])
    box = keep.padded(viewer.margin_px).intersect(bounds)
    look = viewer.look(image[box.slices], box, keep)
    around = viewer.mean_around(look, picture_numbers(look.crops).astype(float))
    return viewer.index.ids[look.positions[look.own]], around, look.table[look.own].reset_index(drop=True)


def test_a_box_sees_of_its_nuclei_what_the_whole_picture_sees(viewer: Viewer) -> None:
    ids, around, table = seen(viewer, Box(0, 0, 500, 400))
    assert len(ids) == len(viewer.index) > 50
    for keep in (Box(0, 0, 170, 400), Box(170, 130, 200, 140)):
        part_ids, part_around, part_table = seen(viewer, keep)
        at = np.searchsorted(ids, part_ids)
        assert 5 < len(part_ids) < len(ids)
        np.testing.assert_array_equal(part_around, around[at])
        pd.testing.assert_frame_equal(part_table, table.loc[at].reset_index(drop=True))


def test_the_mean_around_is_a_weighted_mean_of_what_is_near(viewer: Viewer) -> None:
    image = viewer.pixels  # type: ignore[attr-defined]
    bounds = Box(0, 0, 500, 400)
    look = viewer.look(image, bounds, bounds)
    x, y = viewer.index.x, viewer.index.y
    value = np.random.default_rng(0).normal(size=(len(x), 2))
    got = viewer.mean_around(look, value)
    for i in range(0, len(x), 7):
        distance = np.hypot(x - x[i], y - y[i]) * MPP
        weight = np.where(distance <= 20.0, np.exp(-0.5 * (distance / 10.0) ** 2), 0)
        np.testing.assert_allclose(got[i], (weight[:, None] * value).sum(0) / weight.sum())


def test_labels_become_places() -> None:
    labels = np.array([[0, 7, 7], [9, 0, 4_000_000_000]], np.uint32)
    np.testing.assert_array_equal(local_labels(labels, np.array([7, 4_000_000_000], np.uint32)), [[0, 1, 1], [0, 0, 2]])
    assert not local_labels(labels, np.zeros(0, np.uint32)).any()


@pytest.mark.parametrize("px", [16, 40, 44])
def test_picture_numbers_are_mean_colors_of_fields(px: int) -> None:
    crops = np.zeros((2, px, px, 3), np.uint8)
    crops[1, :, : px // 2, 0] = 255
    numbers = picture_numbers(crops).reshape(2, 10, 10, 3)
    assert not numbers[0].any()
    assert numbers[1, ..., 0].mean() == pytest.approx(0.5, abs=0.06)
    assert not numbers[1, ..., 1:].any()
    np.testing.assert_allclose(numbers[1, :, :4, 0], 1)


def test_shape_numbers_take_logarithms_of_sizes_only() -> None:
    table = pd.DataFrame({name: [2.0, np.nan] for name in SHAPE})
    numbers = shape_numbers(table)
    assert numbers[0].tolist() == pytest.approx([np.log(2)] * 4 + [2.0] * 6)
    assert np.isnan(numbers[1]).all()
    sizes = size_and_roundness(pd.DataFrame({"area_um2": [np.e, np.nan], "major_axis_um": [8.0, np.nan], "minor_axis_um": [2.0, np.nan]}))
    assert sizes[0].tolist() == pytest.approx([1.0, 0.25]) and np.isnan(sizes[1]).all()
