"""Measuring a slide: tissue sampled all over it, never one tile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from napari_histoseg.slide.geometry import Box
from napari_histoseg.slide.stain.glass import find_white
from napari_histoseg.slide.stain.histogram import count_colors
from napari_histoseg.slide.stain.measure import measure_colors
from napari_histoseg.slide.stain.profile import StainProfile
from napari_histoseg.slide.tissue import TissueMask, find_tissue

if TYPE_CHECKING:
    from napari_histoseg.slide.slide import Slide

#: Patches that are read, and their side in pixels.
PATCHES, PATCH_PX = 40, 256
#: µm/px at which a slide is measured, where it has a level near it.
MEASURE_MPP = 0.5
OVERVIEW_PX = 1024
#: Pixels up to which a picture is read whole.
WHOLE_PX = 4_000_000


def measure_slide(
    slide: Slide, *, name: str | None = None, seed: int = 0, tissue: TissueMask | None = None
) -> StainProfile:
    """The stain of a slide.

    Parameters
    ----------
    slide : Slide
        Measured as it reads.
    name : str, optional
        Name of the profile; the slide's when not given.
    seed : int
        The same seed takes the same samples.
    tissue : TissueMask, optional
        Where to sample; found when not given.

    Raises
    ------
    TileError
        When a part of the slide cannot be decoded.
    """
    level = _level(slide)
    bounds = slide.levels[level].bounds
    overview = slide.thumbnail(OVERVIEW_PX)
    if bounds.area <= WHOLE_PX:
        boxes = [bounds]
    else:
        mask = _tissue(slide, overview) if tissue is None else tissue
        boxes = list(spread_boxes(mask, bounds, slide.levels[level].downsample, np.random.default_rng(seed)))
    colors = count_colors(slide.read(level, box) for box in boxes)
    # The glass of the whole slide; patches of tissue may hold none. A picture that is all tissue has none either way.
    white = find_white(count_colors([overview]))
    return measure_colors(colors, name=slide.name if name is None else name, white=white)


def _tissue(slide: Slide, overview: npt.NDArray[np.uint8]) -> TissueMask:
    downsample = max(slide.width, slide.height) / max(overview.shape[:2])
    return TissueMask(find_tissue(overview, slide.mpp and slide.mpp * downsample), downsample)


def _level(slide: Slide) -> int:
    """The coarsest level that is no coarser than 0.5 µm/px; level 0 when the pixel size is not known."""
    return slide.level_for(max(MEASURE_MPP / slide.mpp, 1.0)) if slide.mpp else 0


def spread_boxes(mask: TissueMask, bounds: Box, downsample: float, rng: np.random.Generator) -> Iterator[Box]:
    """Up to 40 boxes (pixels of the level) on tissue, spread evenly over all tissue.

    The boxes with the most tissue are taken, one at random from each of 40 equal parts of the list of tissue
    positions in reading order.
    """
    columns, rows = max(bounds.width // PATCH_PX, 1), max(bounds.height // PATCH_PX, 1)
    cells = [Box(x * PATCH_PX, y * PATCH_PX, PATCH_PX, PATCH_PX) for y in range(rows) for x in range(columns)]
    part = _fractions(mask, cells, downsample)
    good = np.flatnonzero(part >= min(0.5, 0.5 * part.max()))
    good = good[part[good] > 0]
    if not good.size:
        good = np.arange(len(cells))
    for some in np.array_split(good, min(PATCHES, good.size)):
        yield cells[int(rng.choice(some))].intersect(bounds)


def _fractions(mask: TissueMask, cells: list[Box], downsample: float) -> npt.NDArray[np.float64]:
    return np.array([mask.fraction(cell.scaled(downsample)) for cell in cells])
