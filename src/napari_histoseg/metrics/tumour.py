"""Scores of an outline of tumour, pixel by pixel: recall, precision, Dice and intersection over union, as in tables 1 and 2 of Pedersen et al. 2022."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.errors import SettingsError

TUMOUR = 1
UNLABELED = 255
"""Value of truth that nobody annotated: such pixels take no part."""


def score_tumour(predicted: ArrayLike, true: ArrayLike) -> dict[str, float]:
    """Score an outline of tumour on one slide.

    Parameters
    ----------
    predicted : (h, w) int or bool
        1 tumour, 0 not.
    true : (h, w) int or bool
        The same; 255 where nothing is annotated.

    Returns
    -------
    dict
        ``recall``: share of the true tumour that was found; ``precision``: share of what was found that is tumour; ``dice``: their harmonic
        mean; ``iou``: intersection over union. All are 1 where there is neither tumour nor prediction, and 0 where there is only
        one of them: what has no value as a share of nothing counts as it should in a mean over slides.

    Raises
    ------
    SettingsError
        The shapes differ, nothing is annotated, or there are other values.
    """
    p, t = np.asarray(predicted), np.asarray(true)
    if p.shape != t.shape:
        raise SettingsError(f"Prediction and truth must have one shape. Got {p.shape} and {t.shape}.")
    _check("prediction", p, (0, TUMOUR))
    _check("truth", t, (0, TUMOUR, UNLABELED))
    known = t != UNLABELED
    if not known.any():
        raise SettingsError("Nothing is annotated in the truth: all its pixels have the value 255. Give a truth with 0 and 1.")
    found, tumour = (p == TUMOUR) & known, t == TUMOUR
    return shares(int(np.count_nonzero(found & tumour)), int(np.count_nonzero(found)), int(np.count_nonzero(tumour)))


def shares(both: int, found: int, tumour: int) -> dict[str, float]:
    """The scores of counts of pixels: those of both, of the prediction, and of the truth."""
    if not found and not tumour:
        return {"recall": 1.0, "precision": 1.0, "dice": 1.0, "iou": 1.0}
    return {
        "recall": both / max(tumour, 1),
        "precision": both / max(found, 1),
        "dice": 2 * both / (found + tumour),
        "iou": both / (found + tumour - both),
    }


def _check(name: str, values: NDArray[np.generic], allowed: tuple[int, ...]) -> None:
    wrong = [int(v) for v in np.unique(values) if v not in allowed]
    if wrong:
        unknown = f", {UNLABELED} what nobody annotated" if UNLABELED in allowed else ""
        raise SettingsError(f"The {name} has the values {wrong}. {TUMOUR} is tumour, 0 is not{unknown}. Write it with these values.")
