"""Stain vectors by Vahadane et al., "Structure-preserving color normalization and sparse stain separation for
histological images", IEEE Trans. Med. Imaging 35, 2016: sparse non-negative matrix factorization."""

from __future__ import annotations

import math

import numpy as np

from napari_histoseg.slide.stain.density import Float64
from napari_histoseg.slide.stain.macenko import in_order

#: The paper's weight of sparsity is 0.1 for natural logarithms; densities here have base 10.
SPARSITY = 0.1 / math.log(10)
ROUNDS, SETTLED = 200, 1e-5


def find_vectors(density: Float64, weights: Float64, start: Float64) -> Float64:
    """Hematoxylin and eosin that give the sparsest non-negative mixtures (equation 4 of the paper).

    Minimizes ``|V - W H|² / 2 + λ |H|₁`` over non-negative stain amounts ``H`` and stain vectors ``W`` of length 1, by turns.

    Parameters
    ----------
    density : float64 (n, 3)
    weights : float64 (n,)
    start : float64 (2, 3)
        First guess.

    Returns
    -------
    float64 (2, 3)
        Rows of length 1, hematoxylin first.
    """
    from napari_histoseg.slide.stain import kernels

    density, weights = np.ascontiguousarray(density), np.ascontiguousarray(weights)
    vectors = np.ascontiguousarray(start, np.float64)
    gram, cross = np.empty((2, 2)), np.empty((2, 3))
    for _ in range(ROUNDS):
        before = vectors
        kernels.sparse_sums(density, weights, vectors, SPARSITY, gram, cross)
        vectors = _update(vectors, gram, cross)
        if np.abs(vectors - before).max() < SETTLED:
            break
    return in_order(vectors)


def _update(vectors: Float64, gram: Float64, cross: Float64) -> Float64:
    """One turn of block coordinate descent over the vectors (Mairal et al. 2010, algorithm 2)."""
    new = vectors.copy()
    for i in range(2):
        if gram[i, i] <= 0:
            continue
        new[i] = np.maximum(new[i] + (cross[i] - gram[i] @ new) / gram[i, i], 0)
        new[i] /= max(float(np.linalg.norm(new[i])), 1e-9)
    return new
