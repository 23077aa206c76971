"""Pictures of single objects, cut out of tiles of a slide."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from napari_histoseg.errors import SettingsError, TileError
from napari_histoseg.methods.cells.objects import EPS, ObjectIndex
from napari_histoseg.methods.cells.scan import scan
from napari_histoseg.slide.compiled import kernel
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    import pandas as pd

    from napari_histoseg.methods.cells.sources import ObjectSource
    from napari_histoseg.slide import Slide

UInt8 = npt.NDArray[np.uint8]
UInt32 = npt.NDArray[np.uint32]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Measure = Callable[..., "pd.DataFrame"]

LARGEST_UM = 100.0
"""Side of the largest window; of an object that is larger, what lies around its centroid is seen."""
GLASS = 255
MOST_AT_ONCE = 4096
PER_TILE = 64
"""Objects of a random sample that are taken together, from a tile or two."""


@dataclass(frozen=True, slots=True)
class CropStyle:
    """How an object becomes a picture.

    Attributes
    ----------
    crop_px : int
        Side of the picture, 8 to 256.
    context : "tight" or "fixed"
        The square around the object and a pixel more, or a field of the same size for all.
    field_um : float
        Side of that field, at most 100 µm.
    surroundings : bool
        Show what lies around the object; else it is white.
    """

    crop_px: int = 40
    context: Literal["tight", "fixed"] = "tight"
    field_um: float = 20.0
    surroundings: bool = True

    def __post_init__(self) -> None:
        if not 8 <= self.crop_px <= 256:
            raise SettingsError(f"The side of a crop must be 8 to 256 px. Got {self.crop_px} instead.")
        if self.context not in ("tight", "fixed"):
            raise SettingsError(f"The context of a crop must be 'tight' or 'fixed'. Got {self.context!r} instead.")
        if not 0 < self.field_um <= LARGEST_UM:
            raise SettingsError(f"The field of a crop must be up to {LARGEST_UM:g} µm. Got {self.field_um:g} instead.")

    def describe(self) -> dict[str, Any]:
        """Only JSON types."""
        return asdict(self)


class Crops(NamedTuple):
    """Objects of a tile.

    Attributes
    ----------
    ids : uint32 (n,)
        Ascending.
    crops : uint8 (n, crop_px, crop_px, 3)
    table : DataFrame or None
        Measurements, a row an id.
    """

    ids: UInt32
    crops: UInt8
    table: pd.DataFrame | None


def windows_of(index: ObjectIndex, positions: Int64, style: CropStyle, *, mpp: float, downsample: float) -> Int32:
    """The square that is seen of each object.

    Parameters
    ----------
    index : ObjectIndex
    positions : int (n,)
        Which of its objects.
    style : CropStyle
    mpp : float
        µm per working pixel.
    downsample : float
        Level-0 pixels per working pixel.

    Returns
    -------
    int32 (n, 3)
        x, y and side, in working pixels of the slide. They depend on the object alone, never on a tile.
    """
    centers = np.column_stack([index.x[positions], index.y[positions]]) / downsample
    return _windows(index.extents[positions] / downsample, centers, style, mpp)


def _windows(extents: npt.NDArray[np.float64], centers: npt.NDArray[np.float64], style: CropStyle, mpp: float | None) -> Int32:
    largest = max(1, math.floor(LARGEST_UM / mpp)) if mpp else np.iinfo(np.int32).max
    low, high = np.floor(extents[:, :2] + EPS), np.ceil(extents[:, 2:] - EPS)
    side = (high - low).max(1) + 2
    corner = low - np.floor((side[:, None] - (high - low)) / 2)
    wide = side > largest
    if style.context == "fixed":
        if mpp is None:
            raise SettingsError("Crops of a fixed field need the pixel size: pass mpp.")
        side, wide = np.full(len(side), max(1, round(style.field_um / mpp))), np.ones(len(side), bool)
    side = np.minimum(side, largest)
    around = np.floor(centers - side[:, None] / 2 + 0.5 + EPS)
    corner = np.where(wide[:, None], around, corner)
    return np.column_stack([corner, side]).astype(np.int32)


def reach_px(index: ObjectIndex, style: CropStyle, *, mpp: float, downsample: float) -> int:
    """How far windows and objects reach from their centroid, in working pixels: the margin that a tile needs around its objects.

    Objects larger than the largest window count as far as that reaches.
    """
    if not len(index):
        return 0
    every = np.arange(len(index))
    boxes = _reading_boxes(index, every, windows_of(index, every, style, mpp=mpp, downsample=downsample), downsample, mpp)
    centers = np.column_stack([index.x, index.y]) / downsample
    return int(np.ceil(max((centers - boxes[:, :2]).max(), (boxes[:, 2:] - centers).max())))


def crops_of(
    image: UInt8,
    labels: UInt32,
    ids: npt.ArrayLike | None = None,
    windows: Int32 | None = None,
    *,
    style: CropStyle | None = None,
    mpp: float | None = None,
) -> UInt8:
    """Cut objects out of an image.

    What a window shows beyond the image is mirrored there, and is no object's.

    Parameters
    ----------
    image : uint8 (h, w, 3)
        RGB.
    labels : uint32 (h, w)
        Ids of the same pixels.
    ids : int (n,), optional
        Which objects; default all of ``labels``, ascending.
    windows : int32 (n, 3), optional
        x, y and side of the square of each object, in pixels of the image (`windows_of`, moved to the image); default
        from ``labels``.
    style : CropStyle, optional
    mpp : float, optional
        µm/px of the image; needed for windows of a fixed field.

    Returns
    -------
    uint8 (n, crop_px, crop_px, 3)

    Raises
    ------
    ValueError
        Image and labels are not of the same size, or an id has no pixel and no window.
    """
    if image.shape != (*labels.shape, 3) or image.dtype != np.uint8:
        raise ValueError(f"The image has shape {image.shape} and type {image.dtype}; for these labels it must be uint8 {(*labels.shape, 3)}.")
    style = style or CropStyle()
    if ids is None or windows is None:
        ids, windows = _from_labels(labels, ids, style, mpp)
    wanted = np.asarray(ids, np.uint32)
    out = np.empty((len(wanted), style.crop_px, style.crop_px, 3), np.uint8)
    labels = np.asarray(labels, np.uint32)
    for item, (identity, (x, y, side)) in enumerate(zip(wanted.tolist(), windows.tolist(), strict=True)):
        square = np.empty((side, side, 3), np.uint8)
        _cut(image, labels, x, y, identity, not style.surroundings, square)
        out[item] = _resized(square, style.crop_px)
    return out


def _from_labels(labels: UInt32, ids: npt.ArrayLike | None, style: CropStyle, mpp: float | None) -> tuple[UInt32, Int32]:
    found = scan(labels)
    wanted = found.ids if ids is None else np.asarray(ids, np.uint32)
    missing = np.setdiff1d(wanted, found.ids)
    if len(missing):
        raise ValueError(f"The labels hold no pixel of the objects {', '.join(map(str, missing[:5]))}: their windows must be given.")
    at = np.searchsorted(found.ids, wanted)
    return wanted, _windows(found.extents[at].astype(float), found.centers[at], style, mpp)


@kernel
def _mirrored(at: int, size: int) -> int:
    if at < 0 or at >= size:
        at = at % (2 * size)
        at = min(at, 2 * size - 1 - at)
    return at


@kernel
def _cut(image: UInt8, labels: UInt32, x: int, y: int, identity: int, white: bool, out: UInt8) -> None:
    """Fill a square ``(side, side, 3)`` from a place on; the image is mirrored at its edges as often as needed: 1 0 | 0 1 2 | 2 1."""
    height, width = labels.shape
    side = out.shape[0]
    for row in range(side):
        v = _mirrored(y + row, height)
        for column in range(side):
            u = _mirrored(x + column, width)
            # What is mirrored is no object's.
            own = v == y + row and u == x + column and labels[v, u] == identity
            for channel in range(3):
                out[row, column, channel] = image[v, u, channel] if own or not white else GLASS


def _resized(square: UInt8, px: int) -> UInt8:
    side = square.shape[0]
    if side == px:
        return square
    how = cv2.INTER_AREA if side > px else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (px, px), interpolation=how), np.uint8)


# -- from the slide ----------------------------------------------------------------------------------------------------


def iter_crops(
    slide: Slide,
    source: ObjectSource,
    *,
    mpp: float,
    style: CropStyle | None = None,
    tile_px: int = 1024,
    ids: npt.ArrayLike | None = None,
    sample: int | None = None,
    seed: int = 0,
    measure: Measure | None = None,
    on_error: Callable[[TileError], None] | None = None,
) -> Iterator[Crops]:
    """Crops of all objects, tile by tile in raster order; memory does not grow with the slide.

    Parameters
    ----------
    slide : Slide
        Read at ``mpp``, in the colors that it has.
    source : ObjectSource
    mpp : float
        Working pixel size.
    style : CropStyle, optional
    tile_px : int
        Side of the tiles, in working pixels.
    ids : int (n,), optional
        Only these objects.
    sample : int, optional
        Only so many objects, drawn at random, evenly over the slide and from few tiles (`sample_of`).
    seed : int
        Of the sample.
    measure : callable, optional
        As ``objects.measure.measure``: (labels, image, *, mpp, origin_um) -> DataFrame with ``id``.
    on_error : callable, optional
        Told about tiles that cannot be read, whose objects are left out; without it that is raised.

    Yields
    ------
    Crops

    Raises
    ------
    TileError
        A part of the slide or of the labels cannot be read.
    """
    style = style or CropStyle()
    downsample = mpp / slide.require_mpp()
    index = source.index()
    positions = np.arange(len(index)) if ids is None else np.unique(index.positions_of(ids))
    if sample is not None:
        positions = sample_of(index, positions, sample, tile_px * downsample, seed)
    bounds = Box(0, 0, *slide.size_at(mpp))
    for group in _by_tile(index, positions, tile_px * downsample):
        windows = windows_of(index, group, style, mpp=mpp, downsample=downsample)
        read = _around(_reading_boxes(index, group, windows, downsample, mpp)).intersect(bounds)
        try:
            image, labels = slide.read_at(mpp, read), source.read(read, mpp)
        except TileError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        windows[:, :2] -= (read.x, read.y)
        for first in range(0, len(group), MOST_AT_ONCE):
            part = slice(first, first + MOST_AT_ONCE)
            found = index.ids[group[part]]
            table = None if measure is None else _measured(measure, image, labels, found, mpp, (read.x * mpp, read.y * mpp))
            yield Crops(found, crops_of(image, labels, found, windows[part], style=style), table)


def _by_tile(index: ObjectIndex, positions: Int64, side: float) -> Iterator[Int64]:
    """The positions of each tile with its side in level-0 pixels, in raster order."""
    if not len(positions):
        return
    rows, columns = _tiles(index, positions, side)
    order = np.lexsort((positions, columns, rows))
    changes = np.flatnonzero(np.diff(rows[order]) | np.diff(columns[order])) + 1
    yield from np.split(positions[order], changes)


def _tiles(index: ObjectIndex, positions: Int64, side: float) -> tuple[Int64, Int64]:
    return (index.y[positions] // side).astype(np.int64), (index.x[positions] // side).astype(np.int64)


def _reading_boxes(index: ObjectIndex, positions: Int64, windows: Int32, downsample: float, mpp: float) -> Int64:
    """Left, top, right, bottom (working pixels) of what must be read for each object: its window and all of its pixels."""
    side = math.ceil(LARGEST_UM / mpp)
    extents = index.extents[positions] / downsample
    centers = np.tile(np.column_stack([index.x[positions], index.y[positions]]) / downsample, 2)
    # Of what is larger than any window, no more than one can show.
    near = np.clip(extents, centers - side, centers + side)
    low = np.minimum(np.floor(near[:, :2]), windows[:, :2]) - 1
    high = np.maximum(np.ceil(near[:, 2:]), windows[:, :2] + windows[:, 2:]) + 1
    return np.hstack([low, high]).astype(np.int64)


def _around(boxes: Int64) -> Box:
    left, top = (int(v) for v in boxes[:, :2].min(0))
    right, bottom = (int(v) for v in boxes[:, 2:].max(0))
    return Box(left, top, right - left, bottom - top)


def _measured(
    measure: Measure, image: UInt8, labels: UInt32, ids: UInt32, mpp: float, origin_um: tuple[float, float]
) -> pd.DataFrame:
    """A row an id, empty where the working pixels show nothing of the object."""
    # Ids may be any number, and measuring holds a row for each up to the largest.
    at = np.minimum(np.searchsorted(ids, labels), len(ids) - 1)
    local = np.where(ids[at] == labels, at + 1, 0).astype(np.int32)
    table = measure(local, image, mpp=mpp, origin_um=origin_um)
    table = table.set_index("id").reindex(np.arange(1, len(ids) + 1)).reset_index(drop=True)
    table.insert(0, "id", ids)
    return table


def sample_of(index: ObjectIndex, positions: Int64, n: int, side: float, seed: int = 0) -> Int64:
    """A random sample of objects from a few tiles spread evenly over the slide; each has the same chance.

    Every so many objects along a path that winds through the tiles, a few that follow each other are taken.

    Parameters
    ----------
    index : ObjectIndex
    positions : int (m,)
        What to draw from.
    n : int
        How many; all when there are no more.
    side : float
        Of a tile, in level-0 pixels.
    seed : int

    Returns
    -------
    int64 (min(n, m),)
        Ascending positions.
    """
    if n >= len(positions):
        return np.sort(positions)
    rng = np.random.default_rng(seed)
    rows, columns = _tiles(index, positions, side)
    winding = np.where(rows % 2, -columns, columns)
    # Along the path, and within a tile in random order: what follows each other fills few tiles.
    path = np.roll(np.lexsort((rng.permutation(len(positions)), winding, rows)), int(rng.integers(len(positions))))
    parts = -(-n // PER_TILE)
    begins = np.arange(parts) * len(path) // parts
    sizes = np.full(parts, n // parts) + (rng.permutation(parts) < n % parts)
    chosen = np.zeros(len(path), bool)
    for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True):
        chosen[begin : begin + size] = True
    # Where nearly all are wanted, parts may meet.
    chosen[rng.permutation(np.flatnonzero(~chosen))[: n - int(chosen.sum())]] = True
    return np.sort(positions[path[chosen]])
