"""Scores of maps of clusters, which nobody named: each cluster is given a true class first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.errors import SettingsError

UNLABELED = 255
"""Value of truth that nobody annotated: such pixels take no part."""

Table = NDArray[np.int64]


def overlap(predicted: ArrayLike, true: ArrayLike) -> tuple[Table, NDArray[np.int64], NDArray[np.int64]]:
    """Pixels (clusters, classes) by cluster and true class, the clusters, and the classes, as far as they occur."""
    p, t = np.asarray(predicted).ravel(), np.asarray(true).ravel()
    known = t != UNLABELED
    clusters, rows = np.unique(p[known], return_inverse=True)
    classes, columns = np.unique(t[known], return_inverse=True)
    table = np.bincount(rows * len(classes) + columns, minlength=len(clusters) * len(classes)).reshape(len(clusters), len(classes))
    return table.astype(np.int64), clusters.astype(np.int64), classes.astype(np.int64)


def by_overlap(table: Table) -> NDArray[np.int64]:
    """The class (column) that each cluster overlaps most, as in the paper's table 1; several clusters may have one class."""
    return np.asarray(table.argmax(1), np.int64)


def iou_of(table: Table, classes: ArrayLike) -> NDArray[np.float64]:
    """Intersection over union of each class (column), when each cluster (row) is given a class."""
    given = np.zeros((table.shape[1], table.shape[1]), np.int64)
    np.add.at(given, np.asarray(classes, np.int64), table)
    both = np.diag(given)
    return np.asarray(both / np.maximum(given.sum(0) + given.sum(1) - both, 1))


def iou_one_to_one(table: Table) -> NDArray[np.float64]:
    """The same for the best assignment of at most one cluster to each class, in which all others count as missed."""
    from scipy.optimize import linear_sum_assignment

    either = table.sum(1)[:, None] + table.sum(0)[None, :] - table
    iou = table / np.maximum(either, 1)
    rows, columns = linear_sum_assignment(-iou)
    best = np.zeros(table.shape[1])
    best[columns] = iou[rows, columns]
    return best


def score_tissue(predicted: ArrayLike, true: ArrayLike, classes: Sequence[str] | None = None) -> dict[str, Any]:
    """Score a map of clusters against true classes.

    Parameters
    ----------
    predicted : (h, w) int
        Clusters; 0, the background, is one of them.
    true : (h, w) int
        Class values; 255 where nothing is known.
    classes : sequence of str, optional
        Names of the class values 0, 1, 2 ….

    Returns
    -------
    dict
        ``mean_iou``: mean over the classes that occur of the intersection over union, each cluster given the class that it overlaps
        most (paper, table 1); ``mean_iou_one_to_one``: each class given at most one cluster; ``iou_<class>`` (by highest
        overlap); ``accuracy``; ``n_clusters``.

    Raises
    ------
    SettingsError
        The shapes differ, nothing is annotated, or a value has no name.
    """
    p, t = np.asarray(predicted), np.asarray(true)
    if p.shape != t.shape:
        raise SettingsError(f"Prediction and truth must have one shape. Got {p.shape} and {t.shape}.")
    table, clusters, values = overlap(p, t)
    if not len(values):
        raise SettingsError("Nothing is annotated in the truth: all its pixels have the value 255. Give a truth with classes.")
    if classes and (wrong := [int(v) for v in values if v >= len(classes)]):
        raise SettingsError(f"The values {wrong} are no classes: there are {len(classes)} names, of the values 0 to {len(classes) - 1}. Name every class.")
    given = by_overlap(table)
    iou = iou_of(table, given)
    names = [classes[v] if classes else str(v) for v in values]
    scores: Mapping[str, Any] = {f"iou_{name}": float(value) for name, value in zip(names, iou, strict=True)}
    right = int(table[np.arange(len(clusters)), given].sum())
    return {
        "mean_iou": float(iou.mean()),
        "mean_iou_one_to_one": float(iou_one_to_one(table).mean()),
        "accuracy": right / int(table.sum()),
        "n_clusters": len(clusters),
        **scores,
    }
