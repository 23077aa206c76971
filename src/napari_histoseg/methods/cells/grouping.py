"""Classes of nuclei from numbers: scaled, brought down to a few axes, and grouped by k-means or a Gaussian mixture."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

MOST_AXES = 16
"""Length of the embedding that is kept of each nucleus, at most."""
AROUND_WEIGHT = 2.0
"""How much the mean of the neighborhood counts beside the nucleus itself."""
EXTRA_WEIGHT = 0.5
"""How much size and roundness count beside the first axis of the pictures."""
STARTS = 10
_TINY = 1e-9


@dataclass(frozen=True)
class Axes:
    """Principal axes of numbers.

    Attributes
    ----------
    mean, scale : float64 (d,)
        Taken off, and divided by. What is missing (NaN) is the mean.
    directions : float64 (d, k)
    """

    mean: Float64
    scale: Float64
    directions: Float64

    @classmethod
    def fit(cls, numbers: NDArray[Any], most: int, each_scaled: bool, seed: int) -> Axes:
        """Of numbers (n, d); ``each_scaled``: every column counts alike, else they are scaled together."""
        from sklearn.decomposition import PCA  # type: ignore[import-untyped]

        known = np.asarray(numbers, np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a column without any number
            mean = np.nan_to_num(np.nanmean(known, 0))
            spread = np.nan_to_num(np.nanstd(known, 0))
        scale = np.where(spread > _TINY, spread, 1.0) if each_scaled else np.ones(known.shape[1])
        centered = np.nan_to_num((known - mean) / scale)
        count = min(most, *centered.shape)
        found = PCA(count, svd_solver="covariance_eigh", random_state=seed).fit(centered) if centered.any() else None
        directions = np.eye(centered.shape[1])[:, :count] if found is None else _upright(found.components_.T)
        if not each_scaled:
            first = float((centered @ directions[:, 0]).std())
            scale = np.full(len(scale), first if first > _TINY else 1.0)
        return cls(mean, scale, directions)

    def project(self, numbers: NDArray[Any]) -> Float64:
        """(n, d) → (n, k)."""
        return np.asarray(np.nan_to_num((np.asarray(numbers, np.float64) - self.mean) / self.scale) @ self.directions)


def _upright(directions: Float64) -> Float64:
    """Axes whose largest component is positive: a sign that does not hang on the solver."""
    largest = np.abs(directions).argmax(0)
    return np.asarray(directions * np.sign(directions[largest, np.arange(directions.shape[1])]))


@dataclass(frozen=True)
class Groups:
    """Classes as Gaussians over the embedding: of one round shape for all (k-means), or each with its own (mixture).

    Attributes
    ----------
    centers : float64 (K, k)
        By falling size of the class.
    precisions : float64 (K, k, k)
        Cholesky factors of the inverse covariances.
    shares : float64 (K,)
    """

    centers: Float64
    precisions: Float64
    shares: Float64

    @classmethod
    def fit(cls, embedding: Float64, count: int, kind: Literal["kmeans", "mixture"], seed: int) -> Groups:
        """Of an embedding (n, k) with n ≥ ``count``."""
        if kind == "mixture":
            return cls._mixture(embedding, count, seed)
        from sklearn.cluster import KMeans  # type: ignore[import-untyped]
        from sklearn.exceptions import ConvergenceWarning  # type: ignore[import-untyped]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct nuclei than classes
            found = KMeans(count, n_init=STARTS, random_state=seed).fit(embedding)
        sizes = np.bincount(found.labels_, minlength=count)
        order = np.argsort(-sizes, kind="stable")
        axes = embedding.shape[1]
        sigma = np.sqrt(max(found.inertia_ / max(len(embedding) * axes, 1), _TINY))
        return cls(found.cluster_centers_[order], np.tile(np.eye(axes) / sigma, (count, 1, 1)), np.full(count, 1 / count))

    @classmethod
    def _mixture(cls, embedding: Float64, count: int, seed: int) -> Groups:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture  # type: ignore[import-untyped]

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found = GaussianMixture(count, reg_covar=1e-3, n_init=3, random_state=seed).fit(embedding)
        order = np.argsort(-found.weights_, kind="stable")
        return cls(found.means_[order], found.precisions_cholesky_[order], found.weights_[order])

    def probability(self, embedding: Float64) -> Float64:
        """(n, k) → probability of each class (n, K)."""
        logs = np.empty((len(embedding), len(self.centers)))
        for k, (center, factor, share) in enumerate(zip(self.centers, self.precisions, self.shares, strict=True)):
            away = (embedding - center) @ factor
            logs[:, k] = -0.5 * (away**2).sum(1) + np.log(np.abs(np.diag(factor))).sum() + np.log(max(share, _TINY))
        logs -= logs.max(1, keepdims=True)
        chance = np.exp(logs)
        return np.asarray(chance / chance.sum(1, keepdims=True))


@dataclass(frozen=True)
class Planes:
    """Classes apart by planes through the embedding: what a person made of them by splitting and correcting.

    Attributes
    ----------
    weights : float64 (k, K)
    offsets : float64 (K,)
    """

    weights: Float64
    offsets: Float64

    @classmethod
    def fit(cls, embedding: Float64, chosen: NDArray[np.integer], seed: int) -> Planes:
        """Of an embedding (n, k) and the class of each, 0 to K - 1, all of which occur: logistic regression, classes weighing alike."""
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

        spread = np.maximum(embedding.std(0), _TINY)
        mean = embedding.mean(0)
        found = LogisticRegression(C=10.0, class_weight="balanced", max_iter=1000, random_state=seed).fit((embedding - mean) / spread, chosen)
        weights, offsets = found.coef_.T, found.intercept_
        if weights.shape[1] == 1:  # of two classes it gives the second one only
            weights, offsets = np.hstack([0 * weights, weights]), np.concatenate([[0.0], offsets])
        weights = weights / spread[:, None]
        return cls(weights, offsets - mean @ weights)

    def probability(self, embedding: Float64) -> Float64:
        """(n, k) → probability of each class (n, K)."""
        logs = embedding @ self.weights + self.offsets
        chance = np.exp(logs - logs.max(1, keepdims=True))
        return np.asarray(chance / chance.sum(1, keepdims=True))


def to_tensors(prefix: str, part: Axes | Groups | Planes) -> dict[str, Float64]:
    """The arrays of a part by name, for a weights file."""
    return {f"{prefix}.{field.name}": np.ascontiguousarray(getattr(part, field.name)) for field in fields(part)}


def from_tensors(prefix: str, kind: type[Any], tensors: dict[str, Any]) -> Any:
    """A part from the arrays of a weights file; KeyError where one is missing."""
    return kind(**{field.name: np.asarray(tensors[f"{prefix}.{field.name}"], np.float64) for field in fields(kind)})
