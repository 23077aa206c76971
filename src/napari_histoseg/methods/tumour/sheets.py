"""Slides whose tumour somebody outlined, at low resolution: picture, tissue and truth on the grid that heatmaps have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.methods.glass import LEAST_SATURATION, saturation
from napari_histoseg.slide import Box, Slide

BLOCK_PX = 2048


@dataclass(frozen=True)
class Outlined:
    """A slide, or a part of it, with its truth.

    Attributes
    ----------
    name : str
    open : callable
        Opens the slide; who calls it closes it.
    part : Box or None
        In level-0 pixels; None is all of it.
    truth : callable
        Rows and columns, as fractions of the part's height and width → 0 no tumour, 1 tumour, 255 not annotated, (rows, columns) uint8.
    labels : mapping of str to str
        What can be balanced on.
    group : str
        Patient, or slide.
    split : str or None
    """

    name: str
    open: Callable[[], Slide]
    part: Box | None
    truth: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.uint8]]
    labels: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    split: str | None = None


@dataclass(frozen=True, eq=False)
class Sheet:
    """A slide at low resolution.

    Attributes
    ----------
    box : Box
        What it covers, in working pixels of the slide.
    mpp : float
        µm per working pixel.
    picture : (h, w, 3) uint8
    truth : (h, w) uint8
        0, 1, or 255 where nobody said.
    """

    box: Box
    mpp: float
    picture: NDArray[np.uint8]
    truth: NDArray[np.uint8]

    def save(self, path: Path) -> Sheet:
        """Write it, and go on with arrays that are read from the disk as they are needed."""
        packed = np.dstack([self.picture, self.truth])
        np.save(path, packed)
        return self.at(path, self.box, self.mpp)

    @classmethod
    def at(cls, path: Path, box: Box, mpp: float) -> Sheet:
        """One that was written."""
        packed = np.load(path, mmap_mode="r")
        return cls(box, mpp, packed[..., :3], packed[..., 3])


def working_mpp(slide: Slide, mpp: float, scale: int) -> float:
    """µm per working pixel for a classifier that looks at ``mpp``: the same as in a run.

    Raises
    ------
    PixelSizeError
        The slide has no pixel size, or is too coarse.
    """
    return slide.working_mpp(mpp) * scale


def sheet_of(outlined: Outlined, slide: Slide, mpp: float, scale: int) -> Sheet:
    """Read a slide at low resolution, block by block.

    Raises
    ------
    PixelSizeError, TileError
    """
    own = working_mpp(slide, mpp, scale)
    factor = slide.require_mpp() / own
    part = slide.bounds if outlined.part is None else outlined.part.intersect(slide.bounds)
    box = part.scaled(factor).intersect(Box(0, 0, *slide.size_at(own)))
    picture = np.empty((*box.shape, 3), np.uint8)
    for y in range(box.y, box.bottom, BLOCK_PX):
        for x in range(box.x, box.right, BLOCK_PX):
            block = Box(x, y, BLOCK_PX, BLOCK_PX).intersect(box)
            picture[block.relative_to(box).slices] = slide.read_at(own, block)
    rows = _fractions(box.y, box.height, factor, part.y, part.height)
    columns = _fractions(box.x, box.width, factor, part.x, part.width)
    return Sheet(box, own, picture, outlined.truth(rows, columns))


def _fractions(first: int, count: int, factor: float, corner: int, size: int) -> NDArray[np.float64]:
    """Where the centers of working pixels lie in the part, 0 to 1."""
    at_level0 = (first + np.arange(count) + 0.5) / factor
    return np.asarray(np.clip((at_level0 - corner) / size, 0, np.nextafter(1, 0)), np.float64)


def stained(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels (h, w) of tissue in a picture of low resolution."""
    return saturation(np.ascontiguousarray(picture)) > LEAST_SATURATION * 255


def cell_means(values: NDArray[np.generic], side_px: int) -> NDArray[np.float32]:
    """Mean of each square of a side; (h, w) are multiples of it."""
    rows, columns = values.shape[0] // side_px, values.shape[1] // side_px
    return np.asarray(values.reshape(rows, side_px, columns, side_px).mean((1, 3), dtype=np.float64).astype(np.float32))
