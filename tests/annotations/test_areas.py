"""Pixels of areas: those whose middles lie inside, each in one area alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from napari_histoseg.annotations.areas import areal, burned, clipped
from napari_histoseg.annotations.geojson import Region, rasterize
from napari_histoseg.slide import Box


def test_pixels_are_filled_by_their_middles() -> None:
    square = shapely.box(0, 0, 40, 40).difference(shapely.box(10, 10, 30, 30))
    mask = burned(square, Box(0, 0, 80, 60), (6, 8))
    expected = np.zeros((6, 8), bool)
    expected[:4, :4] = True
    expected[1:3, 1:3] = False
    np.testing.assert_array_equal(mask, expected)


coordinate = st.integers(-20, 40)


@given(st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=12), st.sampled_from([1, 2]))
def test_areas_side_by_side_share_no_pixel_and_leave_none(points: Any, downsample: int) -> None:
    # Many middles lie on edges: corners are whole, or middles of coarse pixels.
    inside = areal(shapely.MultiPoint(points).convex_hull)
    frame = Box(-2, 3, 15, 11)
    outside = shapely.box(-100, -100, 100, 100).difference(inside)
    one, other = (rasterize([Region(area)], frame, downsample) for area in (inside, outside))
    np.testing.assert_array_equal(one, ~other)
    level_0 = Box(*(value * downsample for value in (frame.x, frame.y, frame.width, frame.height)))
    np.testing.assert_array_equal(one, burned(inside, level_0, frame.shape))


def test_holes_stay_free_and_islands_in_them_are_filled() -> None:
    rings = [shapely.box(i, i, 20 - i, 20 - i) for i in (0, 4, 8)]
    area = rings[0].difference(rings[1]).union(rings[2])
    mask = burned(area, Box(0, 0, 20, 20), (20, 20))
    expected = np.zeros((20, 20), bool)
    for i, value in ((0, True), (4, False), (8, True)):
        expected[i : 20 - i, i : 20 - i] = value
    np.testing.assert_array_equal(mask, expected)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_the_last_of_areas_that_lie_over_each_other_is_painted(order: tuple[int, ...]) -> None:
    boxes = [Box(0, 0, 9, 9), Box(3, 3, 9, 9), Box(5, 1, 2, 14)]
    expected = np.zeros((16, 16), np.uint8)
    for i in order:
        expected[boxes[i].slices] = i + 1
    regions = [Region(shapely.box(b.x, b.y, b.right, b.bottom), class_name=str(i)) for i, b in enumerate(boxes)]
    painted = rasterize([regions[i] for i in order], Box(0, 0, 16, 16), values={"0": 1, "1": 2, "2": 3})
    np.testing.assert_array_equal(painted, expected)


def test_areas_beside_the_box_paint_nothing() -> None:
    frame = Box(10, 10, 5, 5)
    around = shapely.box(0, 0, 40, 40).difference(shapely.box(10, 10, 15, 15))
    for area in (shapely.box(0, 0, 10, 10), shapely.box(15, 0, 99, 99), around, shapely.Polygon()):
        assert not rasterize([Region(area)], frame).any()
        assert clipped(area, frame).is_empty
