"""Scores of cell classes that were found without labels: clusters matched to classes, and how much clusterings agree.

Clusters have no names that a truth knows, so each is taken for the class that suits all of them best (`Matching`). Scores are
then those of a classification (Yuan & Suh 2018, §3.3), and the adjusted Rand index, which needs no matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment

from napari_histoseg.errors import SettingsError
from napari_histoseg.metrics.joint import UNLABELED

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Matching:
    """Which class each cluster is taken for.

    As many clusters as classes: one each, so that as many objects as possible are right. More clusters: every class gets at
    least one and each of the others joins a class, again so that as many objects as possible are right, as a person gives
    two clusters one name. The more clusters, the easier the score. Fewer clusters: one class each, and the classes that are
    left have no object that is predicted to be of them.

    Attributes
    ----------
    table : (classes, clusters) int64
        Objects by true class and cluster.
    class_of : (clusters,) int64
        Index of the class that each cluster is taken for.
    """

    table: Int64
    class_of: Int64

    @classmethod
    def best(cls, table: ArrayLike) -> Matching:
        """The best matching of a table (classes, clusters) of counts."""
        counts = np.asarray(table, np.int64)
        most = counts.max(0)
        class_of = counts.argmax(0).astype(np.int64)
        # What is lost where a cluster is not taken for its largest class: the least of it is the best matching, also where
        # clusters are left over and join their largest class.
        classes, clusters = linear_sum_assignment(most - counts)
        class_of[clusters] = classes
        return cls(counts, class_of)

    @property
    def confusion(self) -> Int64:
        """Objects (classes, classes): row the true class, column the predicted one."""
        confusion = np.zeros((len(self.table), len(self.table)), np.int64)
        np.add.at(confusion.T, self.class_of, self.table.T)
        return confusion


def contingency(predicted: ArrayLike, true: ArrayLike) -> tuple[Int64, NDArray[Any], NDArray[Any]]:
    """Objects by true class and cluster: the table (classes, clusters), the classes, and the clusters, both in rising order.

    Raises
    ------
    SettingsError
        The two are not of the same objects.
    """
    p, t = np.asarray(predicted).ravel(), np.asarray(true).ravel()
    if len(p) != len(t):
        raise SettingsError(f"There are {len(p)} predicted and {len(t)} true classes. Give one of each for every object.")
    clusters, column = np.unique(p, return_inverse=True)
    classes, row = np.unique(t, return_inverse=True)
    table = np.bincount(row * len(clusters) + column, minlength=len(classes) * len(clusters))
    return table.reshape(len(classes), len(clusters)).astype(np.int64), classes, clusters


def adjusted_rand(first: ArrayLike, second: ArrayLike) -> float:
    """How alike two clusterings of the same objects are: 1 for the same, about 0 by chance (Hubert & Arabie 1985, equation 5).

    Two clusterings that put all objects together, or each alone, are the same.
    """
    return _rand_of(contingency(first, second)[0])


def _rand_of(table: Int64) -> float:
    pairs, rows, columns = (float((n * (n - 1.0) / 2).sum()) for n in (table, table.sum(1), table.sum(0)))
    count = float(table.sum())
    all_pairs = count * (count - 1) / 2
    expected = rows * columns / all_pairs if all_pairs else 0.0
    highest = (rows + columns) / 2
    return 1.0 if highest == expected else (pairs - expected) / (highest - expected)


def agreement(assignments: Sequence[ArrayLike]) -> float:
    """How alike several clusterings of the same objects are: the mean adjusted Rand index over all pairs.

    Parameters
    ----------
    assignments : sequence of (n,) array
        Two or more, for instance from several seeds; the numbers of the clusters may differ.

    Raises
    ------
    SettingsError
        There are fewer than two, or they are not of the same objects.
    """
    given = [np.asarray(each).ravel() for each in assignments]
    if len(given) < 2 or len({len(each) for each in given}) > 1:
        lengths = ", ".join(str(len(each)) for each in given) or "none"
        raise SettingsError(f"Agreement needs two or more clusterings of the same objects. Got clusterings of {lengths} objects.")
    return float(np.mean([adjusted_rand(a, b) for a, b in combinations(given, 2)]))


def score_cells(predicted: ArrayLike, true: ArrayLike) -> dict[str, Any]:
    """All scores of classes of cells.

    Parameters
    ----------
    predicted, true : (n,) arrays of numbers or names
        Of the same objects. Where all predicted ones are names, and names of the truth, they are taken as they are; else
        (and always where they are numbers) clusters are matched to classes as `Matching` says.

    Returns
    -------
    dict
        ``accuracy``, ``balanced_accuracy`` (mean sensitivity over the true classes), ``macro_f1``, ``ari`` (adjusted Rand index
        of the clusters as they are); for each true class ``precision_<class>`` (NaN where nothing is predicted to be of it),
        ``sensitivity_<class>`` and ``f1_<class>``; ``n_objects``; ``classes``, the names in the order of ``confusion``, whose rows are
        the true classes and columns the predicted ones; and ``matched``, the class that each cluster was taken for.

    Raises
    ------
    SettingsError
        There are no objects, or the two are not of the same ones.
    """
    table, classes, clusters = contingency(predicted, true)
    if not table.size:
        raise SettingsError("There are no objects to score. Give at least one object with its class.")
    names, found = [str(c) for c in classes], [str(c) for c in clusters]
    if clusters.dtype.kind not in "iub" and set(found) <= set(names):
        matching = Matching(table, np.array([names.index(name) for name in found], np.int64))
    else:
        matching = Matching.best(table)
    confusion = matching.confusion
    each = _by_class(confusion)
    scores: dict[str, Any] = {
        "accuracy": float(np.trace(confusion) / confusion.sum()),
        "balanced_accuracy": float(each["sensitivity"].mean()),
        "macro_f1": float(each["f1"].mean()),
        "ari": _rand_of(table),
    }
    scores |= {f"{kind}_{name}": float(value) for kind, values in each.items() for name, value in zip(names, values, strict=True)}
    matched = {name: names[k] for name, k in zip(found, matching.class_of, strict=True)}
    return scores | {"n_objects": int(table.sum()), "classes": names, "confusion": confusion.tolist(), "matched": matched}


def _by_class(confusion: Int64) -> dict[str, NDArray[np.float64]]:
    """Precision, sensitivity and F1 of each class; every row holds an object."""
    right, true, said = np.diag(confusion), confusion.sum(1), confusion.sum(0)
    precision = np.where(said > 0, right / np.maximum(said, 1), np.nan)
    return {"precision": precision, "sensitivity": right / true, "f1": 2 * right / (true + said)}


def majority(labels: NDArray[Any], values: NDArray[Any]) -> tuple[Int64, Int64]:
    """The class under most pixels of each object; on a tie the lower one.

    Parameters
    ----------
    labels : (h, w) integer array
        Ids, 0 background.
    values : (h, w) integer array
        Classes; 0 and 255 (not annotated) do not count.

    Returns
    -------
    ids, classes : (n,) int64
        Objects that have any class under them, by rising id.
    """
    both = (labels > 0) & (values != 0) & (values != UNLABELED)
    # Counted as one number each, which sorts faster than pairs do.
    low, high = (int(values[both].min()), int(values[both].max())) if both.any() else (0, 0)
    span = high - low + 1
    pairs, counts = np.unique(labels[both].astype(np.int64) * span + (values[both].astype(np.int64) - low), return_counts=True)
    ids, classes = pairs // span, pairs % span + low
    order = np.lexsort((classes, -counts, ids))
    first = np.concatenate([[True], np.diff(ids[order]) > 0])[: len(order)]
    return ids[order][first], classes[order][first]


def truth_table(rows: pd.DataFrame, name: str) -> tuple[Int64, NDArray[Any]]:
    """Ids and classes of a table with the columns ``id`` and ``class``; objects without a class are left out.

    Returns
    -------
    ids : (n,) int64
    classes : (n,) of int64 where all are whole numbers, else of str

    Raises
    ------
    SettingsError
        Columns are missing, an id is no whole number, or an object has two classes.
    """
    if not {"id", "class"} <= set(rows.columns):
        raise SettingsError(f"{name} has the columns {', '.join(map(str, rows.columns)) or 'none'}. A truth for cells has the columns id and class.")
    known = rows[rows["class"].notna()]
    numbers = pd.to_numeric(known["id"], errors="coerce").to_numpy(float)
    wrong = known["id"][~(numbers == np.floor(numbers)) | (numbers < 1)]
    if len(wrong):
        raise SettingsError(f"{name} has the id {str(wrong.iloc[0])!r}. Ids are those of the objects: whole numbers from 1.")
    ids = numbers.astype(np.int64)
    twice = pd.Series(ids)[pd.Series(ids).duplicated()]
    if len(twice):
        raise SettingsError(f"{name} has the id {twice.iloc[0]} more than once. Give every object one class.")
    return ids, _whole_or_text(known["class"])


def _whole_or_text(column: pd.Series) -> NDArray[Any]:
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(float)
    if len(numbers) and (numbers == np.floor(numbers)).all():
        return np.asarray(numbers, np.int64)
    return np.asarray(column.astype(str).str.strip(), str)
