"""Cluster guiding: scikit-learn's answer, frozen into a torch module."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from napari_histoseg.errors import DatasetError
from napari_histoseg.methods.tumour.clusters import ClusterGuide, fit_clusters


@pytest.fixture
def features() -> np.ndarray:
    """Correlated numbers of different sizes, as a network's features are, with one that never changes."""
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(400, 12)) @ rng.normal(size=(12, 40))
    mixed = np.maximum(mixed, 0) * rng.uniform(0.01, 100, 40) + rng.uniform(0, 50, 40)
    mixed[:, 7] = 3
    return mixed.astype(np.float32)


def test_clusters_are_those_of_scikit_learn(features: np.ndarray) -> None:
    guide = fit_clusters(features[:300], k=10, seed=3)
    x = features.astype(np.float64)
    pipeline = make_pipeline(StandardScaler(), PCA(0.95, svd_solver="full"), KMeans(10, n_init=10, random_state=3)).fit(x[:300])
    found = guide(torch.from_numpy(features))
    assert found.dtype == torch.int64
    np.testing.assert_array_equal(found.numpy(), pipeline.predict(x))
    assert len(np.unique(found)) == guide.clusters == 10


def test_components_keep_the_variance_asked_for(features: np.ndarray) -> None:
    kept = [len(fit_clusters(features, k=2, variance=v).components) for v in (0.5, 0.95, 0.999)]
    assert kept == sorted(kept)
    assert kept[0] < kept[2] <= 39


def test_the_same_seed_gives_the_same_guide(features: np.ndarray) -> None:
    one, other = (fit_clusters(features, k=4, seed=1).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_guide_comes_back_from_its_state(features: np.ndarray) -> None:
    guide = fit_clusters(features, k=5)
    again = ClusterGuide.from_state(guide.state_dict())
    assert torch.equal(again(torch.from_numpy(features)), guide(torch.from_numpy(features)))
    assert not list(guide.parameters())


def test_half_precision_around_it_changes_no_cluster(features: np.ndarray) -> None:
    guide, x = fit_clusters(features, k=10), torch.from_numpy(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(guide(x), guide.float()(x))


@pytest.mark.parametrize(
    ("rows", "k", "message"),
    [
        ([[0.0, 1.0]] * 20 + [[1.0, 0.0]], 3, "3 clusters need 3 or more different patches, and there are 2"),
        ([[0.0, 1.0]] * 20, 1, "1 clusters need 2 or more different patches, and there are 1"),
        ([[0.0, 1.0], [np.nan, 0.0]], 2, "not finite"),
    ],
)
def test_what_cannot_be_clustered_is_said(rows: list[list[float]], k: int, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        fit_clusters(np.array(rows), k)
