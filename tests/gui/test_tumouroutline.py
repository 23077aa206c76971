"""Outlines of tumour: from masks to rings that can be drawn, and back."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from napari_histoseg.annotations.areas import burned
from napari_histoseg.gui.tumouroutline import (
    Ring,
    area_of,
    area_of_rings,
    count_and_size,
    mm2,
    rings_of,
    without_holes,
)
from napari_histoseg.slide import Box

MASKS = arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))


def blobs(seed: int, side: int = 200) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(side, side))
    return ndimage.gaussian_filter(noise, 4) > 0.02


@settings(max_examples=200, deadline=None)
@given(MASKS)
def test_a_mask_comes_back_from_its_area(mask: np.ndarray) -> None:
    box = Box(40, -8, 4 * mask.shape[1], 3 * mask.shape[0])
    np.testing.assert_array_equal(burned(area_of(mask, box), box, mask.shape), mask)


@pytest.mark.parametrize("seed", range(4))
def test_rings_bring_an_area_back_with_holes_and_islands(seed: int) -> None:
    mask = blobs(seed)
    area = area_of(mask, Box(0, 0, 200, 200))
    rings = rings_of(area)
    assert any(ring.hole for ring in rings) and not rings[0].hole
    back = area_of_rings(rings)
    assert back.symmetric_difference(area).area < 1e-6 * area.area


def test_a_ring_that_crosses_itself_is_repaired() -> None:
    eight = np.array([[0, 0], [10, 10], [10, 0], [0, 10]], float)
    assert area_of_rings([Ring(eight)]).area == pytest.approx(50)


def test_what_is_cut_out_and_drawn_again_counts_in_its_order() -> None:
    outer, hole, island = (np.array(shapely.box(a, a, 100 - a, 100 - a).exterior.coords)[:-1] for a in (0, 20, 40))
    assert area_of_rings([Ring(outer), Ring(hole, hole=True), Ring(island)]).area == pytest.approx(10_000 - 3_600 + 400)
    assert area_of_rings([]).is_empty


@pytest.mark.parametrize("seed", range(3))
def test_polygons_without_holes_cover_the_same(seed: int) -> None:
    area = area_of(blobs(seed), Box(0, 0, 200, 200))
    parts = without_holes(area)
    assert not any(part.interiors for part in parts)
    assert shapely.union_all(parts).symmetric_difference(area).area < 1e-6 * area.area
    assert sum(part.area for part in parts) == pytest.approx(area.area)


@pytest.mark.parametrize(("um2", "words"), [(1_230_000, "1.23 mm²"), (4_100, "0.0041 mm²"), (812_400_000, "812 mm²"), (0, "0 mm²")])
def test_areas_in_words(um2: float, words: str) -> None:
    assert mm2(um2) == words


def test_sizes_in_words() -> None:
    two = shapely.union_all([shapely.box(0, 0, 1000, 1000), shapely.box(2000, 0, 3000, 1000)])
    assert count_and_size(two, 0.5) == "2 areas, 0.5 mm²"
    assert count_and_size(shapely.box(0, 0, 1000, 1000), None) == "1 area"
