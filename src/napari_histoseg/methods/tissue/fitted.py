"""What clustering has learned: classes of tissue, finer ones inside each, and what a person called them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError, WeightsError
from napari_histoseg.methods.tissue.clusterer import Clusterer, Seen
from napari_histoseg.methods.tissue.config import Clustering, TissueSettings
from napari_histoseg.methods.tissue.variants import WAYS, Pictures
from napari_histoseg.nn.weights import ModelCard, load_tensors, read_card, save_tensors
from napari_histoseg.objects.colors import numbered_classes

PARTS = 3
"""Finer classes inside each, for when a person splits it."""
AXES = 8
"""Numbers that say where a patch lies among others."""
PLACES = 20_000
LEAST_PLACES = 30
"""A class seen at fewer places is not divided."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """Learned classes of tissue, ready for pictures.

    Attributes
    ----------
    settings : Clustering
    mpp : float
        Pixel size that they were learned at.
    clusterer : Clusterer
    groups : int (n,)
        The class, from 0, of each class that the clusterer tells apart.
    points : float32 (n_fine, d)
        Middle of each fine class's descriptions: first one for each class, the largest, then the others.
    owners : int (n_fine,)
        The class, from 0, that each fine class belongs to.
    mean, axes : float32 (d,), (d, k)
        Directions in which descriptions differ most.
    classes : tuple of dict
        Value, name and color; the value of class k is k + 1, as long as nobody split it.
    shown : dict
        The value of the class that each fine value (from 1) is shown as, where it differs.
    """

    settings: Clustering
    mpp: float
    clusterer: Clusterer
    groups: NDArray[np.int64]
    points: NDArray[np.float32]
    owners: NDArray[np.int64]
    mean: NDArray[np.float32]
    axes: NDArray[np.float32]
    classes: tuple[dict[str, Any], ...]
    shown: dict[int, int]

    @property
    def n_classes(self) -> int:
        """Classes before anybody split or merged them."""
        return int(self.owners.max()) + 1

    def probability(self, seen: Seen) -> NDArray[np.float32]:
        """Of each class (n_classes, h, w), at the clusterer's resolution."""
        if np.array_equal(self.groups, np.arange(self.n_classes)):
            return seen.probability
        chance = np.zeros((self.n_classes, *seen.probability.shape[1:]), np.float32)
        np.add.at(chance, self.groups, seen.probability)
        return chance

    def fine(self, seen: Seen) -> NDArray[np.int32]:
        """The fine value that a place has in each class (n_classes, h', w'), would it be of that class."""
        rows = seen.features.reshape(len(seen.features), -1).T
        apart = (self.points**2).sum(1) - 2 * rows @ self.points.T
        values = np.empty((self.n_classes, len(rows)), np.int32)
        for k in range(self.n_classes):
            mine = np.flatnonzero(self.owners == k)
            values[k] = mine[apart[:, mine].argmin(1)] + 1
        return values.reshape(self.n_classes, *seen.features.shape[1:])

    def place(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Where descriptions (n, d) lie among others (n, k)."""
        return np.asarray((features - self.mean) @ self.axes, np.float32)

    def save(self, path: Path, card: ModelCard) -> None:
        """Write a weights file."""
        import torch

        own = {"groups": self.groups, "points": self.points, "owners": self.owners, "mean": self.mean, "axes": self.axes}
        arrays = {**own, **{f"clusterer.{name}": values for name, values in self.clusterer.arrays().items()}}
        # Copies, for a weights file takes no two tensors of one memory.
        save_tensors(path, {name: torch.from_numpy(np.array(values, order="C")) for name, values in arrays.items()}, card)

    def card(self, *, name: str, summary: str = "", **more: Any) -> ModelCard:
        """The card of a weights file."""
        known = self.settings.model_dump(mode="json")
        return ModelCard(
            method="tissue", name=name, summary=summary or "Kinds of tissue that nobody named yet.", architecture=self.settings.variant,
            width=self.n_classes, mpp=self.mpp, classes=list(self.classes),
            settings={**known, "shown": {str(k): v for k, v in self.shown.items()}}, **more,
        )  # fmt: skip


def fit(pictures: Pictures, settings: Clustering, mpp: float) -> Iterator[tuple[int, int] | str | Fitted]:
    """Learn classes from pictures whose colors can be compared; says how far it is, and gives what was learned at last."""
    clusterer: Clusterer | None = None
    for said in WAYS[settings.variant].fit(pictures, settings, mpp):
        if isinstance(said, tuple | str):
            yield said
        else:
            clusterer = said
    assert clusterer is not None
    yield around(clusterer, pictures, settings, mpp)


def around(clusterer: Clusterer, pictures: Pictures, settings: Clustering, mpp: float) -> Fitted:
    """What a clusterer makes of pictures: classes, at most as many as asked for, the largest first, and finer ones inside them."""
    groups = _grouped(clusterer.centers, settings.n_classes)
    share = max(1, PLACES // len(pictures))
    rng = np.random.default_rng(0)
    features, chosen = [], []
    for picture in pictures:
        seen = clusterer.see(picture)
        rows = seen.features.reshape(len(seen.features), -1).T
        classes = groups[_sampled(seen.probability, clusterer.stride_px, seen.features.shape[1:]).argmax(0).ravel()]
        some = np.sort(rng.permutation(len(rows))[:share])
        features.append(rows[some])
        chosen.append(classes[some])
    rows, classes = np.concatenate(features), np.concatenate(chosen)
    sizes = np.bincount(classes, minlength=int(groups.max()) + 1)
    order = np.argsort(-sizes, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    groups, classes = rank[groups], rank[classes]
    points, owners = _divided(rows, classes, len(order))
    mean, axes = _axes(rows)
    shown = {i + 1: int(owner) + 1 for i, owner in enumerate(owners) if i >= len(order)}
    return Fitted(settings, mpp, clusterer, groups, points, owners, mean, axes, numbered_classes(len(order)), shown)


def _grouped(centers: NDArray[np.float64], most: int) -> NDArray[np.int64]:
    """A class from 0 for each of a clusterer's, at most that many: near ones are one (Ward)."""
    if len(centers) <= most:
        return np.arange(len(centers))
    from scipy.cluster.hierarchy import fcluster, linkage

    return np.asarray(fcluster(linkage(centers, "ward"), most, "maxclust"), np.int64) - 1


def _sampled(probability: NDArray[np.float32], stride: int, shape: Sequence[int]) -> NDArray[np.float32]:
    """Probabilities at the middle of each described square."""
    if probability.shape[1:] == tuple(shape):
        return probability
    rows = np.minimum(np.arange(shape[0]) * stride + stride // 2, probability.shape[1] - 1)
    columns = np.minimum(np.arange(shape[1]) * stride + stride // 2, probability.shape[2] - 1)
    return probability[:, rows[:, None], columns[None, :]]


def _divided(rows: NDArray[np.float32], classes: NDArray[np.int64], count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Points of the fine classes, each class's largest first of all, and their classes."""
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    first, later, owners = [], [], []
    for k in range(count):
        mine = rows[classes == k].astype(np.float64)
        if len(mine) < LEAST_PLACES or len(np.unique(mine.round(3), axis=0)) < PARTS:
            first.append(mine.mean(0) if len(mine) else np.zeros(rows.shape[1]))
            continue
        with threadpool_limits(1):
            found = KMeans(PARTS, n_init=2, random_state=0).fit(mine)
        order = np.argsort(-np.bincount(found.labels_, minlength=PARTS), kind="stable")
        first.append(found.cluster_centers_[order[0]])
        later.extend(found.cluster_centers_[order[1:]])
        owners.extend([k] * (PARTS - 1))
    return np.array([*first, *later], np.float32), np.array([*range(count), *owners], np.int64)


def _axes(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean, and the directions of largest variance."""
    mean = rows.mean(0, dtype=np.float64)
    centered = rows - mean
    _, directions = np.linalg.eigh(centered.T @ centered)
    kept = directions[:, ::-1][:, :AXES]
    # The sign of a direction is arbitrary: its largest part counts up, so that it is the same everywhere.
    kept = kept * np.sign(kept[np.abs(kept).argmax(0), np.arange(kept.shape[1])])
    return mean.astype(np.float32), kept.astype(np.float32)


def read_fitted(path: Path) -> tuple[Fitted, ModelCard]:
    """Learned classes from a weights file.

    Raises
    ------
    WeightsError
        The file is missing, damaged, or for something else.
    """
    card = read_card(path, "tissue")
    try:
        known = {name: card.settings[name] for name in Clustering.model_fields}
        settings = TissueSettings.parse(known)
        arrays = {name: values.numpy() for name, values in load_tensors(path).items()}
        inside = {name.removeprefix("clusterer."): values for name, values in arrays.items() if name.startswith("clusterer.")}
        shown = {int(k): int(v) for k, v in card.settings["shown"].items()}
        fitted = Fitted(
            settings, card.mpp, WAYS[settings.variant].restore(inside), arrays["groups"], arrays["points"], arrays["owners"],
            arrays["mean"], arrays["axes"], tuple(card.classes), shown,
        )  # fmt: skip
    except (KeyError, ValueError, RuntimeError, TypeError, AttributeError, SettingsError) as error:
        raise WeightsError(
            f"{path} is no model of tissue that this version can read: {error}. The file was damaged, or made by another version."
        ) from None
    return fitted, card


def renamed(fitted: Fitted, classes: Sequence[dict[str, Any]], shown: dict[int, int]) -> Fitted:
    """The same with a person's classes."""
    return replace(fitted, classes=tuple(classes), shown=shown)
