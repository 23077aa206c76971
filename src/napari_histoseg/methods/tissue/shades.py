"""The strength of a slide's stain, taken out: colors that can be compared from slide to slide."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histoseg.slide import Slide, is_field, tissue_mask

GOAL = np.array([0.45, 0.75, 0.40])
"""Mean optical density of red, green and blue in the tissue of an ordinary H&E slide."""
LEAST_DENSITY = 0.15
"""Mean density below which a pixel is not tissue."""
LEAST_TISSUE = 0.01
"""With a smaller share of tissue, a slide's density is not known and its colors stay."""
OVERVIEW_MPP, LEAST_PX, MOST_PX = 4.0, 512, 2048
"""µm/px of the overview, whose longer side has at least and at most so many pixels."""
MOST_CHANGE = 4.0
"""How many times stronger or weaker a stain is made, at most."""
_DENSITY = -np.log((np.arange(256) + 1) / 256)


def slide_density(slide: Slide) -> NDArray[np.float64]:
    """Mean optical density (3,) of a slide's tissue, seen on an overview of the whole slide; `GOAL` where there is hardly any tissue."""
    longest = max(slide.width, slide.height)
    wanted = LEAST_PX if slide.mpp is None else round(longest * slide.mpp / OVERVIEW_MPP)
    overview = slide.thumbnail(min(max(wanted, LEAST_PX), MOST_PX, longest))
    density = _DENSITY[overview]
    stained = density.mean(2) > LEAST_DENSITY
    mask = None if is_field(slide) else tissue_mask(slide).mask
    if mask is not None and mask.any():
        # Without pen marks and debris.
        there = cv2.resize(mask.astype(np.uint8), overview.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        stained &= there
    return np.asarray(density[stained].mean(0)) if stained.mean() > LEAST_TISSUE else GOAL.copy()


def leveled(picture: NDArray[np.uint8], density: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A picture whose slide has a mean density (3,), as if it were `GOAL`."""
    factor = np.clip(GOAL / np.maximum(density, 1e-3), 1 / MOST_CHANGE, MOST_CHANGE)
    table = np.clip(np.rint(256 * np.exp(-_DENSITY[:, None] * factor) - 1), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, table.reshape(1, 256, 3)), np.uint8)
