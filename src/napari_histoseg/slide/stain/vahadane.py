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
    vectors = start.copy()
    for _ in range(ROUNDS):
        before = vectors
        amounts = sparse_amounts(density, vectors)
        vectors = _update(vectors, amounts, density, weights)
        if np.abs(vectors - before).max() < SETTLED:
            break
    return in_order(vectors)


def sparse_amounts(density: Float64, vectors: Float64, sparsity: float = SPARSITY) -> Float64:
    """The non-negative amounts ``(n, 2)`` that explain each density best, less the price of using them.

    With two stains the optimum has both, one or none of them, so it is found without iterating.
    """
    gain = density @ vectors.T - sparsity
    cosine = float(vectors[0] @ vectors[1])
    both = (gain - cosine * gain[:, ::-1]) / max(1 - cosine**2, 1e-9)
    alone = np.maximum(gain, 0)
    alone[np.arange(len(gain)), np.argmin(gain, axis=1)] = 0
    mixed = np.all(both > 0, axis=1, keepdims=True)
    return np.asarray(np.where(mixed, both, alone))


def _update(vectors: Float64, amounts: Float64, density: Float64, weights: Float64) -> Float64:
    """One turn of block coordinate descent over the vectors (Mairal et al. 2010, algorithm 2)."""
    weighted = amounts * weights[:, None]
    gram, cross = amounts.T @ weighted, weighted.T @ density
    new = vectors.copy()
    for i in range(2):
        if gram[i, i] <= 0:
            continue
        new[i] = np.maximum(new[i] + (cross[i] - gram[i] @ new) / gram[i, i], 0)
        new[i] /= max(float(np.linalg.norm(new[i])), 1e-9)
    return new
