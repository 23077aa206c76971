"""A cloud of many points as a picture: every point counts, none is drawn by itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FINE, MIDDLE = 30_000, 4_000
"""With more points in sight than this a point is one pixel, or a small cross; with fewer a disc."""
FAINT = 0.35
"""Opacity of points that are not chosen, while some are."""
FIT_BY = 20_000
"""So many points tell where all of them lie."""
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
    seen = points[:: max(len(points) // FIT_BY, 1)]
    seen = seen[np.isfinite(seen).all(1)]
    if not len(seen):
        return View(0.0, 0.0, 1.0)
    low, high = np.percentile(seen, [0.1, 99.9], axis=0)
    span = np.maximum(high - low, 1e-9)
    scale = 0.92 * min(width / span[0], height / span[1])
    return View(float((low[0] + high[0]) / 2), float((low[1] + high[1]) / 2), float(max(scale, 1e-9)))


@dataclass(frozen=True, eq=False)
class Placed:
    """Points in sight of a view: their positions, and the pixel of each, counted row by row."""

    width: int
    height: int
    inside: NDArray[np.intp]
    pixels: NDArray[np.intp]


def placed(points: NDArray[np.floating], view: View, width: int, height: int) -> Placed:
    """Where points (n, 2) fall on a picture; stays the same as long as the view does."""
    at = view.to_pixels(points, width, height)
    # Comparisons with NaN are false: objects without a place are outside.
    inside = np.flatnonzero((at[:, 0] >= 0) & (at[:, 0] < width) & (at[:, 1] >= 0) & (at[:, 1] < height))
    seen = at[inside].astype(np.intp)
    return Placed(width, height, inside, seen[:, 1] * width + seen[:, 0])


def picture(
    where: Placed, codes: NDArray[np.integer], palette: NDArray[np.uint8], chosen: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Points in the colors of their classes.

    Parameters
    ----------
    where : Placed
    codes : ndarray (n,)
        Row of ``palette`` of each point.
    palette : ndarray (k, 3), uint8
    chosen : ndarray (n,), bool, optional
        Points that are drawn over the others, which become faint.

    Returns
    -------
    ndarray (height, width, 4), uint8
        Where classes overlap their colors mix by their number.
    """
    out = np.zeros((where.height * where.width, 4), np.uint8)
    mine, crowd = codes[where.inside], len(where.inside)
    if chosen is None:
        _draw(out, where, where.pixels, mine, palette, 1.0, crowd)
    else:
        over = chosen[where.inside]
        _draw(out, where, where.pixels[~over], mine[~over], palette, FAINT, crowd)
        _draw(out, where, where.pixels[over], mine[over], palette, 1.0, min(crowd, MIDDLE + 1))
    return out.reshape(where.height, where.width, 4)


def _draw(
    out: NDArray[np.uint8], where: Placed, pixels: NDArray[np.intp], codes: NDArray[np.integer], palette: NDArray[np.uint8], opacity: float, crowd: int
) -> None:
    """Put points of one kind over a picture (pixels, 4): the mean color of each pixel, the denser the more opaque."""
    shape = ((0, 0),) if crowd > FINE else CROSS if crowd > MIDDLE else DISC
    if len(shape) > 1:
        pixels, codes = _spread(where, pixels, codes, shape)
    if not len(pixels):
        return
    count = np.bincount(pixels, minlength=len(out))
    filled = np.flatnonzero(count)
    # Classes are counted in the few pixels that have points, and colors mixed once for each of these.
    slot = np.zeros(len(out), np.intp)
    slot[filled] = np.arange(len(filled))
    number = len(palette)
    shares = np.bincount(slot[pixels] * number + codes, minlength=len(filled) * number).reshape(-1, number)
    points = count[filled]
    out[filled, :3] = (shares.astype(np.float32) @ palette.astype(np.float32)) / points[:, None]
    out[filled, 3] = np.minimum(opacity * (150 + 35 * points), 255 * opacity)


def _spread(
    where: Placed, pixels: NDArray[np.intp], codes: NDArray[np.integer], shape: tuple[tuple[int, int], ...]
) -> tuple[NDArray[np.intp], NDArray[np.integer]]:
    """Points as shapes of several pixels; what falls beyond the picture is cut off."""
    rows, columns = np.divmod(pixels, where.width)
    dy, dx = np.array(shape).T[:, :, None]
    y, x = rows + dy, columns + dx
    kept = (y >= 0) & (y < where.height) & (x >= 0) & (x < where.width)
    return (y * where.width + x)[kept], np.broadcast_to(codes, y.shape)[kept]


def inside_polygon(points: NDArray[np.floating], corners: NDArray[np.floating]) -> NDArray[np.intp]:
    """Positions of the points (n, 2) inside a polygon (m, 2), which may cross itself: by the even-odd rule."""
    import shapely

    if len(corners) < 3:
        return np.empty(0, np.intp)
    low, high = corners.min(0), corners.max(0)
    near = np.flatnonzero((points >= low).all(1) & (points <= high).all(1))
    if not len(near):
        return np.empty(0, np.intp)
    # The last corner counts twice: GEOS takes four that lie on their bounds for a rectangle, crossing or not.
    polygon = shapely.Polygon(np.concatenate([corners, corners[-1:]]))
    shapely.prepare(polygon)
    found = shapely.contains_xy(polygon, points[near, 0].astype(float), points[near, 1].astype(float))
    return np.asarray(near[found], np.intp)
