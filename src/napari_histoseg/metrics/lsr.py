"""Scores of outlines learned from coarse labels: overlap everywhere and near the true boundary (Zhao et al. 2020, table 2), and pepper noise."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.errors import SettingsError

BACKGROUND = 0
UNLABELED = 255
"""Value of truth that nobody annotated: such pixels take no part."""
WITHIN_UM = 1000.0
"""How far from the true boundary the paper's masked scores reach."""
ISLAND_UM2 = 1000.0
"""A smaller piece of one class (a disc of 36 µm) is an island: no structure that blocks of 100 µm and more are labeled for."""

Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]


def score_lsr(pred: ArrayLike, true: ArrayLike, mpp: float | None = None, within_um: float = WITHIN_UM) -> dict[str, float]:
    """Score a class map.

    Parameters
    ----------
    pred, true : (h, w) int or bool
        Class values, 0 background; 255 in the truth where nothing is annotated.
    mpp : float, optional
        µm per pixel; without it there are only the first two scores.
    within_um : float
        How far from the true boundary the masked scores reach.

    Returns
    -------
    dict
        ``iou``, ``dice``: of each class but background that truth or prediction has, then their mean; 1 where neither has any.
        ``masked_iou``, ``masked_dice``: the same over the pixels near the true boundary (see `near_boundary`); NaN where the truth has none.
        ``islands_per_mm2``: see `islands`, for each annotated mm².

    Raises
    ------
    SettingsError
        The shapes differ, nothing is annotated, the prediction has values that are no classes, or a size is no positive number.
    """
    p, t = np.asarray(pred), np.asarray(true)
    if p.shape != t.shape or p.ndim != 2:
        raise SettingsError(f"Prediction and truth must be pictures of one shape. Got {p.shape} and {t.shape}.")
    p, t = p.astype(np.int64), t.astype(np.int64)
    if wrong := [int(v) for v in np.unique(p) if not 0 <= v < UNLABELED]:
        raise SettingsError(f"The prediction has the values {wrong}, which are no classes. Classes are 1 to 254, and 0 is background.")
    known = t != UNLABELED
    if not known.any():
        raise SettingsError(f"Nothing in the truth is annotated: all of it is {UNLABELED}. Give a truth with at least one labeled pixel.")
    iou, dice = _overlap(p[known], t[known])
    scores = {"iou": iou, "dice": dice}
    if mpp is None:
        return scores
    for name, number in (("mpp", mpp), ("within_um", within_um)):
        if not (math.isfinite(number) and number > 0):
            raise SettingsError(f"{name} must be above 0. Got {number:g}.")
    near = near_boundary(t, within_um / mpp)
    scores["masked_iou"], scores["masked_dice"] = _overlap(p[near], t[near]) if near.any() else (math.nan, math.nan)
    scores["islands_per_mm2"] = islands(p, known, ISLAND_UM2 / mpp**2) / (known.sum() * mpp**2 / 1e6)
    return scores


def _overlap(p: Labels, t: Labels) -> tuple[float, float]:
    values = [v for v in np.union1d(p, t) if v != BACKGROUND]
    if not values:
        return 1.0, 1.0
    both = np.array([np.count_nonzero((p == v) & (t == v)) for v in values])
    total = np.array([np.count_nonzero(p == v) + np.count_nonzero(t == v) for v in values])
    return float((both / (total - both)).mean()), float((2 * both / total).mean())


def near_boundary(true: ArrayLike, within_px: float) -> Mask:
    """The annotated pixels within a distance of the boundary between classes, on both sides.

    The distance of a pixel is that of its center to the center of the nearest annotated pixel of another class, less half a pixel.

    Parameters
    ----------
    true : (h, w) int
        Class values, 255 not annotated.
    within_px : float

    Returns
    -------
    (h, w) bool
    """
    from scipy import ndimage

    t = np.asarray(true)
    near, known = np.zeros(t.shape, bool), t != UNLABELED
    for value in np.unique(t[known]):
        own = t == value
        others = known & ~own
        if others.any():
            near |= own & (ndimage.distance_transform_edt(~others) - 0.5 <= within_px)
    return near


def islands(pred: ArrayLike, known: Mask, below_px: float) -> int:
    """Pieces of one class (connected over sides and corners; background too) that are smaller than ``below_px`` pixels.

    Pieces that touch the edge of the picture, or what nobody annotated, may be larger than what is seen of them, and do not count.
    """
    from scipy import ndimage

    p, eight = np.asarray(pred), np.ones((3, 3), bool)
    inside = np.zeros(p.shape, bool)
    inside[1:-1, 1:-1] = ndimage.binary_erosion(known, eight)[1:-1, 1:-1]
    count = 0
    for value in np.unique(p):
        pieces, n = ndimage.label(p == value, eight)
        small = np.bincount(pieces.ravel(), minlength=n + 1) < below_px
        small[0] = False
        small[np.unique(pieces[~inside])] = False
        count += int(small.sum())
    return count
