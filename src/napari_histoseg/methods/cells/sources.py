"""Objects from anywhere: results, label images and GeoJSON, as ids in the working pixels of a slide."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.cells.files import Place, open_file
from napari_histoseg.methods.cells.objects import EPS, ObjectIndex
from napari_histoseg.methods.cells.planes import Plane
from napari_histoseg.methods.cells.polygons import SUFFIXES, read_polygons
from napari_histoseg.methods.cells.scan import merged, scan
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from napari_histoseg.results.result import Result
    from napari_histoseg.slide import Slide

UInt32 = npt.NDArray[np.uint32]
Kind = Literal["result", "labels", "geojson"]

SPAN_PX = 4096
"""Side of the largest part of a label image that is read at once."""
SQUARE = 0.01
"""How far the sides of a label image's pixels may differ."""
MERGE_EVERY = 64


@dataclass(frozen=True, eq=False)
class LabelImage:
    """A label image and where it lies on the slide.

    Attributes
    ----------
    array : array-like of int (h, w)
        NumPy, dask or zarr; a list of them is a pyramid, finest first.
    mpp : float
        µm per pixel of the array.
    x_um, y_um : float
        Its upper left corner, from that of the slide.
    name : str
        What messages call it.
    """

    array: Any
    mpp: float
    x_um: float = 0.0
    y_um: float = 0.0
    name: str = "the label image"


class ObjectSource(Protocol):
    """Objects over a slide. Safe to use from several threads."""

    kind: Kind
    notes: list[str]
    """Sentences on what was repaired or left out."""

    def read(self, box: Box, mpp: float) -> UInt32:
        """Ids ``(h, w)`` in a box of working pixels of the slide at ``mpp``; 0 where there is no object.

        Each pixel takes the id at its center, whatever the box.
        """

    def index(self) -> ObjectIndex:
        """All objects whose centroid lies on the slide; made by the first call, in parts of bounded size."""

    def describe(self) -> dict[str, Any]:
        """``kind``, ``path``, ``count`` and ``fingerprint`` of the objects, for the run record; only JSON types."""


def source_of(labels: Any, slide: Slide) -> ObjectSource:
    """Objects over a slide, wherever they come from.

    Parameters
    ----------
    labels : Result, path, array, or LabelImage
        A result (or its folder); a label image as an array or in a file (PNG, TIFF, NPY, OME-Zarr), which covers the
        whole slide unless it says where it lies; a `LabelImage`; or a GeoJSON file in level-0 pixels.
    slide : Slide
        With a pixel size.

    Raises
    ------
    SettingsError
        These are no objects, or not those of this slide.
    ResultError, DatasetError
        A result or a GeoJSON file that cannot be read.
    PixelSizeError
        The slide has no pixel size.
    """
    from napari_histoseg.results.result import Result

    slide.require_mpp()
    if isinstance(labels, Result):
        return ResultSource(labels, slide)
    if isinstance(labels, LabelImage):
        place = Place(labels.mpp, labels.x_um, labels.y_um)
        return LabelSource(_placed(Plane(labels.array, labels.name), place, slide), slide)
    if isinstance(labels, (str, os.PathLike)):
        return _from_path(Path(labels), slide)
    return LabelSource(_covering(Plane(labels, "The label image"), slide), slide)


def _from_path(path: Path, slide: Slide) -> ObjectSource:
    if not path.exists():
        raise SettingsError(f"{path} does not exist. Give a result folder, a label image or a GeoJSON file.")
    if (path / "run.json").is_file():
        from napari_histoseg.results.result import open_result

        return ResultSource(open_result(path), slide)
    if path.name.lower().endswith(SUFFIXES):
        return PolygonSource(path, slide)
    plane, place = open_file(path)
    same = any(plane.shape == (level.height, level.width) for level in slide.levels)
    at = _covering(plane, slide) if place is None or same else _placed(plane, place, slide)
    return LabelSource(at, slide, path)


# -- where a label image lies ------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Placed:
    """A plane over a slide: its upper left corner, and level-0 pixels per pixel of it, as (x, y)."""

    plane: Plane
    corner: tuple[float, float]
    scale: tuple[float, float]

    def lines(self, start: int, stop: int, downsample: float, axis: int) -> npt.NDArray[np.int64]:
        """The column (axis 0) or row (axis 1) of the plane under the center of each working pixel; may lie outside."""
        centers = (np.arange(start, stop) + 0.5) * downsample
        # Centers that lie on an edge go to the pixel behind it, whatever the last bit.
        return np.asarray(np.floor((centers - self.corner[axis]) / self.scale[axis] + EPS), np.int64)


