"""Tiles cover their bounds once, and every point has one owner."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_histoseg.slide.geometry import Box
from napari_histoseg.tiling import TileGrid, nearest_first

grids = st.builds(
    TileGrid,
    st.builds(Box, st.integers(-50, 50), st.integers(-50, 50), st.integers(1, 300), st.integers(1, 300)),
    st.integers(16, 128),
    st.integers(0, 64),
    st.just(0.25),
)


@given(grids)
def test_keep_boxes_cover_the_bounds_exactly_once(grid: TileGrid) -> None:
    count = np.zeros(grid.bounds.shape, int)
    for tile in grid:
        count[tile.keep.relative_to(grid.bounds).slices] += 1
        assert tile.read == tile.keep.padded(grid.halo_px)
    assert (count == 1).all()


@given(grids, st.floats(0, 0.999), st.floats(0, 0.999))
def test_the_owner_of_a_point_is_the_tile_that_keeps_it(grid: TileGrid, u: float, v: float) -> None:
    x, y = grid.bounds.x + u * grid.bounds.width, grid.bounds.y + v * grid.bounds.height
    owner = grid.owner(x, y)
    assert [t.index for t in grid if t.keep.contains_point(x, y)] == [owner]


def test_a_point_outside_has_no_owner() -> None:
    assert TileGrid(Box(0, 0, 10, 10), 16, 0, 0.5).owner(10, 3) == -1


@given(grids)
def test_every_tile_comes_once_whatever_the_view_does(grid: TileGrid) -> None:
    places = iter([(0.0, 0.0), None, (1e4, -1e4), (37.0, 5.0)] * (len(grid) + 1))
    order = [t.index for t in nearest_first(grid, list(range(len(grid))), lambda: next(places))]
    assert sorted(order) == list(range(len(grid)))


def test_tiles_near_the_view_come_first() -> None:
    grid = TileGrid(Box(0, 0, 1000, 1000), 100, 0, 0.5)
    first = next(iter(nearest_first(grid, list(range(100)), lambda: (751.0, 349.0))))
    assert first.keep.contains_point(751, 349)


def test_without_a_view_tiles_come_in_raster_order() -> None:
    grid = TileGrid(Box(0, 0, 300, 300), 100, 0, 0.5)
    assert [t.index for t in nearest_first(grid, [5, 1, 3])] == [1, 3, 5]


@pytest.mark.parametrize("index", [-1, 9])
def test_an_index_outside_the_grid_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        TileGrid(Box(0, 0, 300, 300), 100, 0, 0.5)[index]
