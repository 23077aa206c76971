"""Outlines without a refining network, for comparison and where none was trained."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray
from skimage.filters import threshold_otsu

from napari_histoseg.methods.glass import saturation


def otsu(picture: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """All tissue: the saturation (h, w) of a picture of low resolution above Otsu's threshold (Bándi et al. 2019)."""
    values = saturation(np.ascontiguousarray(picture))
    if values.min() == values.max():
        return np.zeros(values.shape, bool)
    return np.asarray(values > threshold_otsu(values))  # type: ignore[no-untyped-call]


def smoothed(outline: NDArray[np.bool_], width_px: int) -> NDArray[np.bool_]:
    """Close, then open with a disk: gaps and islands narrower than ``width_px`` go."""
    if width_px < 2:
        return outline
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width_px | 1, width_px | 1))
    # Beyond the border there is neither tumour nor none: mirrored, so that closing does not open what touches it.
    margin = width_px
    wide = cv2.copyMakeBorder(outline.astype(np.uint8), margin, margin, margin, margin, cv2.BORDER_REFLECT)
    done = cv2.morphologyEx(cv2.morphologyEx(wide, cv2.MORPH_CLOSE, disk), cv2.MORPH_OPEN, disk)
    return np.asarray(done[margin:-margin, margin:-margin] > 0)