def covering_scale(shape: tuple[int, int], slide: Slide) -> tuple[float, float] | None:
    """Level-0 pixels per pixel ``(x, y)`` of an image ``(h, w)`` of the whole slide; None where its shape is another one."""
    height, width = shape
    if not (height and width):
        return None
    x, y = slide.width / width, slide.height / height
    if width % slide.width == 0 and height == width // slide.width * slide.height:
        return x, y
    # Whole steps of a pyramid, rounded up or down: almost always powers of two.
    steps = range(max(math.floor(min(x, y)), 1), math.ceil(max(x, y)) + 1)
    fitting = [n for n in steps if abs(width * n - slide.width) < n and abs(height * n - slide.height) < n]
    if fitting:
        step = float(min(fitting, key=lambda n: (n & (n - 1) != 0, abs(n - x) + abs(n - y))))
        return step, step
    rounding = max(1 / width, 1 / height)
    return (x, y) if abs(x / y - 1) <= SQUARE + rounding else None


def _covering(plane: Plane, slide: Slide) -> Placed:
    scale = covering_scale(plane.shape, slide)
    if scale is None:
        raise SettingsError(
            f"{plane.name} has {plane.width} × {plane.height} px and {slide.name} {slide.width} × {slide.height} px: "
            "they do not have the same proportions. A label image covers the whole slide; where it shows a part of it, "
            "say where that lies with LabelImage(array, mpp, x_um, y_um)."
        )
    return Placed(plane, (0.0, 0.0), scale)


def _placed(plane: Plane, place: Place, slide: Slide) -> Placed:
    mpp = slide.require_mpp()
    if not (np.isfinite([place.mpp, place.x_um, place.y_um]).all() and place.mpp > 0):
        raise SettingsError(
            f"{plane.name} lies at x {place.x_um:g}, y {place.y_um:g} µm with {place.mpp:g} µm/px. The pixel size must be positive, "
            "and all three must be numbers."
        )
    scale, corner = place.mpp / mpp, (place.x_um / mpp, place.y_um / mpp)
    right, bottom = corner[0] + plane.width * scale, corner[1] + plane.height * scale
    if plane.width and plane.height and (right <= 0 or bottom <= 0 or corner[0] >= slide.width or corner[1] >= slide.height):
        raise SettingsError(
            f"{plane.name} does not lie over {slide.name}: it covers x {corner[0]:.0f} to {right:.0f}, y {corner[1]:.0f} to {bottom:.0f}, "
            f"and the slide has {slide.width} × {slide.height} px. Choose the slide that it was made of."
        )
    return Placed(plane, corner, (scale, scale))


# -- the three kinds ---------------------------------------------------------------------------------------------------


class _Indexed:
    """Makes the index once, whoever asks first."""

    kind: Kind = "labels"
    path: Path | None = None

    def __init__(self, slide: Slide) -> None:
        self.slide = slide
        self.notes: list[str] = []
        self._base = slide.require_mpp()
        self._lock = threading.Lock()
        self._index: ObjectIndex | None = None

    def index(self) -> ObjectIndex:
        """All objects whose centroid lies on the slide."""
        with self._lock:
            if self._index is None:
                self._index = self._make_index().inside(self.slide.bounds)
            return self._index

    def describe(self) -> dict[str, Any]:
        """``kind``, ``path``, ``count`` and ``fingerprint``."""
        index = self.index()
        path = None if self.path is None else str(self.path)
        return {"kind": self.kind, "path": path, "count": len(index), "fingerprint": index.fingerprint()}

    def _make_index(self) -> ObjectIndex:
        raise AssertionError


