"""Pixels and masks of patches at the pixel size that something is learned at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.annotations.dataset import Patch, PatchDataset, read_mask
from napari_histoseg.errors import DatasetError
from napari_histoseg.slide.geometry import Box

if TYPE_CHECKING:
    from napari_histoseg.slide import Slide

SLACK_PX = 1.5
"""Rounding of a mask's size."""


class PatchReader:
    """Reads patches of a dataset; each file is opened once, and closed at the end.

    Parameters
    ----------
    dataset : PatchDataset
    mpp : float
        µm per pixel of what is read.
    """

    def __init__(self, dataset: PatchDataset, mpp: float) -> None:
        self._dataset, self._mpp = dataset, mpp
        self._slides: dict[str, Slide] = {}

    def __enter__(self) -> PatchReader:
        return self

    def __exit__(self, *error: object) -> None:
        for slide in self._slides.values():
            slide.close()

    def file(self, patch: Patch) -> Slide:
        """The open file of a patch.

        Raises
        ------
        DatasetError
            Its pixel size is not known.
        HistosegError
            It cannot be read.
        """
        if patch.source not in self._slides:
            self._slides[patch.source] = self._dataset.open(patch)
        slide = self._slides[patch.source]
        if slide.mpp is None:
            raise DatasetError(f'The pixel size of {patch.source} is unknown. Write "mpp" (µm/px) into dataset.json.')
        return slide

    def place(self, patch: Patch, box: Box | None = None) -> tuple[Slide, Box, float]:
        """The file of a patch, its box (or another one, level-0 pixels) in pixels of ``mpp``, and these per level-0 pixel.

        Raises
        ------
        HistosegError
            As `file`, or it is much too coarse.
        """
        slide = self.file(patch)
        assert slide.mpp is not None
        slide.working_mpp(self._mpp)  # refuses what is much too coarse
        box = box or (slide.bounds if patch.box is None else Box(*patch.box))
        factor = slide.mpp / self._mpp
        width, height = (max(1, round(size * factor)) for size in (box.width, box.height))
        return slide, Box(round(box.x * factor), round(box.y * factor), width, height), factor

    def read(self, patch: Patch) -> tuple[NDArray[np.uint8], NDArray[Any] | None]:
        """Pixels (h, w, 3) of a patch, and its mask (h, w) by nearest neighbor; None without one.

        Raises
        ------
        DatasetError
            The mask does not cover its patch, and as `place`.
        """
        slide, place, factor = self.place(patch)
        image = slide.read_at(self._mpp, place)
        if patch.mask is None:
            return image, None
        box = slide.bounds if patch.box is None else Box(*patch.box)
        mask = read_mask(self._dataset.path(patch.mask))
        rows, columns = mask.shape
        if abs(rows - columns * box.height / box.width) > SLACK_PX * max(1.0, columns / box.width):
            raise DatasetError(
                f"The mask {patch.mask} has {columns} × {rows} pixels and its patch of {patch.source} {box.width} × {box.height}: their shapes differ. A mask covers exactly its patch."
            )
        y = _sources(place.y, place.height, factor, box.y, rows / box.height, rows)
        x = _sources(place.x, place.width, factor, box.x, columns / box.width, columns)
        return image, mask[y[:, None], x[None, :]]


def _sources(first: int, count: int, factor: float, corner: int, scale: float, size: int) -> NDArray[np.int64]:
    """Row (or column) of the mask that holds the center of each working pixel."""
    level0 = (first + np.arange(count) + 0.5) / factor
    return np.asarray(np.clip(np.floor((level0 - corner) * scale), 0, size - 1), np.int64)
