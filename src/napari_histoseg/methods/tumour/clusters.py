"""Kinds of patches, found by k-means and frozen into a torch module (cluster guiding, H2G-Net §2.3)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from napari_histoseg.errors import DatasetError

CLUSTERS, VARIANCE = 10, 0.95
RESTARTS = 10


class ClusterGuide(nn.Module):
    """z-score, principal components, nearest centroid: frozen, all in buffers, in float32 also where the rest is not.

    Parameters
    ----------
    mean, spread : (c,)
        Of the z-score; a spread is never 0.
    center : (c,)
        Taken off before the projection.
    components : (p, c)
    centroids : (k, p)
    """

    mean: Tensor
    spread: Tensor
    center: Tensor
    components: Tensor
    centroids: Tensor

    def __init__(self, mean: Tensor, spread: Tensor, center: Tensor, components: Tensor, centroids: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("spread", spread)
        self.register_buffer("center", center)
        self.register_buffer("components", components)
        self.register_buffer("centroids", centroids)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> ClusterGuide:
        """The guide that gave this ``state_dict``; its sizes are those of the tensors."""
        return cls(**state)

    @property
    def clusters(self) -> int:
        """How many there are."""
        return len(self.centroids)

    def forward(self, features: Tensor) -> Tensor:
        """Features (n, c) → cluster of each (n,), int64."""
        # Products in half precision would move patches to other clusters.
        with torch.autocast(features.device.type, enabled=False):
            z = (features.float() - self.mean) / self.spread
            scores = (z - self.center) @ self.components.T
            # The square of the score itself is the same for all centroids.
            distances = self.centroids.square().sum(1) - 2 * scores @ self.centroids.T
        return distances.argmin(1)


def fit_clusters(features: NDArray[np.floating], k: int = CLUSTERS, variance: float = VARIANCE, seed: int = 0) -> ClusterGuide:
    """Fit z-score, principal components and k-means with scikit-learn, and freeze them.

    Parameters
    ----------
    features : (n, c)
        The paper's are VGG-16's of 100 batches of 32 patches.
    k : int
        Clusters; 10 in the paper.
    variance : float
        Share of the variance that the principal components keep, above 0 and below 1; 0.95 in the paper.
    seed : int

    Raises
    ------
    DatasetError
        If there are numbers that are not finite, or fewer different patches than clusters, or than two.
    """
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    from sklearn.decomposition import PCA  # type: ignore[import-untyped]
    from sklearn.preprocessing import StandardScaler  # type: ignore[import-untyped]

    x = np.asarray(features, np.float64)
    if not np.isfinite(x).all():
        raise DatasetError("The features of some patches are not finite, so they cannot be clustered. Check the network that made them.")
    different = len(np.unique(x, axis=0))
    if different < max(k, 2):
        raise DatasetError(f"{k} clusters need {max(k, 2)} or more different patches, and there are {different}. Annotate more, or ask for fewer clusters.")
    scale = StandardScaler().fit(x)
    z = scale.transform(x)
    components = PCA(variance, svd_solver="full").fit(z)
    means = KMeans(k, n_init=RESTARTS, random_state=seed).fit(components.transform(z))
    return ClusterGuide(
        *(torch.from_numpy(np.asarray(a, np.float32)) for a in (scale.mean_, scale.scale_, components.mean_, components.components_, means.cluster_centers_))
    )
