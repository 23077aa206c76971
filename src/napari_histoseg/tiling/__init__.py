"""Tiles as data: which pixels to read for which pixels to keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.slide.geometry import Box

__all__ = ["Tile", "TileGrid", "nearest_first"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One tile of a grid; boxes in working pixels of the slide.

    ``keep`` boxes of a grid cover its bounds without overlap. ``read`` is ``keep`` with the margin (halo) that the
    network and objects across the border need; it may leave the slide.
    """

    index: int
    keep: Box
    read: Box


@dataclass(frozen=True)
class TileGrid:
    """Tiles over ``bounds``, in raster order.

    Parameters
    ----------
    bounds : Box
        What the tiles cover, in working pixels at ``mpp``, in the slide's frame.
    tile_px : int
        Side of a tile's ``keep`` box; tiles at the right and lower border are cut to the bounds.
    halo_px : int
        Margin read around it.
    mpp : float
        µm per working pixel.
    """

    bounds: Box
    tile_px: int
    halo_px: int
    mpp: float

    @cached_property
    def columns(self) -> int:
        """Tiles in a row."""
        return -(-self.bounds.width // self.tile_px)

    @cached_property
    def rows(self) -> int:
        """Tiles in a column."""
        return -(-self.bounds.height // self.tile_px)

    def __len__(self) -> int:
        return self.columns * self.rows

    def __getitem__(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(index)
        row, column = divmod(index, self.columns)
        corner = Box(
            self.bounds.x + column * self.tile_px, self.bounds.y + row * self.tile_px, self.tile_px, self.tile_px
        )
        keep = corner.intersect(self.bounds)
        return Tile(index, keep, keep.padded(self.halo_px))

    def __iter__(self) -> Iterator[Tile]:
        return (self[i] for i in range(len(self)))

    def owner(self, x: float, y: float) -> int:
        """Index of the tile whose ``keep`` box holds a point (working pixels, slide frame); -1 outside the bounds.

        An object belongs to the tile that holds its center, so that none is cut, doubled or lost at a border.
        """
        if not self.bounds.contains_point(x, y):
            return -1
        return int((y - self.bounds.y) // self.tile_px) * self.columns + int((x - self.bounds.x) // self.tile_px)

    def select(self, wanted: Callable[[Box], bool]) -> list[int]:
        """Indices of the tiles whose ``keep`` box passes a test (for instance: holds tissue)."""
        return [tile.index for tile in self if wanted(tile.keep)]

    def centers(self, indices: list[int]) -> NDArray[np.float64]:
        """(n, 2) centers (x, y) of the tiles' ``keep`` boxes, in working pixels."""
        keeps = [self[i].keep for i in indices]
        return np.array([(k.x + k.width / 2, k.y + k.height / 2) for k in keeps], np.float64).reshape(-1, 2)


def nearest_first(
    grid: TileGrid, indices: list[int], focus: Callable[[], tuple[float, float] | None] | None = None
) -> Iterator[Tile]:
    """The tiles, each time the one nearest to where somebody is looking; in raster order when nobody is.

    Parameters
    ----------
    focus : callable, optional
        Returns the point being looked at, (x, y) in working pixels, or None. Asked before every tile, so that the order
        follows the view.
    """
    left = np.array(sorted(indices), np.int64)
    centers = grid.centers([int(i) for i in left])
    while len(left):
        point = focus() if focus else None
        at = 0 if point is None else int(np.argmin(((centers - point) ** 2).sum(1)))
        yield grid[int(left[at])]
        left, centers = np.delete(left, at), np.delete(centers, at, axis=0)
