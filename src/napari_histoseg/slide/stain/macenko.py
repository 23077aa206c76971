"""Stain vectors by Macenko et al., "A method for normalizing histology slides for quantitative analysis", ISBI 2009."""

from __future__ import annotations

import numpy as np

from napari_histoseg.slide.stain.density import Float64, percentile, stain_matrix
from napari_histoseg.slide.stain.profile import StainVectors

#: Robust extremes of the angle, and of the concentration, in percent (section 2.2 of the paper).
ANGLE_PERCENT, CONCENTRATION_PERCENT = 1.0, 99.0


def find_vectors(density: Float64, weights: Float64) -> Float64:
    """Hematoxylin and eosin as the robust edges of the densities in their main plane.

    Parameters
    ----------
    density : float64 (n, 3)
        Optical density of tissue colors.
    weights : float64 (n,)
        Pixels of each.

    Returns
    -------
    float64 (2, 3)
        Rows of length 1, hematoxylin first.
    """
    # Singular vectors of the densities themselves (not of their deviations from the mean): the plane holds the origin.
    plane = np.linalg.eigh((density * weights[:, None]).T @ density)[1][:, [2, 1]]
    plane[:, 0] *= np.sign(plane[:, 0].sum()) or 1.0
    along, across = (density @ plane).T
    angle = np.arctan2(across, along)
    edges = [percentile(angle, weights, p) for p in (ANGLE_PERCENT, 100 - ANGLE_PERCENT)]
    return in_order(np.stack([plane @ (np.cos(a), np.sin(a)) for a in edges]))


def in_order(vectors: Float64) -> Float64:
    """Two vectors cut to positive values, of length 1, hematoxylin first: it absorbs the more red."""
    cut = np.maximum(vectors, 0) + 1e-9
    cut /= np.linalg.norm(cut, axis=1, keepdims=True)
    return np.asarray(cut if cut[0, 0] >= cut[1, 0] else cut[::-1])


def describe(vectors: Float64, density: Float64, weights: Float64) -> StainVectors:
    """The vectors with the 99th percentile of the amount of each stain."""
    amounts = density @ np.linalg.inv(stain_matrix(vectors))
    top = [max(percentile(a, weights, CONCENTRATION_PERCENT), 0.0) for a in amounts.T[:2]]
    rows = [(round(float(r), 6), round(float(g), 6), round(float(b), 6)) for r, g, b in vectors]
    return StainVectors(vectors=(rows[0], rows[1]), concentrations=(round(top[0], 6), round(top[1], 6)))
