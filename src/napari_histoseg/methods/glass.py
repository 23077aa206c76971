"""Which pixels of a tile are glass, for class maps."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

LEAST_SATURATION = 0.10
"""Of the largest possible saturation: below it is glass."""
TISSUE_SHARE = 0.01
"""A neighborhood with less tissue than this is glass."""


def saturation(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Saturation (h, w) of the HSV color space, 0–255."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1], np.uint8)


def glass(image: NDArray[np.uint8], reach_px: int) -> NDArray[np.bool_]:
    """Pixels (h, w) of an RGB picture with less than 1 % of tissue within a square of ``reach_px`` around them."""
    tissue = (saturation(image) > LEAST_SATURATION * 255).astype(np.uint8)
    side = 2 * reach_px + 1
    # Counted in whole numbers: the same in every tile.
    count = cv2.boxFilter(tissue, cv2.CV_32S, (side, side), normalize=False, borderType=cv2.BORDER_REFLECT)
    return np.asarray(count < TISSUE_SHARE * side**2)


def open_glass(image: NDArray[np.uint8], reach_px: int) -> NDArray[np.bool_]:
    """Pixels (h, w) of glass as far as the tissue: squares of twice ``reach_px`` without tissue, whole. Looks twice as far."""
    side = 2 * reach_px + 1
    whole = cv2.dilate(glass(image, reach_px).astype(np.uint8), np.ones((side, side), np.uint8), borderType=cv2.BORDER_REFLECT)
    return whole > 0
