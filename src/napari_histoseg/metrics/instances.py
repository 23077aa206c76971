"""Scores of instance segmentation: how well predicted objects match true ones.

All scores come from one table of overlaps, so that a large picture is read once. Ids need not be consecutive.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.errors import SettingsError


class PQ(NamedTuple):
    """Panoptic quality and its factors (Kirillov et al. 2019)."""

    dq: float
    sq: float
    pq: float


@dataclass(frozen=True)
class Overlaps:
    """Which true object overlaps which predicted one, and by how much.

    Attributes
    ----------
    true_area, pred_area : (n,), (m,) int64
        Pixels of each object.
    true_index, pred_index, shared : (k,) int64
        The overlapping pairs (indices into the areas) and their common pixels.
    """

    true_area: NDArray[np.int64]
    pred_area: NDArray[np.int64]
    true_index: NDArray[np.int64]
    pred_index: NDArray[np.int64]
    shared: NDArray[np.int64]

    @classmethod
    def of(cls, true: ArrayLike, pred: ArrayLike) -> Overlaps:
        """Count overlaps of two label pictures of one shape.

        Raises
        ------
        SettingsError
            If the shapes differ.
        """
        truth, found = np.asarray(true), np.asarray(pred)
        if truth.shape != found.shape:
            raise SettingsError(f"Truth has shape {truth.shape} and prediction {found.shape}. Give pictures of one shape.")
        t, true_area = _numbered(truth)
        p, pred_area = _numbered(found)
        both = (t > 0) & (p > 0)
        # Hashing pairs is several times faster than sorting them.
        code, pairs = pd.factorize(t[both] * np.int64(len(pred_area) + 1) + p[both])
        true_index, pred_index = np.divmod(np.asarray(pairs, np.int64), len(pred_area) + 1)
        shared = np.bincount(code, minlength=len(true_index)).astype(np.int64)
        return cls(true_area, pred_area, true_index - 1, pred_index - 1, shared)

    @cached_property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union of each overlapping pair."""
        union = self.true_area[self.true_index] + self.pred_area[self.pred_index] - self.shared
        return self.shared / union

    @property
    def empty(self) -> bool:
        """Whether neither picture holds an object."""
        return not len(self.true_area) and not len(self.pred_area)

    def matched(self, iou: float) -> NDArray[np.float64]:
        """IoU of the pairs above a threshold.

        Raises
        ------
        SettingsError
            The threshold is below 0.5, where one object could match two.
        """
        if not 0.5 <= iou < 1:
            raise SettingsError(f"The IoU threshold must be from 0.5 to below 1. Got {iou} instead.")
        return self.iou[self.iou > iou]


def _numbered(labels: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels ``(n,)`` renumbered 1 … k in the order of their ids, 0 staying 0, and the k areas."""
    codes, ids = pd.factorize(labels.reshape(-1))
    order = np.argsort(ids, kind="stable")
    order = order[np.asarray(ids)[order] != 0]
    rank = np.zeros(len(ids), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    numbered = rank[codes]
    areas = np.bincount(numbered, minlength=len(order) + 1)[1:]
    return numbered, areas.astype(np.int64)


def aji(true: ArrayLike, pred: ArrayLike) -> float:
    """Aggregated Jaccard index (Kumar et al., IEEE TMI 2017, Algorithm 1).

    Each true object is taken with the prediction of highest IoU; predictions never taken count against.
    """
    return _aji(Overlaps.of(true, pred))


def _aji(table: Overlaps) -> float:
    if table.empty:
        return 1.0
    # The pair with the highest IoU of each true object comes last in this order.
    order = np.lexsort((-table.pred_index, table.iou, table.true_index))
    t, p, shared = table.true_index[order], table.pred_index[order], table.shared[order]
    last = np.append(t[1:] != t[:-1], True) if len(t) else np.zeros(0, bool)
    t, p, shared = t[last], p[last], shared[last]
    union = int((table.true_area[t] + table.pred_area[p] - shared).sum())
    unmatched = np.ones(len(table.true_area), bool)
    unmatched[t] = False
    unused = np.ones(len(table.pred_area), bool)
    unused[p] = False
    union += int(table.true_area[unmatched].sum()) + int(table.pred_area[unused].sum())
    return float(shared.sum() / union)


def pq(true: ArrayLike, pred: ArrayLike, iou: float = 0.5) -> PQ:
    """Panoptic quality: detection quality (F1) × segmentation quality (mean IoU of matches)."""
    return _pq(Overlaps.of(true, pred), iou)


def _pq(table: Overlaps, iou: float) -> PQ:
    if table.empty:
        return PQ(1.0, 1.0, 1.0)
    matched = table.matched(iou)
    dq = _f1(table, iou)
    sq = float(matched.mean()) if len(matched) else 0.0
    return PQ(dq, sq, dq * sq)


def f1(true: ArrayLike, pred: ArrayLike, iou: float = 0.5) -> float:
    """F1 of objects matched at an IoU above the threshold."""
    return _f1(Overlaps.of(true, pred), iou)


def _f1(table: Overlaps, iou: float) -> float:
    if table.empty:
        return 1.0
    return 2 * len(table.matched(iou)) / (len(table.true_area) + len(table.pred_area))


def pixel_scores(true: ArrayLike, pred: ArrayLike) -> dict[str, float]:
    """Dice, Jaccard, sensitivity and specificity of foreground pixels; 1 where there is nothing to count."""
    t, p = np.asarray(true) != 0, np.asarray(pred) != 0
    both, n_true, n_pred = int((t & p).sum()), int(t.sum()), int(p.sum())
    clear = t.size - n_true
    return {
        "dice": 2 * both / (n_true + n_pred) if n_true + n_pred else 1.0,
        "jaccard": both / (n_true + n_pred - both) if n_true + n_pred else 1.0,
        "sensitivity": both / n_true if n_true else 1.0,
        "specificity": (clear - (n_pred - both)) / clear if clear else 1.0,
    }


def score_nuclei(pred: ArrayLike, true: ArrayLike) -> dict[str, float]:
    """All scores of nuclei segmentation for one picture.

    Parameters
    ----------
    pred, true : (h, w) integer arrays
        0 background, any positive ids.

    Returns
    -------
    dict
        ``aji``, ``pq``, ``dq``, ``sq``, ``f1_50`` … ``f1_90``, ``dice``, ``jaccard``, ``sensitivity``,
        ``specificity``, ``n_true``, ``n_pred``.
    """
    table = Overlaps.of(true, pred)
    quality = _pq(table, 0.5)
    scores: dict[str, float] = {"aji": _aji(table), "pq": quality.pq, "dq": quality.dq, "sq": quality.sq}
    scores |= {f"f1_{percent}": _f1(table, percent / 100) for percent in (50, 60, 70, 80, 90)}
    scores |= pixel_scores(true, pred)
    return scores | {"n_true": len(table.true_area), "n_pred": len(table.pred_area)}
