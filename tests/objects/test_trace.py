"""Outlines are the exact, valid polygons around objects."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from napari_histoseg.methods.nuclei import decode
from napari_histoseg.objects.trace import outlines, to_wkb

label_images = hnp.arrays(np.int32, hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14), elements=st.integers(0, 2))


def polygons(labels, **options):
    return shapely.from_wkb(to_wkb(*outlines(labels), **options))


def image(*lines):
    return np.array([[int(c) for c in line] for line in lines], np.int32)


@pytest.mark.parametrize(
    ("labels", "points"),
    [
        (image("1"), [(0, 0), (1, 0), (1, 1), (0, 1)]),
        (image("000", "011", "011"), [(1, 1), (3, 1), (3, 3), (1, 3)]),
        (image("10", "11"), [(0, 0), (1, 0), (1, 1), (2, 1), (2, 2), (0, 2)]),
    ],
)
def test_points_are_the_corners_clockwise_from_the_first_pixel(labels, points):
    found, offsets = outlines(labels)
    assert found.tolist() == [list(p) for p in points]
    assert offsets.tolist() == [0, len(points)]


@pytest.mark.parametrize("shape", [(0, 0), (3, 0), (4, 4)])
def test_no_object_no_outline(shape):
    points, offsets = outlines(np.zeros(shape, np.int32))
    assert points.shape == (0, 2)
    assert offsets.tolist() == [0]
    assert len(to_wkb(points, offsets)) == 0


@given(label_images)
@settings(deadline=None, max_examples=300)
def test_polygons_of_whole_objects_are_valid_and_have_the_area_of_their_pixels(labels):
    labels = decode.fill_holes(decode.keep_largest_component((labels > 0).astype(np.int32)))
    shapes = polygons(labels)
    assert shapely.is_valid(shapes).all()
    assert shapely.area(shapes).tolist() == np.bincount(labels.ravel())[1:].tolist()


@given(label_images)
@settings(deadline=None, max_examples=300)
def test_polygons_of_any_labels_are_valid_and_hold_the_first_part(labels):
    shapes = polygons(labels)
    kept = decode.keep_largest_component(labels)
    assert shapely.is_valid(shapes).all()
    for number, shape in zip(np.unique(labels[labels > 0]), shapes, strict=True):
        assert shape.interiors == () or len(shape.interiors) == 0
        y, x = np.nonzero(labels == number)
        assert shapely.contains_xy(shape, x[0] + 0.5, y[0] + 0.5)
        if (kept == number).sum() == len(y):
            assert shapely.contains_xy(shape, x + 0.5, y + 0.5).all()
            assert shape.area >= len(y)


def test_objects_that_touch_at_a_corner_have_each_its_own_outline():
    shapes = polygons(image("110", "110", "002"))
    assert shapely.area(shapes).tolist() == [4, 1]
    assert shapely.touches(*shapes)


def test_an_arm_that_touches_the_object_at_a_corner_encloses_what_lies_between():
    labels = image("111", "101", "110")
    assert polygons(labels)[0].area == 8
    assert polygons(decode.fill_holes(labels))[0].area == 8


def test_a_ring_is_traced_outside_and_its_core_alone():
    shapes = polygons(image("1111", "1221", "1221", "1111"))
    assert shapely.area(shapes).tolist() == [16, 4]


def test_ids_choose_and_absent_ones_are_empty():
    labels = image("11022", "11022")
    points, offsets = outlines(labels, ids=[2, 7, 1, 0, -3])
    assert np.diff(offsets).tolist() == [4, 0, 4, 0, 0]
    found = to_wkb(points, offsets)
    assert [value is None for value in found] == [False, True, False, True, True]
    assert shapely.from_wkb(found[0]).bounds == (3, 0, 5, 2)
    assert shapely.from_wkb(found[2]).bounds == (0, 0, 2, 2)


def test_scale_and_origin_give_the_frame_of_the_slide():
    found = polygons(image("00", "01"), scale=4.0, origin_xy=(100, 50))[0]
    assert found.bounds == (404, 204, 408, 208)
    ring = found.exterior.coords
    assert ring[0] == ring[-1]


@given(label_images, st.integers(0, 9), st.integers(0, 9))
@settings(deadline=None)
def test_translation_moves_the_points(labels, dy, dx):
    points, offsets = outlines(labels)
    moved, moved_offsets = outlines(np.pad(labels, ((dy, 2), (dx, 1))))
    assert np.array_equal(moved, points + np.array([dx, dy]))
    assert np.array_equal(moved_offsets, offsets)