class LabelSource(_Indexed):
    """Objects of a label image."""

    def __init__(self, placed: Placed, slide: Slide, path: Path | None = None) -> None:
        super().__init__(slide)
        self.placed, self.path = placed, path

    def read(self, box: Box, mpp: float) -> UInt32:
        """Ids in a box of working pixels at ``mpp``, each that under the pixel's center."""
        out = np.zeros(box.shape, np.uint32)
        downsample, plane = mpp / self._base, self.placed.plane
        columns = self.placed.lines(box.x, box.right, downsample, 0)
        rows = self.placed.lines(box.y, box.bottom, downsample, 1)
        for top, bottom in _spans(rows, plane.height):
            for left, right in _spans(columns, plane.width):
                x, y = columns[left:right], rows[top:bottom]
                values = plane.read(Box(int(x[0]), int(y[0]), int(x[-1] - x[0]) + 1, int(y[-1] - y[0]) + 1))
                out[top:bottom, left:right] = values[np.ix_(y - y[0], x - x[0])]
        return out

    def _make_index(self) -> ObjectIndex:
        plane, corner, scale = self.placed.plane, np.array(self.placed.corner), np.array(self.placed.scale)
        parts = [scan(np.zeros((0, 0), np.uint32))]
        for block in plane.blocks():
            parts.append(scan(plane.read(block), block.x, block.y))
            # Memory grows with the objects, not with the pixels.
            parts = [merged(parts)] if len(parts) > MERGE_EVERY else parts
        found = merged(parts)
        centers = corner + found.centers * scale
        extents = np.tile(corner, 2) + found.extents * np.tile(scale, 2)
        return ObjectIndex(found.ids, centers[:, 0], centers[:, 1], extents)


class ResultSource(LabelSource):
    """Objects of a result, corrections included."""

    kind: Kind = "result"

    def __init__(self, result: Result, slide: Slide) -> None:
        record = result.record
        if "labels" not in record.outputs or not result.has_objects:
            held = "classes of areas" if "labels" in record.outputs else "no labels"
            raise SettingsError(f"{result.path} holds {held}, not objects. Give a result of a method that finds nuclei.")
        if record.slide.fingerprint != slide.fingerprint():
            raise SettingsError(
                f"{result.path} was made of {record.slide.name}, not of {slide.name} (their fingerprints differ). Choose the slide that "
                "it was made of."
            )
        plane = Plane(result.arrays()["labels"], f"The labels of {result.path}")
        factor = record.downsample
        super().__init__(Placed(plane, (record.frame.x * factor, record.frame.y * factor), (factor, factor)), slide, result.path)
        # Also keeps a result in a temporary folder alive.
        self.result = result

    def _make_index(self) -> ObjectIndex:
        """From the table where it has outlines, which is much less to read than the pixels."""
        if not self.result.finished or "outline" not in self.result.schema().names:
            return super()._make_index()
        import shapely

        to_px = 1 / (self.result.record.slide.mpp or 1.0)
        columns: list[npt.NDArray[Any]] = [np.zeros((0, 7))]
        for table in self.result.iter_tables():
            extents = shapely.bounds(shapely.from_wkb(table["outline"].to_numpy()))
            centers = [table[name].to_numpy() * to_px for name in ("centroid_x_um", "centroid_y_um")]
            columns.append(np.column_stack([table["id"].to_numpy(), *centers, extents]))
        rows = np.concatenate(columns)
        if not np.isfinite(rows).all():
            # An object without an outline has pixels all the same.
            return super()._make_index()
        return ObjectIndex(rows[:, 0].astype(np.uint32), rows[:, 1], rows[:, 2], rows[:, 3:])


class PolygonSource(_Indexed):
    """Objects of a GeoJSON file, numbered from 1 in its order; where they overlap, the last is on top."""

    kind: Kind = "geojson"

    def __init__(self, path: Path, slide: Slide) -> None:
        super().__init__(slide)
        self.path = path
        self.polygons, self.notes = read_polygons(path)
        if len(self.polygons) and not len(self.index()):
            low, high = self.polygons.bounds.min(0), self.polygons.bounds.max(0)
            raise SettingsError(
                f"{path} does not lie over {slide.name}: its areas lie at x {low[0]:.0f} to {high[2]:.0f}, y {low[1]:.0f} to {high[3]:.0f}, "
                f"and the slide has {slide.width} × {slide.height} px. Coordinates are pixels of the slide's finest level."
            )

    def read(self, box: Box, mpp: float) -> UInt32:
        """Ids in a box of working pixels at ``mpp``: an object has the pixels whose centers it holds."""
        return self.polygons.paint(box, mpp / self._base)

    def _make_index(self) -> ObjectIndex:
        return self.polygons.index()


def _spans(lines: npt.NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """Parts of ascending lines that lie in an image of that size and are not far apart."""
    start, end = np.searchsorted(lines, [0, size])
    while start < end:
        stop = min(int(np.searchsorted(lines, lines[start] + SPAN_PX)), int(end))
        yield int(start), stop
        start = stop
