"""What is known of nuclei in a part of a slide: their pictures, shape and stain, and where they lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from napari_histoseg.errors import TileError
from napari_histoseg.methods.cells.crops import CropStyle, crops_of, reach_px, windows_of
from napari_histoseg.methods.cells.objects import ObjectIndex
from napari_histoseg.methods.cells.sources import ObjectSource
from napari_histoseg.objects.measure import measure
from napari_histoseg.slide import Box

REACH_SIGMAS = 2.0
"""Nuclei farther away than this many σ do not count as neighbors."""
SHAPE = (
    "area_um2", "perimeter_um", "major_axis_um", "minor_axis_um", "eccentricity", "solidity",
    "hematoxylin_od_mean", "hematoxylin_od_sd", "eosin_od_mean", "eosin_od_sd",
)  # fmt: skip
"""The measurements that nuclei are grouped by; where they lie and how they are turned says nothing of their kind."""
SKEWED = ("area_um2", "perimeter_um", "major_axis_um", "minor_axis_um")
"""Of these the logarithm is taken."""

UInt8 = NDArray[np.uint8]
Numbers = Callable[[UInt8, pd.DataFrame], NDArray[np.float32]]
"""From pictures (n, px, px, 3) and measurements of nuclei to numbers (n, d)."""


@dataclass(frozen=True, eq=False)
class Look:
    """Nuclei of a box, and those around them.

    Attributes
    ----------
    positions : int (n,)
        Their positions in the index, ascending.
    own : bool (n,)
        Whose centroid lies in the box.
    crops : uint8 (n, px, px, 3)
    table : DataFrame
        Measurements, a row a nucleus; NaN of those without a pixel.
    """

    positions: NDArray[np.int64]
    own: NDArray[np.bool_]
    crops: UInt8
    table: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Viewer:
    """How nuclei of one slide are looked at.

    Parameters
    ----------
    source : ObjectSource
    index : ObjectIndex
        Of the source.
    style : CropStyle
    mpp : float
        µm per working pixel.
    downsample : float
        Level-0 pixels per working pixel.
    around_um : float
        σ of the neighborhood.
    """

    source: ObjectSource
    index: ObjectIndex
    style: CropStyle
    mpp: float
    downsample: float
    around_um: float

    @property
    def around_px(self) -> int:
        """How far neighbors may be, in working pixels."""
        return int(np.ceil(REACH_SIGMAS * self.around_um / self.mpp))

    @property
    def margin_px(self) -> int:
        """What has to be read around a box, so that its nuclei and their neighbors are seen whole."""
        return self.around_px + reach_px(self.index, self.style, mpp=self.mpp, downsample=self.downsample)

    def holds(self, keep: Box) -> bool:
        """Whether any nucleus lies in a box of working pixels."""
        return bool(len(self.index.within(keep, self.downsample)))

    def look(self, image: UInt8, box: Box, keep: Box) -> Look:
        """The nuclei in ``keep`` and those around them.

        Parameters
        ----------
        image : uint8 (h, w, 3)
            The pixels of ``box``.
        box, keep : Box
            Working pixels of the slide; ``box`` is ``keep`` with `margin_px` around it, as far as the slide reaches.
        """
        index, scale = self.index, self.downsample
        near = index.within(keep.padded(self.around_px), scale)
        own = np.isin(near, index.within(keep, scale), assume_unique=True)
        found = self.source.read(box, self.mpp)
        ids = index.ids[near]
        labels = local_labels(found, ids)
        windows = windows_of(index, near, self.style, mpp=self.mpp, downsample=scale)
        crops = crops_of(image, found, ids, windows - np.array([box.x, box.y, 0], np.int32), style=self.style, mpp=self.mpp)
        table = measure(labels, image, mpp=self.mpp, origin_um=(box.x * self.mpp, box.y * self.mpp)).drop(columns="probability")
        table = table.set_index("id").reindex(np.arange(1, len(near) + 1)).reset_index(drop=True)
        source_mpp = self.mpp / scale
        table["centroid_x_um"], table["centroid_y_um"] = index.x[near] * source_mpp, index.y[near] * source_mpp
        return Look(near, own, crops, table)

    def mean_around(self, look: Look, numbers: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean of the numbers (n, d) of a nucleus and those around it, weighted by a Gaussian of their distance; of its own nuclei."""
        if not self.around_um:
            return numbers[look.own]
        places = np.column_stack([self.index.x[look.positions], self.index.y[look.positions]]) / self.downsample
        sigma = self.around_um / self.mpp
        pairs = cKDTree(places[look.own]).sparse_distance_matrix(cKDTree(places), REACH_SIGMAS * sigma, output_type="coo_matrix")
        weights = np.exp(-0.5 * (pairs.data / sigma) ** 2)
        matrix = sparse.csr_matrix((weights, (pairs.row, pairs.col)), shape=pairs.shape)
        # Summed in the order of ids, so that a tile's border changes nothing.
        matrix.sort_indices()
        return np.asarray((matrix @ numbers) / np.asarray(matrix.sum(1)).reshape(-1, 1))


def looks_until(wanted: int, viewer: Viewer, places: Iterable[tuple[Box, Callable[[], Look]]]) -> Iterator[Look]:
    """Looks at boxes one after the other, until that many nuclei were seen; boxes without any, or that cannot be read, are passed over."""
    count = 0
    for keep, look in places:
        if count >= wanted:
            return
        if not viewer.holds(keep):
            continue
        try:
            found = look()
        except TileError:
            continue
        count += int(found.own.sum())
        yield found


def local_labels(found: NDArray[np.uint32], ids: NDArray[np.uint32]) -> NDArray[np.int32]:
    """1 + place of each pixel's id among ``ids`` (ascending), 0 where it is none of them."""
    if not len(ids):
        return np.zeros(found.shape, np.int32)
    place = np.minimum(np.searchsorted(ids, found), len(ids) - 1)
    return np.where(ids[place] == found, place + 1, 0).astype(np.int32)


def shape_numbers(table: pd.DataFrame) -> NDArray[np.float32]:
    """The measurements (n, 10) that nuclei are grouped by, lengths and areas as logarithms; NaN where there are none."""
    columns = [np.log(np.maximum(table[name].to_numpy(float), 1e-3)) if name in SKEWED else table[name].to_numpy(float) for name in SHAPE]
    return np.stack(columns, 1).astype(np.float32)


def size_and_roundness(table: pd.DataFrame) -> NDArray[np.float32]:
    """Logarithm of the area, and minor over major axis (n, 2)."""
    major = np.maximum(table["major_axis_um"].to_numpy(float), 1e-3)
    area = np.log(np.maximum(table["area_um2"].to_numpy(float), 1e-3))
    return np.stack([area, table["minor_axis_um"].to_numpy(float) / major], 1).astype(np.float32)


def picture_numbers(crops: UInt8, cells: int = 10) -> NDArray[np.float32]:
    """Mean colors of ``cells`` × ``cells`` fields of each picture (n, 3·cells²), 0–1."""
    count, px = crops.shape[:2]
    edges = np.linspace(0, px, cells + 1).round().astype(int)
    rows = np.add.reduceat(crops.astype(np.float32), edges[:-1], axis=1)
    sums = np.add.reduceat(rows, edges[:-1], axis=2)
    areas = np.diff(edges)[:, None] * np.diff(edges)[None, :]
    return np.asarray((sums / (255 * areas[..., None])).reshape(count, -1), np.float32)
