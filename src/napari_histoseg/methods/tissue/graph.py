"""Tissue by normalized cuts of a graph of superpixels.

References
----------
Shi and Malik, Normalized cuts and image segmentation, IEEE TPAMI 22(8), 2000: likeness falls with distance in color and, among the
neighbors in a picture, with distance in place. Superpixels of several pictures are tied by color alone, so that classes hold for all.

Ng, Jordan and Weiss, On spectral clustering, NIPS 2001: k classes at once, by k-means on the rows of the eigenvectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from napari_histoseg.methods.tissue.color import ColorSettings, Float32, Float64, UInt8, different, squares, too_few
from napari_histoseg.methods.tissue.segments import SegmentClusterer, Segments, largest_first, side_of_um, survey

MOST = 4_000
"""Superpixels of the graph."""
BESIDE = 8
"""Neighbors in place that a superpixel is tied to."""
ALIKE = 10
"""Neighbors in color that a superpixel is tied to, of any picture."""
WIDTH = 0.25
"""σ of likeness in color, as a part of how much the colors of all superpixels vary."""
VOTES = 15
"""Superpixels of the graph that say what a new one is."""
DENSE = 400
"""Up to so many superpixels all eigenvectors are found at once, which needs no start."""


@dataclass(frozen=True, eq=False)
class CutColors(SegmentClusterer):
    """Superpixels of a graph and their classes; new ones are what most of those that are nearest in color are.

    Attributes
    ----------
    colors : float64 (m, 3)
        CIELAB of the graph's superpixels.
    classes : int64 (m,)
        0 to n_fine - 1.
    """

    colors: Float64
    classes: NDArray[np.int64]

    @cached_property
    def _tree(self) -> Any:
        return cKDTree(self.colors)

    def judge(self, color: Float64) -> tuple[Float32, Float64]:
        """Parts of the votes, and the distance to the nearest class's color."""
        nearest = self._tree.query(color, k=np.arange(1, min(VOTES, len(self.colors)) + 1))[1]
        votes = self.classes[nearest]
        parts = [(votes == c).mean(1) for c in range(self.n_fine)]
        return np.stack(parts, 1).astype(np.float32), np.sqrt(squares(color, self.points).min(1))

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Superpixels, classes, and the two numbers."""
        return {"points": self.points, "colors": self.colors, "classes": self.classes, "numbers": np.array([self.reach, self.side_px])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `arrays` gave."""
        reach, side = (float(v) for v in arrays["numbers"])
        points, colors = (np.asarray(arrays[name], np.float64) for name in ("points", "colors"))
        return cls(points, reach, round(side), colors, np.asarray(arrays["classes"], np.int64))


def fit_normalized_cut(pictures: Sequence[UInt8], settings: ColorSettings, mpp: float) -> Iterator[tuple[int, int] | str | CutColors]:
    """Learn classes from a graph of superpixels of pictures (h, w, 3); says how far it is, and gives what was learned at last.

    Raises
    ------
    SettingsError
        There is no picture, one is not 8-bit RGB, or a setting is out of range.
    """
    side = side_of_um(settings.superpixel_um, mpp)
    segments = yield from survey(pictures, side, MOST, settings.seed)
    kinds = different(segments.color)
    if kinds < settings.n_classes:
        yield too_few(kinds)
    found = partition(affinity(segments), min(settings.n_classes, kinds), settings.seed)
    classes, points = largest_first(found, segments)
    far = np.sqrt(squares(segments.color, points).min(1))
    yield CutColors(points, max(float(np.quantile(far, 0.99)), 1.0), side, segments.color, classes.astype(np.int64))


def affinity(segments: Segments) -> Any:
    """Likeness of superpixels, a symmetric sparse matrix (n, n)."""
    n = len(segments.color)
    width = max(WIDTH * float(np.sqrt(segments.color.var(0).sum())), 1.0)
    rows, columns, place = [np.arange(n)], [np.arange(n)], [np.zeros(n)]
    for picture in np.unique(segments.picture):
        here = np.flatnonzero(segments.picture == picture)
        far, near = _neighbors(segments.place[here], BESIDE)
        rows.append(np.repeat(here, near.shape[1]))
        columns.append(here[near].ravel())
        # Half of the neighbors are within one σ; a single superpixel has none.
        sigma = max(float(np.median(far)), 1.0) if far.size else 1.0
        place.append((far**2 / (2 * sigma**2)).ravel())
    _, near = _neighbors(segments.color, ALIKE)
    rows, columns, place = [*rows, np.repeat(np.arange(n), near.shape[1])], [*columns, near.ravel()], [*place, np.zeros(near.size)]
    row, column = np.concatenate(rows), np.concatenate(columns)
    color = ((segments.color[row] - segments.color[column]) ** 2).sum(1) / (2 * width**2)
    single = sparse.coo_matrix((np.exp(-color - np.concatenate(place)), (row, column)), (n, n)).tocsr()
    return single.maximum(single.T)


def _neighbors(points: Float64, count: int) -> tuple[Float64, NDArray[np.intp]]:
    """Distances (n, k) and numbers (n, k) of the nearest other points, k being at most ``count``."""
    far, near = cKDTree(points).query(points, k=np.arange(1, min(count + 1, len(points)) + 1))
    return far[:, 1:], near[:, 1:]


def partition(likeness: Any, n: int, seed: int) -> NDArray[np.intp]:
    """Cut a graph into at most n classes."""
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    size = likeness.shape[0]
    if n < 2 or size <= n:
        return np.arange(size) % n
    scale = sparse.diags(1 / np.sqrt(np.asarray(likeness.sum(1)).ravel()))
    # Its largest eigenvalues have the vectors of the least ones of the Laplacian, and are found faster.
    normalized = (scale @ likeness @ scale).tocsr()
    with threadpool_limits(1):
        if size <= DENSE:
            vectors = np.linalg.eigh(normalized.toarray())[1][:, -n:]
        else:
            start = np.random.default_rng(seed).standard_normal(size)
            vectors = sparse.linalg.eigsh(normalized, n, which="LA", v0=start, ncv=4 * n + 20, tol=1e-8)[1]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        rows = vectors / np.maximum(lengths, 1e-12)
        found: NDArray[np.intp] = KMeans(n, n_init=10, random_state=seed).fit(rows).labels_.astype(np.intp)
    return found
