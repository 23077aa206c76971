"""The nucleus under a click, from the stored probability map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEAST_PROBABILITY = 0.08
"""Below this the map says nothing about a nucleus."""
STEPS = 16
SNAP_PX = 3
"""A click this near to a nucleus' highest probability counts as on it."""

DIP_PX = 1.0
"""Two hills are two nuclei when the saddle between them is this much lower, in pixels of distance to the edge."""


def nucleus_at(
    probability: NDArray[np.floating],
    labels: NDArray[np.integer],
    point: tuple[int, int],
    min_area_px: int = 12,
    max_area_px: int = 4000,
) -> NDArray[np.bool_] | None:
    """The nucleus that somebody points at.

    The threshold is lowered from the probability at the click; of the components around the click the most stable one is
    taken, the one whose area changes least with the threshold (as maximally stable extremal regions do, Matas et al.,
    BMVC 2002). A watershed keeps it from its unlabelled neighbors; labelled pixels stay with their nucleus.

    Parameters
    ----------
    probability : ndarray (h, w), float
        Probability (0–1) that a pixel belongs to a nucleus, in a window around the click.
    labels : ndarray (h, w), int
        Nuclei that are there already; 0 is free.
    point : (row, column)
        The click, in the window.
    min_area_px, max_area_px : int
        Smallest and largest nucleus accepted.

    Returns
    -------
    ndarray (h, w), bool, or None
        None when the click is outside the window or on a nucleus, or when the map shows nothing there.
    """
    row, column = point
    height, width = probability.shape
    if not (0 <= row < height and 0 <= column < width) or labels[row, column]:
        return None
    smooth = ndimage.gaussian_filter(probability.astype(np.float32), 1.0)
    smooth[labels != 0] = 0
    row, column = _snap(smooth, row, column)
    peak = float(smooth[row, column])
    if peak < LEAST_PROBABILITY:
        return None
    mine = _basin(smooth, row, column)
    thresholds = np.linspace(0.9 * peak, max(LEAST_PROBABILITY, 0.3 * peak), STEPS)
    nested = [_component((smooth >= t) & mine, row, column) for t in thresholds]
    mask = _most_stable(nested, min_area_px, max_area_px)
    return None if mask is None else _tidy(mask, labels != 0, row, column, min_area_px)


def _snap(values: NDArray[np.float32], row: int, column: int) -> tuple[int, int]:
    """The highest value near a click."""
    top, left = max(row - SNAP_PX, 0), max(column - SNAP_PX, 0)
    near = values[top : row + SNAP_PX + 1, left : column + SNAP_PX + 1]
    y, x = np.unravel_index(int(near.argmax()), near.shape)
    return top + int(y), left + int(x)


def _basin(values: NDArray[np.float32], row: int, column: int) -> NDArray[np.bool_]:
    """The pixels that belong to the clicked hill rather than to a neighboring one."""
    from skimage.morphology import h_maxima
    from skimage.segmentation import watershed

    peak = float(values[row, column])
    # Networks draw flat tops: the distance to the edge tells two touching nuclei apart where the probability does not.
    depth = ndimage.distance_transform_edt(np.pad(values >= 0.5 * peak, 1, mode="edge"))[1:-1, 1:-1]
    hill = ndimage.gaussian_filter(depth * values / peak, 1.0)
    markers, _ = ndimage.label(h_maxima(hill, DIP_PX))  # type: ignore[no-untyped-call]
    basins = watershed(-hill, markers, mask=values >= LEAST_PROBABILITY)  # type: ignore[no-untyped-call]
    return np.asarray(basins == basins[row, column])


def _component(mask: NDArray[np.bool_], row: int, column: int) -> NDArray[np.bool_]:
    parts, _ = ndimage.label(mask)
    return np.asarray(parts == parts[row, column]) if parts[row, column] else np.zeros_like(mask)


def _most_stable(nested: list[NDArray[np.bool_]], least: int, most: int) -> NDArray[np.bool_] | None:
    """The component whose area grows least from one threshold to the next, not at the window's edge if possible."""
    areas = np.array([mask.sum() for mask in nested], float)
    growth = np.empty_like(areas)
    growth[1:-1] = (areas[2:] - areas[:-2]) / np.maximum(areas[1:-1], 1)
    growth[0] = growth[-1] = np.inf
    fits = (areas >= least) & (areas <= most)
    if not fits.any():
        return None
    candidates = np.flatnonzero(fits)
    inside = [i for i in candidates if not _at_edge(nested[i])] or list(candidates)
    return nested[min(inside, key=lambda i: (growth[i], -areas[i]))]


def _at_edge(mask: NDArray[np.bool_]) -> bool:
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def _tidy(
    mask: NDArray[np.bool_], taken: NDArray[np.bool_], row: int, column: int, least: int
) -> NDArray[np.bool_] | None:
    """Holes filled, hairs cut, nobody else's pixels."""
    filled = ndimage.binary_fill_holes(mask) & ~taken
    opened = ndimage.binary_opening(filled, iterations=1)
    kept = _component(opened if opened[row, column] else filled, row, column)
    return kept if kept.sum() >= least else None
