"""Outlines of tumour: areas as masks, as geometries, and as the rings that a person draws and corrects.

Geometries are in level-0 pixels of a slide, whose corners lie at whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray

from napari_histoseg.annotations.areas import Area, Mask, areal, polygons_of
from napari_histoseg.slide import Box

SMOOTH_PX = 0.2
"""Corners of pixels are cut by at most this much, so that a mask comes back as it was."""


@dataclass(frozen=True, eq=False)
class Ring:
    """A closed line, points (n, 2) as ``(x, y)``, the first one not repeated; ``hole`` where its inside is no tumour."""

    points: NDArray[np.float64]
    hole: bool = False


# -- masks ----------------------------------------------------------------------------------------------------------------


def area_of(mask: Mask, box: Box, smooth_px: float = SMOOTH_PX) -> Area:
    """The area of a mask that covers a box.

    Parameters
    ----------
    mask : (h, w) bool
    box : Box
        In level-0 pixels.
    smooth_px : float
        How far lines may be moved to have fewer points, in pixels of the mask.
    """
    found = _traced(mask).simplify(smooth_px)
    factor = np.array([box.width / mask.shape[1], box.height / mask.shape[0]])
    return areal(shapely.transform(found, lambda points: points * factor + (box.x, box.y)))


def _traced(mask: Mask) -> shapely.Geometry:
    """The area of a mask in its own pixels. OpenCV's lines go through the middles of pixels, half a pixel inside."""
    contours, tree = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return shapely.MultiPolygon()
    outer, inner = list[shapely.Geometry](), list[shapely.Geometry]()
    for line, (_, _, _, parent) in zip(contours, np.asarray(tree)[0], strict=True):
        points = line[:, 0].astype(float) + 0.5
        if parent < 0:
            outer.append(_grown(points))
        else:
            inner.append(_shrunk(points))
    # Islands lie inside of holes, so that holes are cut out of what lies around them alone.
    owners = [int(i) for i, row in enumerate(np.asarray(tree)[0]) if row[3] < 0]
    place = {number: i for i, number in enumerate(owners)}
    for hole, row in zip(inner, [row for row in np.asarray(tree)[0] if row[3] >= 0], strict=True):
        i = place[int(row[3])]
        outer[i] = outer[i].difference(hole)
    return shapely.union_all(outer)


def _grown(points: NDArray[np.float64]) -> shapely.Geometry:
    """The pixels whose middles a line goes through, and what lies inside."""
    if len(points) < 3:
        return _thick(points)
    inside = shapely.Polygon(points)
    if inside.is_valid:
        return inside.buffer(0.5, join_style="mitre")
    return shapely.union(_thick(points), shapely.make_valid(inside))


def _shrunk(points: NDArray[np.float64]) -> shapely.Geometry:
    """What lies inside of a line without the pixels that it goes through: a hole."""
    inside = shapely.Polygon(points)
    if inside.is_valid:
        return inside.buffer(-0.5, join_style="mitre")
    return shapely.difference(shapely.make_valid(inside), _thick(points))


def _thick(points: NDArray[np.float64]) -> shapely.Geometry:
    """The pixels whose middles a closed line goes through, also where it turns back."""
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    ends = points[(before * after).sum(1) <= 0] if len(points) > 1 else points
    corners = shapely.box(ends[:, 0] - 0.5, ends[:, 1] - 0.5, ends[:, 0] + 0.5, ends[:, 1] + 0.5)
    # Round ends: others go wrong where a line runs back over itself.
    line = [] if len(points) == 1 else [shapely.LineString(np.vstack([points, points[:1]])).buffer(0.5, quad_segs=2)]
    return shapely.union_all([*line, *corners])


# -- rings ----------------------------------------------------------------------------------------------------------------


def rings_of(area: shapely.Geometry) -> list[Ring]:
    """The rings of an area, to be laid over each other: later ones count over earlier ones, so that islands in holes come after these."""
    parts = [part for part in shapely.get_parts(area) if isinstance(part, shapely.Polygon) and not part.is_empty]
    filled = [shapely.Polygon(part.exterior) for part in parts]
    tree = shapely.STRtree(filled)
    inside = tree.query([part.representative_point() for part in parts], predicate="within")
    depth = np.bincount(inside[0], minlength=len(parts)) if len(parts) else np.zeros(0, int)
    rings = []
    for level in sorted(set(depth.tolist())):
        here = [part for part, own in zip(parts, depth, strict=True) if own == level]
        rings += [Ring(_open(part.exterior)) for part in here]
        rings += [Ring(_open(hole), hole=True) for part in here for hole in part.interiors]
    return rings


def _open(ring: shapely.LinearRing) -> NDArray[np.float64]:
    return np.asarray(ring.coords, float)[:-1, :2]


def area_of_rings(rings: Sequence[Ring]) -> Area:
    """The area of rings that lie over each other, drawn in whatever way; rings that cross themselves are repaired."""
    whole: shapely.Geometry = shapely.MultiPolygon()
    start = 0
    while start < len(rings):
        end = start
        while end < len(rings) and rings[end].hole == rings[start].hole:
            end += 1
        some = shapely.union_all([shapely.make_valid(shapely.Polygon(r.points)) for r in rings[start:end] if len(r.points) > 2])
        whole = whole.difference(some) if rings[start].hole else whole.union(some)
        start = end
    return areal(whole)


def without_holes(area: shapely.Geometry) -> list[shapely.Polygon]:
    """The same area in polygons that have no holes, which share edges: each one is cut in two through a hole until none is left."""
    waiting = polygons_of(area)
    done = []
    while waiting:
        part = waiting.pop()
        if not part.interiors:
            done.append(part)
            continue
        left, top, right, bottom = part.bounds
        at = shapely.Polygon(part.interiors[0]).representative_point().x
        for half in (shapely.box(left, top, at, bottom), shapely.box(at, top, right, bottom)):
            waiting += [piece for piece in polygons_of(part.intersection(half)) if piece.area > 0]
    return done


def count_and_size(area: shapely.Geometry, mpp: float | None) -> str:
    """How many areas and how large, in words."""
    count = len(polygons_of(area))
    areas = "1 area" if count == 1 else f"{count:,} areas"
    return areas if mpp is None else f"{areas}, {mm2(area.area * mpp**2)}"


def mm2(um2: float) -> str:
    """An area in words."""
    value = um2 / 1e6
    return f"{value:.3g} mm²" if value < 100 else f"{value:,.0f} mm²"
