"""The strength of a slide's stain, taken out: colors that can be compared from slide to slide."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

GOAL = np.array([0.45, 0.75, 0.40])
"""Mean optical density of red, green and blue in the tissue of an ordinary H&E slide."""
LEAST_DENSITY = 0.15
"""Mean density below which a pixel is not tissue."""
LEAST_TISSUE = 0.01
"""With a smaller share of tissue, a slide's density is not known and its colors stay."""
MOST_CHANGE = 4.0
"""How many times stronger or weaker a stain is made, at most."""
_DENSITY = -np.log((np.arange(256) + 1) / 256)


def mean_density(pictures: Iterable[NDArray[np.uint8]]) -> NDArray[np.float64]:
    """Mean optical density (3,) of the tissue in pictures (h, w, 3) of one slide; `GOAL` where there is hardly any."""
    sums, tissue, pixels = np.zeros(3), 0, 0
    for picture in pictures:
        density = _DENSITY[picture]
        stained = density.mean(2) > LEAST_DENSITY
        sums += density[stained].sum(0)
        tissue += int(stained.sum())
        pixels += stained.size
    return sums / tissue if tissue > LEAST_TISSUE * max(pixels, 1) else GOAL.copy()


def leveled(picture: NDArray[np.uint8], density: NDArray[np.float64]) -> NDArray[np.uint8]:
    """A picture whose slide has a mean density (3,), as if it were `GOAL`."""
    factor = np.clip(GOAL / np.maximum(density, 1e-3), 1 / MOST_CHANGE, MOST_CHANGE)
    table = np.clip(np.rint(256 * np.exp(-_DENSITY[:, None] * factor) - 1), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(picture, table.reshape(1, 256, 3)), np.uint8)
