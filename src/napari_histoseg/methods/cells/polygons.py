"""Objects that are outlines: painted where they are read."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import shapely

from napari_histoseg.annotations.geojson import Region, read_geojson
from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.cells.objects import ObjectIndex
from napari_histoseg.slide.compiled import kernel
from napari_histoseg.slide.geometry import Box

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]

SUFFIXES = (".geojson", ".geojson.gz", ".json", ".json.gz")
MAX_BYTES = 4 << 30
"""Largest GeoJSON text that is read: it passes through memory as a whole."""
PIECE = 1 << 24
FOUND_TYPES = {"detection", "cell"}
"""QuPath's types of objects that were found by a program; its annotations are areas around them."""


class Polygons:
    """Outlines in level-0 pixels, numbered from 1 in their order.

    A pixel belongs to the outline that holds its center, and to the last of several.

    Parameters
    ----------
    shapes : sequence of shapely Polygon or MultiPolygon
        Valid.
    """

    def __init__(self, shapes: Sequence[shapely.Polygon | shapely.MultiPolygon]) -> None:
        self._shapes = np.array(shapes, object)
        self.bounds: Float64 = shapely.bounds(self._shapes).reshape(-1, 4)
        self._points, self._rings, self._objects = _packed(self._shapes)

    def __len__(self) -> int:
        return len(self.bounds)

    def index(self) -> ObjectIndex:
        """All of them."""
        centers = shapely.get_coordinates(shapely.centroid(self._shapes)).reshape(-1, 2)
        return ObjectIndex(np.arange(1, len(self) + 1), centers[:, 0], centers[:, 1], self.bounds)

    def paint(self, box: Box, downsample: float) -> UInt32:
        """Ids in a box of working pixels of ``downsample`` level-0 pixels each; a pixel's value does not depend on the box."""
        out = np.zeros(box.shape, np.uint32)
        left, top, right, bottom = self.bounds.T
        low_x, high_x, low_y, high_y = (v * downsample for v in (box.x, box.right, box.y, box.bottom))
        near = np.flatnonzero((left < high_x) & (right > low_x) & (top < high_y) & (bottom > low_y))
        if not box.empty and len(near):
            _paint(self._points, self._rings, self._objects, near, float(downsample), box.x, box.y, out)
        return out


def read_polygons(path: Path) -> tuple[Polygons, list[str]]:
    """The areas of a GeoJSON file, and sentences on what was repaired or left out.

    Raises
    ------
    SettingsError
        The file is too large, or nested too deeply.
    DatasetError
        It is no GeoJSON.
    """
    _check_size(path)
    notes: list[str] = []
    try:
        regions = read_geojson(path, notes)
    except RecursionError as error:
        raise SettingsError(f"{path} is nested too deeply to be GeoJSON.") from error
    chosen = _found(regions)
    if len(chosen) < len(regions):
        notes.append(f"{len(regions) - len(chosen)} annotations around the detections were left out.")
    return Polygons([region.geometry for region in chosen]), notes


def _found(regions: Sequence[Region]) -> Sequence[Region]:
    """The detections, where there are any."""
    types = Counter(region.object_type for region in regions)
    if not any(types[t] for t in FOUND_TYPES):
        return regions
    return [region for region in regions if region.object_type in FOUND_TYPES]


def _check_size(path: Path) -> None:
    """A few bytes can unpack to any size, so that they are counted before they are kept."""
    if not path.is_file():
        return
    size = path.stat().st_size
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    if packed:
        try:
            with gzip.open(path) as unpacked:
                size = 0
                while size <= MAX_BYTES and (piece := unpacked.read(PIECE)):
                    size += len(piece)
        except (OSError, EOFError) as error:
            raise SettingsError(f"{path} cannot be read as GeoJSON: {error}") from error
    if size > MAX_BYTES:
        raise SettingsError(
            f"{path} holds more than {MAX_BYTES >> 30} GiB of text. Export fewer objects at a time, without their measurements, "
            "or save the objects as a label image."
        )


def _packed(shapes: npt.NDArray[np.object_]) -> tuple[Float64, Int64, Int64]:
    """Points of all rings; where each ring begins; where the rings of each object begin."""
    if not len(shapes):
        return np.zeros((0, 2)), np.zeros(1, np.int64), np.zeros(1, np.int64)
    _, points, offsets = shapely.to_ragged_array(shapes, include_z=False)
    rings, objects = offsets[0], offsets[-1]
    if len(offsets) == 3:
        objects = offsets[1][offsets[2]]
    return np.ascontiguousarray(points, np.float64), rings.astype(np.int64), objects.astype(np.int64)


@kernel
def _past(position: float, downsample: float) -> int:
    """The first working pixel whose center is not before a level-0 position."""
    return int(np.ceil(position / downsample - 0.5))


@kernel
def _paint(
    points: Float64, rings: Int64, objects: Int64, wanted: Int64, downsample: float, left: int, top: int, out: UInt32
) -> None:
    """Fill the wanted objects between where each row of pixel centers enters and leaves them.

    Places are computed in level-0 pixels, from the corners of an edge alone: in any box they come out the same.
    """
    height, width = out.shape
    for item in wanted:
        first, last = rings[objects[item]], rings[objects[item + 1]]
        low, high = height, 0
        for p in range(first, last):
            row = _past(points[p, 1], downsample) - top
            low, high = min(low, row), max(high, row)
        low, high = max(low, 0), min(high, height)
        if low >= high:
            continue
        ends = np.zeros(high - low + 1, np.int64)
        places = np.empty(0, np.int64)
        # Once to count the crossings of each row, once to note them.
        for turn in range(2):
            for ring in range(objects[item], objects[item + 1]):
                for p in range(rings[ring], rings[ring + 1] - 1):
                    a, b = (p, p + 1) if points[p, 1] <= points[p + 1, 1] else (p + 1, p)
                    start = max(_past(points[a, 1], downsample) - top, low)
                    stop = min(_past(points[b, 1], downsample) - top, high)
                    for row in range(start, stop):
                        if turn == 0:
                            ends[row - low + 1] += 1
                            continue
                        along = ((row + top + 0.5) * downsample - points[a, 1]) / (points[b, 1] - points[a, 1])
                        x = points[a, 0] + along * (points[b, 0] - points[a, 0])
                        places[ends[row - low]] = _past(x, downsample) - left
                        ends[row - low] += 1
            if turn == 0:
                ends = np.cumsum(ends)
                places = np.empty(ends[-1], np.int64)
        begin = 0
        for row in range(low, high):
            crossings = np.sort(places[begin : ends[row - low]])
            begin = ends[row - low]
            for pair in range(0, crossings.size - 1, 2):
                out[row, max(crossings[pair], 0) : max(min(crossings[pair + 1], width), 0)] = item + 1
