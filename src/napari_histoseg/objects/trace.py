"""Labels → outlines: the exact polygons around the pixels of objects."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import shapely

from napari_histoseg.objects.runs import Int32, Int64
from napari_histoseg.slide.compiled import kernel


def outlines(labels: Int32, ids: npt.ArrayLike | None = None) -> tuple[Int32, Int64]:
    """Outer outline of each object along the edges of its pixels.

    Points are pixel corners, so that the area inside an outline without holes is the number of its pixels.
    Corners on a straight edge are left out, and the closing point is not repeated. Objects are taken as
    4-connected: of a label in several parts only the part with the first pixel is traced. Rings never touch
    themselves; what an object encloses, by edges or by corners, lies inside its outline.

    Parameters
    ----------
    labels : int32 (h, w)
        0 background.
    ids : int (n,), optional
        Which labels to trace, each at most once in the image's range; default all present in ascending order.

    Returns
    -------
    points : int32 (m, 2)
        x and y of the corners, clockwise on the screen from the upper left corner of the object's first
        pixel. Pixel (x, y) has the corners (x, y) to (x + 1, y + 1).
    offsets : int64 (n + 1,)
        Outline ``i`` is ``points[offsets[i]:offsets[i + 1]]``; empty for an id without pixels.
    """
    labels = np.ascontiguousarray(labels, np.int32)
    first = _first_pixels(labels)
    wanted = np.flatnonzero(first >= 0) if ids is None else np.asarray(ids, np.int64).ravel()
    known = (wanted > 0) & (wanted < len(first))
    starts = np.where(known, first[np.where(known, wanted, 0)], -1)
    return _trace(labels, starts)


def to_wkb(points: Int32, offsets: Int64, scale: float = 1.0, origin_xy: tuple[float, float] = (0.0, 0.0)) -> npt.NDArray[np.object_]:
    """Outlines as WKB polygons in another frame: ``(origin_xy + point) * scale``.

    Parameters
    ----------
    points, offsets
        As :func:`outlines` returns them.
    scale : float
        Pixels of the new frame per pixel.
    origin_xy : (float, float)
        Where pixel corner (0, 0) lies, before scaling.

    Returns
    -------
    object (n,)
        ``bytes`` of a polygon with one closed ring; None for an empty outline.
    """
    polygons = _polygons(((points + np.asarray(origin_xy)) * scale).astype(np.float64), offsets)
    out: npt.NDArray[np.object_] = shapely.to_wkb(polygons)
    return out


def _polygons(points: npt.NDArray[np.float64], offsets: Int64) -> npt.NDArray[np.object_]:
    """Shapely polygons of the outlines; None for an empty one."""
    sizes = np.diff(offsets)
    present = np.flatnonzero(sizes)
    out = np.full(len(sizes), None, object)
    if not len(present):
        return out
    # Each ring ends with its first point; one gather is cheaper than an insertion for each ring.
    ends = np.cumsum(sizes[present] + 1)
    order = np.arange(ends[-1]) - np.repeat(np.arange(len(present)), sizes[present] + 1)
    order[ends - 1] = offsets[present]
    rings = shapely.linearrings(points[order], indices=np.repeat(np.arange(len(present)), sizes[present] + 1))
    out[present] = shapely.polygons(rings)
    return out


@kernel
def _first_pixels(labels: Int32) -> Int64:
    """Flat index of the first pixel of each id from 0 to the largest; -1 for 0 and for absent ids."""
    flat = labels.ravel()
    top, before = np.int32(0), np.int32(0)
    for pixel in range(flat.size):
        top = max(top, flat[pixel])
    first = np.full(top + 1, -1, np.int64)
    for pixel in range(flat.size):
        value = flat[pixel]
        if value != before:
            before = value
            if value > 0 and first[value] < 0:
                first[value] = pixel
    return first


@kernel
def _has(labels: Int32, y: int, x: int, value: int) -> bool:
    return bool(0 <= y < labels.shape[0] and 0 <= x < labels.shape[1] and labels[y, x] == value)


@kernel
def _is_gap(labels: Int32, y: int, x: int, value: int) -> bool:
    """Whether two pixels of the object meet only at this corner."""
    same = _has(labels, y - 1, x - 1, value) == _has(labels, y, x, value)
    return same and _has(labels, y - 1, x, value) == _has(labels, y, x - 1, value)


@kernel
def _turn(labels: Int32, y: int, x: int, heading: int, value: int) -> int:
    """Next heading at a corner, with the object on the right: 0 east, 1 south, 2 west, 3 north."""
    if heading == 0:
        left, right = _has(labels, y - 1, x, value), _has(labels, y, x, value)
    elif heading == 1:
        left, right = _has(labels, y, x, value), _has(labels, y, x - 1, value)
    elif heading == 2:
        left, right = _has(labels, y, x - 1, value), _has(labels, y - 1, x - 1, value)
    else:
        left, right = _has(labels, y - 1, x - 1, value), _has(labels, y - 1, x, value)
    # Where two of the object's pixels meet only at this corner, stay with the one walked along.
    if not right:
        return (heading + 1) & 3
    return (heading + 3) & 3 if left else heading


@kernel
def _trace(labels: Int32, starts: Int64) -> tuple[Int32, Int64]:
    """Walk around each object from its first pixel (flat index; -1 traces nothing)."""
    width = labels.shape[1]
    capacity = 1024
    points = np.empty((capacity, 2), np.int32)
    offsets = np.zeros(starts.size + 1, np.int64)
    count = 0
    for item in range(starts.size):
        begin = count
        if starts[item] >= 0:
            y0, x0 = starts[item] // width, starts[item] % width
            value = labels[y0, x0]
            y, x, heading, last = y0, x0, 0, -1
            while True:
                if heading != last:
                    # The walk passes a corner twice only where it went through a gap between two corners that
                    # touch; all since the first pass is a cavity. Every such corner is a turn, so points hold
                    # it.
                    if _is_gap(labels, y, x, value):
                        for earlier in range(begin, count):
                            if points[earlier, 0] == x and points[earlier, 1] == y:
                                count = earlier
                                break
                    if count == capacity:
                        capacity *= 2
                        grown = np.empty((capacity, 2), np.int32)
                        grown[:count] = points
                        points = grown
                    points[count, 0], points[count, 1] = x, y
                    count += 1
                    last = heading
                y += (heading == 1) - (heading == 3)
                x += (heading == 0) - (heading == 2)
                heading = _turn(labels, y, x, heading, value)
                if y == y0 and x == x0 and heading == 0:
                    break
        offsets[item + 1] = count
    return points[:count], offsets
