"""Which patches of a slide are learned from, and what they are (§2.2 of the paper)."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_histoseg.methods.tumour.sheets import Sheet, cell_means, stained
from napari_histoseg.slide import Box

COLUMNS = ["x", "y", "label", "tissue", "tumour"]


def patches_of(sheet: Sheet, side_px: int, least_tissue: float, least_tumour: float) -> pd.DataFrame:
    """The patches of a slide: tumour, no tumour; those with a little tumour, with hardly any tissue, or not wholly annotated are left out.

    Parameters
    ----------
    sheet : Sheet
    side_px : int
        Side of a patch in working pixels. Patches lie side by side from the slide's corner, wholly inside the sheet.
    least_tissue, least_tumour : float
        Shares of a patch.

    Returns
    -------
    DataFrame
        ``x``, ``y`` (upper left corner, working pixels), ``label`` (1 tumour, 0 none), and the shares ``tissue`` and ``tumour``.
    """
    inner = inside(sheet.box, side_px)
    if inner.empty:
        return pd.DataFrame({name: pd.Series(dtype=float if name in ("tissue", "tumour") else np.int64) for name in COLUMNS})
    where = inner.relative_to(sheet.box).slices
    truth: NDArray[np.uint8] = np.asarray(sheet.truth[where])
    tissue = cell_means(stained(np.asarray(sheet.picture[where])), side_px)
    tumour, known = cell_means(truth == 1, side_px), cell_means(truth <= 1, side_px)
    label = np.where(tumour > least_tumour, 1, np.where(tumour == 0, 0, -1))
    rows, columns = np.nonzero((tissue >= least_tissue) & (known == 1) & (label >= 0) & (tissue > 0))
    return pd.DataFrame(
        {
            "x": inner.x + columns * side_px,
            "y": inner.y + rows * side_px,
            "label": label[rows, columns].astype(np.int64),
            "tissue": tissue[rows, columns].astype(float),
            "tumour": tumour[rows, columns].astype(float),
        }
    )


def inside(box: Box, side_px: int) -> Box:
    """The whole patches inside a box, anchored at the slide's corner."""
    left, top = -(-box.x // side_px) * side_px, -(-box.y // side_px) * side_px
    right, bottom = box.right // side_px * side_px, box.bottom // side_px * side_px
    return Box(left, top, max(right - left, 0), max(bottom - top, 0))
