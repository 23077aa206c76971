"""A cloud of many points as a picture: every point counts, none is drawn by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FINE, MIDDLE = 30_000, 4_000
"""With more points in sight than this a point is one pixel, or a small cross; with fewer a disc."""
FAINT = 0.35
"""Opacity of points that are not chosen, while some are."""
CROSS = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))
DISC = tuple((y, x) for y in range(-2, 3) for x in range(-2, 3) if x * x + y * y <= 5)


@dataclass(frozen=True)
class View:
    """Where the picture looks at: the middle in the points' own units, and pixels for each of these."""

    x: float
    y: float
    scale: float

    def to_pixels(self, points: NDArray[np.floating], width: int, height: int) -> NDArray[np.float64]:
        """Points (n, 2) as pixels (x, y) of a picture; up is up."""
        out = np.empty(points.shape, np.float64)
        out[:, 0] = (points[:, 0] - self.x) * self.scale + width / 2
        out[:, 1] = (self.y - points[:, 1]) * self.scale + height / 2
        return out

    def to_points(self, pixels: NDArray[np.floating], width: int, height: int) -> NDArray[np.float64]:
        """The inverse of `to_pixels`."""
        pixels = np.asarray(pixels, float)
        out = np.empty(pixels.shape, np.float64)
        out[:, 0] = (pixels[:, 0] - width / 2) / self.scale + self.x
        out[:, 1] = self.y - (pixels[:, 1] - height / 2) / self.scale
        return out


def fitted(points: NDArray[np.floating], width: int, height: int) -> View:
    """The view that shows nearly all points; the few farthest ones do not decide."""
    seen = points[np.isfinite(points).all(1)]
    if not len(seen):
        return View(0.0, 0.0, 1.0)
    low, high = np.percentile(seen, [0.1, 99.9], axis=0)
    span = np.maximum(high - low, 1e-9)
    scale = 0.92 * min(width / span[0], height / span[1])
    return View(float((low[0] + high[0]) / 2), float((low[1] + high[1]) / 2), float(max(scale, 1e-9)))


def picture(
    points: NDArray[np.float32],
    codes: NDArray[np.integer],
    palette: NDArray[np.uint8],
    view: View,
    width: int,
    height: int,
    chosen: NDArray[np.intp] | None = None,
) -> NDArray[np.uint8]:
    """Points in the colors of their classes.

    Parameters
    ----------
    points : ndarray (n, 2)
        NaN for objects without a place.
    codes : ndarray (n,)
        Row of ``palette`` of each.
    palette : ndarray (k, 3), uint8
    chosen : ndarray, optional
        Positions of points that are drawn over the others, which become faint.

    Returns
    -------
    ndarray (height, width, 4), uint8
        Where classes overlap their colors mix by their number.
    """
    at = view.to_pixels(points, width, height)
    inside = np.flatnonzero(_inside(at, width, height))
    columns, rows = at[inside].astype(np.int64).T if len(inside) else (np.empty(0, np.int64), np.empty(0, np.int64))
    some = chosen is not None and len(chosen) > 0
    out = _layer(rows, columns, palette[codes[inside]], width, height, FAINT if some else 1.0, len(inside))
    if chosen is not None and some:
        mine = np.isin(inside, chosen)
        over = _layer(rows[mine], columns[mine], palette[codes[inside[mine]]], width, height, 1.0, min(len(inside), MIDDLE + 1))
        drawn = over[..., 3] > 0
        out[drawn] = over[drawn]
    return out


def _inside(at: NDArray[np.float64], width: int, height: int) -> NDArray[np.bool_]:
    # Comparisons with NaN are false: objects without a place are outside.
    return np.asarray((at[:, 0] >= 0) & (at[:, 0] < width) & (at[:, 1] >= 0) & (at[:, 1] < height))


def _layer(
    rows: NDArray[np.int64], columns: NDArray[np.int64], colors: NDArray[np.uint8], width: int, height: int, opacity: float, crowd: int
) -> NDArray[np.uint8]:
    """Points of one kind: the mean color of each pixel, the denser the more opaque."""
    shape = ((0, 0),) if crowd > FINE else CROSS if crowd > MIDDLE else DISC
    size = width * height
    count = np.zeros(size)
    total = np.zeros((3, size))
    for dy, dx in shape:
        y, x = rows + dy, columns + dx
        kept = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        flat = (y * width + x)[kept]
        count += np.bincount(flat, minlength=size)
        for channel in range(3):
            total[channel] += np.bincount(flat, weights=colors[kept, channel], minlength=size)
    out = np.zeros((height, width, 4), np.uint8)
    filled = count > 0
    flat_out = out.reshape(-1, 4)
    flat_out[filled, :3] = (total[:, filled] / count[filled]).T
    flat_out[filled, 3] = np.minimum(opacity * (150 + 35 * count[filled]), 255 * opacity)
    return out


def inside_polygon(points: NDArray[np.floating], corners: NDArray[np.floating]) -> NDArray[np.intp]:
    """Positions of the points (n, 2) inside a polygon (m, 2), which may cross itself: by the even-odd rule."""
    import shapely

    if len(corners) < 3:
        return np.empty(0, np.intp)
    low, high = corners.min(0), corners.max(0)
    near = np.flatnonzero((points >= low).all(1) & (points <= high).all(1))
    if not len(near):
        return np.empty(0, np.intp)
    polygon = shapely.Polygon(corners)
    shapely.prepare(polygon)
    found = shapely.contains_xy(polygon, points[near, 0].astype(float), points[near, 1].astype(float))
    return np.asarray(near[found], np.intp)
