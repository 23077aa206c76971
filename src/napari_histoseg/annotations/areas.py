"""Areas: the polygons of geometries, and the pixels that they hold."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray

from napari_histoseg.slide.geometry import Box

Area: TypeAlias = shapely.Polygon | shapely.MultiPolygon
Mask: TypeAlias = NDArray[np.bool_]


def polygons_of(shape: shapely.Geometry) -> list[shapely.Polygon]:
    """The polygons of any geometry, however nested; lines and points fall away."""
    if isinstance(shape, shapely.Polygon):
        return [] if shape.is_empty else [shape]
    return [polygon for part in getattr(shape, "geoms", ()) for polygon in polygons_of(part)]


def areal(shape: shapely.Geometry) -> Area:
    """The areas of any geometry, as one; lines and points fall away."""
    parts = [part for part in polygons_of(shape) if part.area > 0]
    if len(parts) == 1:
        return parts[0]
    joined = shapely.union_all(parts)
    return joined if isinstance(joined, (shapely.Polygon, shapely.MultiPolygon)) else shapely.MultiPolygon()


def clipped(area: shapely.Geometry, box: Box) -> Area:
    """What of an area lies in a box."""
    return areal(shapely.intersection(area, shapely.box(box.x, box.y, box.right, box.bottom)))


def burned(area: shapely.Geometry, box: Box, shape: tuple[int, int]) -> Mask:
    """A mask (h, w) that covers a box: pixels whose middles lie in an area, whose polygons do not overlap.

    A middle on an edge belongs to what lies right of it, or below: areas side by side share no pixel. Each row is filled
    between the lines that cross its middle, which takes as long as the area's outline is.
    """
    height, width = shape
    factor = np.array([width / box.width, height / box.height])
    flips = np.zeros((height, width + 1), np.uint8)
    for part in polygons_of(area):
        for ring in (part.exterior, *part.interiors):
            _flip(flips, (np.asarray(ring.coords)[:, :2] - (box.x, box.y)) * factor)
    return np.asarray(np.bitwise_xor.accumulate(flips, axis=1)[:, :width] > 0)


def _flip(flips: NDArray[np.uint8], points: NDArray[np.float64]) -> None:
    """Mark where a closed line crosses the middles of rows, in the first column whose middle does not lie left of it."""
    height, width = flips.shape[0], flips.shape[1] - 1
    down = points[:-1, 1:] <= points[1:, 1:]
    # From top to bottom, however a line was drawn: areas on both sides of it then cut rows at the same place.
    a, b = np.where(down, points[:-1], points[1:]), np.where(down, points[1:], points[:-1])
    first = np.clip(np.ceil(a[:, 1] - 0.5), 0, height).astype(int)
    last = np.clip(np.ceil(b[:, 1] - 0.5), 0, height).astype(int)
    count = last - first
    edge = np.repeat(np.arange(len(a)), count)
    row = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count) + first[edge]
    slope = (b[edge, 0] - a[edge, 0]) / (b[edge, 1] - a[edge, 1])
    x = a[edge, 0] + (row + 0.5 - a[edge, 1]) * slope
    column = np.clip(np.ceil(x - 0.5), 0, width).astype(int)
    place, times = np.unique(row * (width + 1) + column, return_counts=True)
    flips.reshape(-1)[place] ^= (times & 1).astype(np.uint8)
