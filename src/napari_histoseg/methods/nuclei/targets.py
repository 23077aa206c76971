"""Instance maps → what the networks are trained to predict."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

OFFSET_UNIT_PX = 16.0
"""Networks predict offsets in this unit, so that targets are of the order of one."""

UNLABELED = -1
"""Instance value of pixels that take part in no loss."""


def offsets(instances: NDArray[np.int32]) -> NDArray[np.float32]:
    """Vector (dy, dx) in pixels from each nucleus pixel to its nucleus' centroid; zero elsewhere.

    Parameters
    ----------
    instances : (h, w) int32
        0 background, positive instance ids, ``UNLABELED`` for pixels that are not annotated.
    """
    rows, columns = np.nonzero(instances > 0)
    ids = np.unique(instances[rows, columns], return_inverse=True)[1]
    out = np.zeros((2, *instances.shape), np.float32)
    if len(ids):
        count = np.bincount(ids)
        out[0, rows, columns] = (np.bincount(ids, rows) / count)[ids] - rows
        out[1, rows, columns] = (np.bincount(ids, columns) / count)[ids] - columns
    return out


def boundary_classes(instances: NDArray[np.int32], thickness_px: int = 1) -> NDArray[np.int64]:
    """Pixel classes 0 background, 1 nucleus, 2 nuclear boundary, -1 not annotated (Yuan & Suh, §2.2).

    The boundary is the rim of each nucleus: its pixels within ``thickness_px`` of another instance or of background.
    """
    import cv2

    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * thickness_px + 1, 2 * thickness_px + 1))
    # Ids of a crop are far below 2**24, which float32 holds exactly; OpenCV's morphology takes no int32.
    ids = instances.astype(np.float32)
    rim = (cv2.dilate(ids, kernel) != ids) | (cv2.erode(ids, kernel) != ids)
    out = np.where(instances > 0, np.where(rim, 2, 1), 0).astype(np.int64)
    out[instances == UNLABELED] = -1
    return out


def instance_weights(instances: NDArray[np.int32], cap: float = 4.0) -> NDArray[np.float32]:
    """Weight a nucleus pixel so that a small nucleus counts more than by its area alone: (mean area / area)^½, capped."""
    positive = np.maximum(instances, 0)
    area = np.bincount(positive.ravel())
    area[0] = 0
    present = area > 0
    if not present.any():
        return np.zeros(instances.shape, np.float32)
    table = np.zeros(len(area), np.float32)
    table[present] = np.minimum(np.sqrt(area[present].mean() / area[present]), cap)
    return table[positive]
