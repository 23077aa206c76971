"""The classes of objects as numbers to look at: members by rank, sizes, measurements, a map of the embedding, and what corrections teach."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from typing import Any, Literal, cast

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.results.classes import CLUSTER, CORRECTED, NOT_FINER, embedding_columns
from napari_histoseg.results.numbers import five, most_likely, ward
from napari_histoseg.results.record import ClassRecord
from napari_histoseg.results.result import Result

PlaneKind = Literal["pca", "tsne", "umap"]
TSNE_OBJECTS = 5_000
"""Objects that t-SNE places itself; the others go beside their nearest ones."""
TSNE_STEPS = 500
KMEANS_OBJECTS = 10_000
"""Objects that k-means looks at when it splits a class."""
NEAREST = 3
STAND_INS = 50
"""Objects that speak for a class of which nobody corrected one."""
_NOT_MEASURED = {"id", "centroid_x_um", "centroid_y_um", "probability", CLUSTER, CORRECTED}


def plane_kinds() -> tuple[PlaneKind, ...]:
    """The maps that can be made here: UMAP only where umap-learn is installed."""
    return ("pca", "tsne", "umap") if find_spec("umap") else ("pca", "tsne")


@dataclass(frozen=True, eq=False)
class Clusters:
    """The objects of a result with their classes, as arrays; rows rise by id. Of a class map, its patches.

    Parameters
    ----------
    ids : (n,) uint32
    x_um, y_um : (n,) float64
        Centroids, µm from the slide's corner.
    cluster : (n,) int32
        Values of the classes that are shown; 0 for none.
    stored : (n,) int32
        The same as the run gave them.
    probability : (n,) float32
        NaN where there is none.
    embedding : (n, d) float32
        NaN for objects without; d may be 0.
    measurements : DataFrame
        Numeric columns, a row an object.
    classes : sequence of ClassRecord
        What is shown.
    shown_as : mapping of int to int
        Of patches: the class that each stored value of the map is shown as. Empty for objects.
    """

    ids: NDArray[np.uint32]
    x_um: NDArray[np.float64]
    y_um: NDArray[np.float64]
    cluster: NDArray[np.int32]
    stored: NDArray[np.int32]
    probability: NDArray[np.float32]
    embedding: NDArray[np.float32]
    measurements: pd.DataFrame
    classes: tuple[ClassRecord, ...]
    shown_as: Mapping[int, int] = field(default_factory=dict)
    _shared: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def of(cls, result: Result) -> Clusters:
        """The objects of a result, or the patches of a class map.

        Raises
        ------
        SettingsError
            It has neither.
        """
        if not result.has_objects and not result.has_patches:
            raise SettingsError(f"{result.path} is a map of classes and has no objects to look at. Give a result with an object table.")
        rows = result.stored_objects if result.has_objects else result.patches
        names = [str(n) for n in rows.columns]
        embedded = embedding_columns(names)
        measured = [n for n in names if n not in _NOT_MEASURED and n not in embedded and pd.api.types.is_numeric_dtype(rows[n])]
        stored = rows[CLUSTER].fillna(0).to_numpy(np.int32) if CLUSTER in names else np.zeros(len(rows), np.int32)
        probability = rows["probability"] if "probability" in names else pd.Series(np.nan, rows.index)
        return cls(
            ids=rows["id"].to_numpy(np.uint32),
            x_um=rows["centroid_x_um"].to_numpy(np.float64),
            y_um=rows["centroid_y_um"].to_numpy(np.float64),
            stored=stored,
            probability=probability.to_numpy(np.float32, na_value=np.nan),
            embedding=np.ascontiguousarray(rows[embedded].to_numpy(np.float32, na_value=np.nan)),
            measurements=rows[measured],
            **_shown(result, rows, stored),
        )

    def follow(self, result: Result) -> Clusters:
        """The same objects with the classes that the result shows now; maps that were made stay. Reads anew where objects changed."""
        rows = result.stored_objects if result.has_objects else result.patches
        if not np.array_equal(rows["id"].to_numpy(), self.ids) or list(self.measurements.columns) != [n for n in rows.columns if n in self.measurements.columns]:
            return Clusters.of(result)
        same = {name: getattr(self, name) for name in ("ids", "x_um", "y_um", "stored", "probability", "embedding")}
        return Clusters(**same, measurements=self.measurements, _shared=self._shared, **_shown(result, rows, self.stored))

    def __len__(self) -> int:
        return len(self.ids)

    # -- members ------------------------------------------------------------------------------------------------------

    def members(self, value: int) -> NDArray[np.uint32]:
        """Ids of a class's objects, rising."""
        return self.ids[self._rows(value)]

    def sizes(self) -> dict[int, int]:
        """Number of objects of each class that is shown, also of those without any."""
        return {c.value: len(self._rows(c.value)) for c in self.classes}

    def positions(self, ids: ArrayLike) -> NDArray[np.intp]:
        """Rows of the ids that are here; others are left out."""
        wanted = np.asarray(ids, np.int64).ravel()
        at = np.minimum(np.searchsorted(self.ids, wanted), max(len(self) - 1, 0))
        return at[self.ids[at] == wanted] if len(self) else np.empty(0, np.intp)

    def typical(self, value: int, n: int = 50) -> NDArray[np.uint32]:
        """Ids of the objects nearest to the middle of their class, nearest first."""
        return self._ranked(value, n, self.distance)

    def outliers(self, value: int, n: int = 50) -> NDArray[np.uint32]:
        """Ids of the objects farthest from the middle of their class, farthest first."""
        return self._ranked(value, n, -self.distance)

    def borderline(self, value: int, n: int = 50) -> NDArray[np.uint32]:
        """Ids of the objects that could as well belong to another class, the least certain first.

        By the run's probability as long as the class has the objects that the run gave it; else by how much nearer the middle of another
        class is.
        """
        rows = self._rows(value)
        as_run = bool((self.stored[rows] == value).all()) and int((self.stored == value).sum()) == len(rows)
        known = self.probability[rows]
        given = as_run and len(rows) > 0 and bool(np.isfinite(known).all()) and float(np.ptp(known)) > 0
        return self._ranked(value, n, self.probability if given else self.margin)

    def _ranked(self, value: int, n: int, score: NDArray[np.float32]) -> NDArray[np.uint32]:
        """The n members of the lowest score; those without any come last."""
        rows = self._rows(value)
        keys = np.where(np.isnan(score[rows]), np.inf, score[rows])
        if 0 < n < len(rows):
            bound = np.partition(keys, n - 1)[n - 1]
            near = keys <= bound
            rows, keys = rows[near], keys[near]
        return self.ids[rows[np.argsort(keys, kind="stable")[: max(n, 0)]]]

    @cached_property
    def _order(self) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        order = np.argsort(self.cluster, kind="stable")
        return order, self.cluster[order]

    def _rows(self, value: int) -> NDArray[np.intp]:
        order, values = self._order
        first, last = np.searchsorted(values, [value, value + 1])
        return order[first:last]

    # -- distances ----------------------------------------------------------------------------------------------------

    @cached_property
    def space(self) -> NDArray[np.float32]:
        """Where objects lie among others, ``(n, d)``: the embedding, or the standardized measurements where there is none."""
        if self.embedding.shape[1]:
            return self.embedding
        values = self.measurements.to_numpy(np.float32, na_value=np.nan)
        values = np.where(np.isfinite(values), values, np.nan)
        with warnings.catch_warnings():
            # Columns without any number have no mean.
            warnings.simplefilter("ignore", RuntimeWarning)
            mean, deviation = np.nanmean(values, axis=0), np.nanstd(values, axis=0)
        scaled = (values - mean) / np.where(deviation > 0, deviation, 1)
        return np.nan_to_num(scaled).astype(np.float32) if len(self) else np.zeros(values.shape, np.float32)

    @cached_property
    def _placed(self) -> NDArray[np.bool_]:
        return cast(NDArray[np.bool_], np.isfinite(self.space).all(axis=1))

    @cached_property
    def _centers(self) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Values of the classes with objects that have a place, and the middles of those, ``(k, d)``."""
        values, centers = [], []
        for each in self.classes:
            rows = self._rows(each.value)
            rows = rows[self._placed[rows]]
            if len(rows):
                values.append(each.value)
                centers.append(self.space[rows].mean(axis=0, dtype=np.float64))
        middle = np.array(centers, np.float32).reshape(len(values), self.space.shape[1])
        return np.array(values, np.int32), middle

    @cached_property
    def distance(self) -> NDArray[np.float32]:
        """Distance of each object to the middle of its class, ``(n,)``; NaN without a place or class."""
        return self._distances[0]

    @cached_property
    def margin(self) -> NDArray[np.float32]:
        """How much farther the nearest other class's middle is than the own one, ``(n,)``; below 0 nearer to the other."""
        own, other = self._distances
        return other - own

    @cached_property
    def _distances(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        values, centers = self._centers
        own = np.full(len(self), np.nan, np.float32)
        other = np.full(len(self), np.nan, np.float32)
        if not len(values):
            return own, other
        # About the middle of all, where squares are small enough for 32 bits.
        middle = centers.mean(axis=0)
        space, centers = self.space - middle, centers - middle
        squares = np.einsum("nd,nd->n", space, space) + (centers**2).sum(axis=1)[:, None] - 2 * centers @ space.T
        apart = np.sqrt(np.maximum(squares, 0))
        column = np.full(max(int(self.cluster.max(initial=0)), int(values.max())) + 1, -1)
        column[values] = np.arange(len(values))
        mine = column[self.cluster]
        rows = np.flatnonzero(mine >= 0)
        own[rows] = apart[mine[rows], rows]
        apart[mine[rows], rows] = np.inf
        return own, apart.min(axis=0)

    @cached_property
    def _standardized(self) -> NDArray[np.float32]:
        """The space with mean 0 and deviation 1 in each direction."""
        if "standardized" not in self._shared:
            inside = self.space[self._placed]
            deviation = inside.std(axis=0, dtype=np.float64)
            scale = 1 / np.where(deviation > 0, deviation, 1)
            self._shared["standardized"] = (self.space - inside.mean(axis=0, dtype=np.float64).astype(np.float32)) * scale.astype(np.float32)
        return self._shared["standardized"]

    # -- measurements -------------------------------------------------------------------------------------------------

    def summary_table(self) -> pd.DataFrame:
        """A row a class (index: its value): ``name``, ``count``, ``share``, and the mean of each measurement."""
        values = [c.value for c in self.classes]
        sizes = self.sizes()
        head = pd.DataFrame(
            {
                "name": [c.name for c in self.classes],
                "count": [sizes[v] for v in values],
                "share": [sizes[v] / max(len(self), 1) for v in values],
            },
            index=pd.Index(values, name="value"),
        )
        return head.join(self._means)

    @cached_property
    def _means(self) -> pd.DataFrame:
        return cast(pd.DataFrame, self.measurements.groupby(self.cluster).mean())

    def box_stats(self, column: str) -> pd.DataFrame:
        """Five numbers of a measurement for each class, as a box plot draws them (Tukey).

        Returns
        -------
        DataFrame
            A row a class (index: its value): ``low``, ``q1``, ``median``, ``q3``, ``high`` and ``count``. ``low`` and ``high`` are the
            farthest values within 1.5 box lengths of the box. NaN for a class without values.
        """
        if column not in self.measurements.columns and column != "probability":
            known = ", ".join(map(str, self.measurements.columns))
            raise SettingsError(f"There is no measurement {column!r}. The measurements are: {known}.")
        numbers = self.probability if column == "probability" else self.measurements[column]
        values = np.asarray(numbers, np.float64)
        rows = {c.value: five(values[self._rows(c.value)]) for c in self.classes}
        names = ["low", "q1", "median", "q3", "high", "count"]
        table = pd.DataFrame.from_dict(rows, orient="index", columns=names).rename_axis("value")
        return table.astype({"count": int})

    # -- the map ------------------------------------------------------------------------------------------------------

    def plane(self, kind: PlaneKind = "pca", seed: int = 0) -> NDArray[np.float32]:
        """Every object as a point, ``(n, 2)``; neighbors in the embedding are neighbors here. NaN for objects without a place.

        PCA takes milliseconds. t-SNE (van der Maaten and Hinton, JMLR 9, 2008) and UMAP take longer, so call them in a worker; each is
        made once.

        Raises
        ------
        SettingsError
            The kind is unknown, or its package is not installed.
        """
        makers = {"pca": _pca, "tsne": _tsne, "umap": _umap}
        if kind not in makers:
            raise SettingsError(f"There is no map of kind {kind!r}. Use one of {', '.join(makers)}.")
        key = f"{kind} {seed}"
        if key not in self._shared:
            points = np.full((len(self), 2), np.nan, np.float32)
            inside = self.space[self._placed]
            # Too few objects for neighborhoods.
            points[self._placed] = (_pca if len(inside) < 10 else makers[kind])(inside, seed)
            self._shared[key] = points
        return self._shared[key]

    # -- new classes --------------------------------------------------------------------------------------------------

    def recluster(self, value: int, k: int = 2, seed: int = 0) -> pd.Series:
        """A class's objects in k parts by k-means on the embedding, for `ClassBook.split`.

        Returns
        -------
        Series
            The part (0 is the largest) by id. Objects without a place are left out.

        Raises
        ------
        SettingsError
            The class has fewer than k different objects.
        """
        from sklearn.cluster import KMeans  # type: ignore[import-untyped]
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        rows = self._rows(value)
        rows = rows[self._placed[rows]]
        different = len(np.unique(self.space[rows], axis=0)) if self.space.shape[1] else 0
        if k < 2 or different < k:
            raise SettingsError(f"A class is split into two or more parts, at most as many as it has different objects ({different}). Got {k} instead.")
        # A sample tells where the middles are. Several threads only wait for each other at this size.
        sample = np.random.default_rng(seed).permutation(rows)[: max(KMEANS_OBJECTS, k)]
        known = sample if len(np.unique(self.space[sample], axis=0)) >= k else rows
        with threadpool_limits(1):
            parts = KMeans(k, n_init=4, max_iter=100, random_state=seed).fit(self.space[known]).predict(self.space[rows])
        _, parts = np.unique(parts, return_inverse=True)
        rank = np.argsort(np.argsort(-np.bincount(parts, minlength=k), kind="stable"))
        return pd.Series(rank[parts].astype(np.int64), index=pd.Index(self.ids[rows], name="id"), name="part")

    def divide(self, value: int, k: int = 2) -> list[list[int]]:
        """A class's stored values in k parts whose patches look alike, for `ClassBook.split_values`.

        Ward's linkage over the middles of the values' patches, each as heavy as it has patches. Values without patches go with the first
        part.

        Returns
        -------
        list of list of int
            The part with the class's own value comes first, the others by their smallest value.

        Raises
        ------
        SettingsError
            The class has fewer than k stored values with patches.
        """
        every = [stored for stored, shown in self.shown_as.items() if shown == value]
        if len(every) < 2:
            raise SettingsError(NOT_FINER.format(next((c.name for c in self.classes if c.value == value), f"Class {value}")))
        rows = {stored: np.flatnonzero((self.stored == stored) & self._placed) for stored in every}
        known = [stored for stored in every if len(rows[stored])]
        if k < 2 or len(known) < k:
            raise SettingsError(
                f"A class of a map is split into two or more parts, at most as many as it has finer classes with patches ({len(known)}). Got {k} instead."
            )
        weights = [len(rows[stored]) for stored in known]
        groups = ward(np.array([self.space[rows[stored]].mean(axis=0, dtype=np.float64) for stored in known]), weights, k)
        parts = sorted((sorted(known[i] for i in group) for group in groups), key=lambda part: (value not in part, part))
        return [sorted({*parts[0], *every}.difference(*parts[1:])), *parts[1:]]

    def learn(self, corrections: pd.DataFrame, seed: int = 0, others: bool = True) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """What the other objects are, going by those that a person corrected: logistic regression on the standardized embedding.

        Parameters
        ----------
        corrections : DataFrame
            Columns ``id`` and ``value``, as `ClassBook.corrections` gives them.
        seed : int
        others : bool
            Classes without a correction stay: some of their objects near the middle speak for them. Without, every object goes to one of
            the corrected classes.

        Returns
        -------
        values : (n,) int32
            A class for each object; corrected ones have theirs, those without a place keep theirs.
        probability : (n,) float32
            NaN without a place.

        Raises
        ------
        SettingsError
            There are fewer than two classes to tell apart.
        """
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        from threadpoolctl import threadpool_limits

        given = corrections[corrections["id"].isin(self.ids)]
        said, truth = self.positions(given["id"]), given["value"].to_numpy(np.int32)
        rows, targets = self._examples(said, truth, seed, others)
        if len(np.unique(targets)) < 2:
            raise SettingsError(f"Learning needs corrected objects of at least two classes. Got {len(np.unique(truth))}; correct some of another class.")
        space = self._standardized
        model = LogisticRegression(class_weight="balanced", max_iter=1000, random_state=seed)
        with warnings.catch_warnings(), threadpool_limits(1):
            # Few examples can be told apart perfectly; where the weights stop then does not matter.
            warnings.simplefilter("ignore")
            model.fit(space[rows], targets)
        found, best = most_likely(model.coef_, model.intercept_, space)
        values, probability = self.cluster.copy(), np.full(len(self), np.nan, np.float32)
        values[self._placed] = model.classes_[found[self._placed]]
        probability[self._placed] = best[self._placed]
        values[said], probability[said] = truth, 1
        return values, probability

    def _examples(self, said: NDArray[np.intp], truth: NDArray[np.int32], seed: int, others: bool) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
        """Rows to learn from and their values."""
        usable = self._placed[said]
        rows, targets = [said[usable]], [truth[usable]]
        generator = np.random.default_rng(seed)
        for each in self.classes if others else ():
            if (targets[0] == each.value).any():
                continue
            mine = np.setdiff1d(self._rows(each.value), said)
            mine = mine[self._placed[mine]]
            if not len(mine):
                continue
            near = mine[self.distance[mine] <= np.median(self.distance[mine])]
            rows.append(generator.permutation(near)[:STAND_INS])
            targets.append(np.full(len(rows[-1]), each.value, np.int32))
        return np.concatenate(rows), np.concatenate(targets)


def _shown(result: Result, rows: pd.DataFrame, stored: NDArray[np.int32]) -> dict[str, Any]:
    """What the rows of a result are shown as now, as fields of `Clusters`."""
    state = result.class_reader.state
    if result.has_objects:
        return {"cluster": state.values_of_frame(rows), "classes": state.classes}
    shown_as = {value: each.value for value, each in state.by_value.items()}
    return {"cluster": state.shown(stored), "classes": state.classes, "shown_as": shown_as}


def _pca(space: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """The two directions of largest variance."""
    points = np.zeros((len(space), 2), np.float32)
    if not space.size:
        return points
    centered = space - space.mean(axis=0, dtype=np.float64).astype(np.float32)
    _, directions = np.linalg.eigh(centered.T.astype(np.float32) @ centered)
    kept = directions[:, ::-1][:, :2]
    # The sign of a direction is arbitrary: its largest part counts up, so that the map is the same everywhere.
    kept = kept * np.sign(kept[np.abs(kept).argmax(axis=0), np.arange(kept.shape[1])])
    points[:, : kept.shape[1]] = centered @ kept
    return points


def _tsne(space: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE  # type: ignore[import-untyped]
    from sklearn.neighbors import NearestNeighbors  # type: ignore[import-untyped]

    chosen = np.sort(np.random.default_rng(seed).permutation(len(space))[:TSNE_OBJECTS])
    first = _pca(space[chosen], seed)
    first *= 1e-4 / max(float(first[:, 0].std()), 1e-12)
    perplexity = min(30.0, (len(chosen) - 1) / 3)
    placed = TSNE(perplexity=perplexity, init=first, max_iter=TSNE_STEPS, random_state=seed).fit_transform(space[chosen])
    points = np.empty((len(space), 2), np.float32)
    points[chosen] = placed
    rest = np.setdiff1d(np.arange(len(space)), chosen)
    if len(rest):
        apart, near = NearestNeighbors(n_neighbors=NEAREST).fit(space[chosen]).kneighbors(space[rest])
        weight = 1 / np.maximum(apart, 1e-9)
        weight /= weight.sum(axis=1, keepdims=True)
        points[rest] = (placed[near] * weight[..., None]).sum(axis=1)
    return points


def _umap(space: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    try:
        from umap import UMAP  # type: ignore[import-not-found, unused-ignore]
    except ImportError as error:
        raise SettingsError("A UMAP needs the package umap-learn. Install it with: pip install umap-learn") from error
    return np.asarray(UMAP(random_state=seed).fit_transform(space), np.float32)
