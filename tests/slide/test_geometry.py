"""Boxes and units."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoseg.slide import Box, px_to_um, um_to_px

coordinate = st.integers(-(10**6), 10**6)
side = st.integers(1, 10**5)
boxes = st.builds(Box, coordinate, coordinate, side, side)
factors = st.one_of(st.sampled_from([0.25, 0.5, 1.0, 2.0, 4.0, 1 / 3, 2.0005]), st.floats(0.01, 100))


def test_a_box_is_half_open() -> None:
    box = Box(2, 3, 4, 5)
    assert (box.right, box.bottom, box.shape, box.area) == (6, 8, (5, 4), 20)
    assert box.contains_point(2, 3)
    assert not box.contains_point(6, 3)
    assert not box.contains_point(2, 8)


@given(boxes, boxes)
def test_the_intersection_lies_in_both_and_the_union_around_both(a: Box, b: Box) -> None:
    both = a.intersect(b)
    around = a.union(b)
    assert both == b.intersect(a) or both.empty
    assert both.empty or (both.union(a) == a and both.union(b) == b)
    assert around.intersect(a) == a
    assert around.intersect(b) == b
    assert both.area <= min(a.area, b.area)


@given(boxes, coordinate, coordinate)
def test_shifting_there_and_back_changes_nothing(box: Box, dx: int, dy: int) -> None:
    origin = Box(dx, dy, 1, 1)
    assert box.shifted(dx, dy).relative_to(origin) == box
    assert box.padded(7).padded(-7) == box


@given(boxes, factors)
def test_scaling_outwards_covers_and_inwards_is_covered(box: Box, factor: float) -> None:
    outer, inner = box.scaled(factor), box.scaled(factor, inside=True)
    slack = 1e-5
    assert outer.x <= box.x * factor + slack
    assert outer.right >= box.right * factor - slack
    assert inner.empty or inner.x >= box.x * factor - slack
    assert inner.empty or inner.right <= box.right * factor + slack
    assert outer.width <= box.width * factor + 2 + slack


@given(boxes, st.integers(1, 64))
def test_scaling_by_whole_numbers_is_exact(box: Box, factor: int) -> None:
    large = box.scaled(factor)
    assert (large.width, large.height) == (box.width * factor, box.height * factor)
    assert large.scaled(1 / factor) == box


@given(st.floats(0, 1e6), st.floats(0.01, 100))
def test_micrometers_and_pixels_convert_back(um: float, mpp: float) -> None:
    assert px_to_um(um_to_px(um, mpp), mpp) == pytest.approx(um)
