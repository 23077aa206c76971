"""Scores of class maps: equations 1 to 6 of Ciga & Martel 2021 (§3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.errors import SettingsError

UNLABELED = 255
"""Value of truth that nobody annotated: such pixels take no part."""
EPSILON = 1e-9


@dataclass(frozen=True)
class Counts:
    """Pixels by true and predicted class; tables of several pictures add up.

    Attributes
    ----------
    table : (classes, classes) int64
        Row: true class; column: predicted class.
    """

    table: NDArray[np.int64]

    @classmethod
    def none(cls, classes: int) -> Counts:
        """A table of no pixels."""
        return cls(np.zeros((classes, classes), np.int64))

    @classmethod
    def of(cls, predicted: ArrayLike, true: ArrayLike, classes: int) -> Counts:
        """Count pixels whose class indices, below ``classes``, are given in two arrays of one shape."""
        t, p = np.asarray(true, np.int64).ravel(), np.asarray(predicted, np.int64).ravel()
        return cls(np.bincount(t * classes + p, minlength=classes**2).reshape(classes, classes).astype(np.int64))

    def __add__(self, other: Counts) -> Counts:
        return Counts(self.table + other.table)

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 of each class (equation 4); NaN for a class that neither truth nor prediction has."""
        return self._ratio(2 * np.diag(self.table), self.table.sum(0) + self.table.sum(1))

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each class (equation 5); NaN as for F1."""
        return self._ratio(np.diag(self.table), self.table.sum(0) + self.table.sum(1) - np.diag(self.table))

    @staticmethod
    def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)

    def scores(self, background: int | None = 0) -> dict[str, float]:
        """Scores of the table; NaN where one is not defined.

        Parameters
        ----------
        background : int, optional
            Index of the background class, for the foreground scores.

        Returns
        -------
        dict
            ``accuracy`` (equation 1, all classes together), ``foreground_accuracy`` (of pixels whose truth is not background),
            ``macro_f1`` (mean over classes), ``micro_f1`` (F1 of the classes weighted by their share of the truth, as the paper
            has it), ``iou`` (mean over classes), and ``foreground_dice`` (all classes but background taken as one).
        """
        table, diagonal = self.table, np.diag(self.table)
        true = table.sum(1)
        front = np.arange(len(table)) != background
        inner = int(table[np.ix_(front, front)].sum())
        outer = int(table[front].sum() + table[:, front].sum())
        f1 = self.f1
        return {
            "accuracy": _part(diagonal.sum(), true.sum()),
            "foreground_accuracy": _part(diagonal[front].sum(), true[front].sum()),
            "macro_f1": _mean(f1),
            "micro_f1": _part((np.nan_to_num(f1) * true).sum(), true.sum()),
            "iou": _mean(self.iou),
            "foreground_dice": _part(2 * inner, outer),
        }


def _part(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def challenge_score(predicted: ArrayLike, true: ArrayLike, highest: int = 3) -> float:
    """Score of the BACH challenge (equation 6): errors cost more the farther apart two classes are, and right background counts nothing.

    1 - Σ|pred - gt| / (Σ max(gt, |gt - 3|) · [1 - (1 - pred>0)(1 - gt>0)] + ε)

    Parameters
    ----------
    predicted, true : arrays of one shape
        Class values in order of severity, 0 background.
    highest : int
        The highest class value; the paper's is 3.
    """
    p, t = np.asarray(predicted, np.int64), np.asarray(true, np.int64)
    counted = (p > 0) | (t > 0)
    worst = np.maximum(t, np.abs(t - highest))
    return float(1 - np.abs(p - t).sum() / ((worst * counted).sum() + EPSILON))


def score_joint(pred: ArrayLike, true: ArrayLike, classes: Sequence[str] | None = None) -> dict[str, float]:
    """All scores of a class map for one picture.

    Parameters
    ----------
    pred, true : (h, w) integer arrays
        Class values, 0 background; 255 in the truth is not annotated and takes no part.
    classes : sequence of str, optional
        Names of the values 0, 1, 2 … in this order. When not given, the values are named by themselves.

    Returns
    -------
    dict
        Those of :meth:`Counts.scores`, ``challenge`` (equation 6, with the highest value of the names, or of the two pictures),
        and ``f1_<name>`` for each class but background. A class that neither picture has takes no part, and is NaN.

    Raises
    ------
    SettingsError
        If the shapes differ, nothing is annotated, or a value has no name.
    """
    t, p = np.asarray(true), np.asarray(pred)
    if t.shape != p.shape:
        raise SettingsError(f"Truth has shape {t.shape} and prediction {p.shape}. Give pictures of one shape.")
    known = t != UNLABELED
    if not known.any():
        raise SettingsError(f"Nothing in the truth is annotated: all of it is {UNLABELED}. Give a truth with at least one labeled pixel.")
    t, p = t[known].astype(np.int64), p[known].astype(np.int64)
    highest = len(classes) - 1 if classes else int(max(t.max(), p.max()))
    if max(t.max(), p.max()) > highest or min(t.min(), p.min()) < 0:
        wrong = sorted({int(v) for v in np.unique([*np.unique(t), *np.unique(p)])} - set(range(highest + 1)))
        raise SettingsError(f"The values {wrong} are no classes: there are {highest + 1} names, of the values 0 to {highest}. Name every class.")
    counts = Counts.of(p, t, highest + 1)
    names = list(classes) if classes else [str(v) for v in range(highest + 1)]
    each = {f"f1_{name}": float(v) for name, v in zip(names[1:], counts.f1[1:], strict=True)}
    return {**counts.scores(), "challenge": challenge_score(p, t, highest), **each}
