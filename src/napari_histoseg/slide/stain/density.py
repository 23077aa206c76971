"""Optical density, stain matrices and CIE L*a*b*: the arithmetic that the stain methods share.

Light that passes a stain falls off exponentially with its amount (Beer-Lambert), so the optical density
``-log10(value / white)`` of each channel is linear in the amounts of the stains (Ruifrok & Johnston, "Quantification of
histochemical staining by color deconvolution", Anal. Quant. Cytol. Histol. 23, 2001).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]

#: Hematoxylin and eosin of Ruifrok & Johnston 2001, table 1.
USUAL = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11))
#: What Macenko's method finds on a usual slide scan: eosin is less pure there than in Ruifrok & Johnston's.
MEASURED = ((0.5626, 0.7201, 0.4062), (0.2159, 0.8012, 0.5581))
#: Darkest value that enters a logarithm.
DARKEST = 0.5
#: Linear sRGB to XYZ (D65), each row divided by the white's.
_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
TO_XYZ: Float64 = _XYZ / _XYZ.sum(1, keepdims=True)


def to_density(values: npt.ArrayLike, white: npt.ArrayLike) -> Float64:
    """Optical density (base 10) of colors ``(..., 3)``; 0 is glass."""
    return np.asarray(-np.log10(np.maximum(np.asarray(values, float), DARKEST) / np.asarray(white, float)))


def density_table(white: npt.ArrayLike) -> Float64:
    """Optical density of all 256 values of each channel, ``(3, 256)``."""
    return np.ascontiguousarray(to_density(np.repeat(np.arange(256.0)[:, None], 3, 1), white).T)


def stain_matrix(vectors: npt.ArrayLike) -> Float64:
    """Rows of length 1: hematoxylin, eosin, and the direction at right angles to both (the residual)."""
    hematoxylin, eosin = np.asarray(vectors, float)
    residual = np.cross(hematoxylin, eosin)
    if np.linalg.norm(residual) < 1e-6:  # the same direction twice: anything at right angles will do
        residual = np.cross(hematoxylin, np.eye(3)[np.argmin(np.abs(hematoxylin))])
    rows = np.stack([hematoxylin, eosin, residual])
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def angle_deg(vectors: npt.ArrayLike) -> float:
    """Angle between two stain vectors in degrees."""
    a, b = np.asarray(vectors, float)
    return float(np.degrees(np.arctan2(np.linalg.norm(np.cross(a, b)), a @ b)))


def to_linear(values: npt.ArrayLike) -> Float64:
    """Linear light, 0 to 1, of sRGB values 0 to 255 (IEC 61966-2-1)."""
    v = np.asarray(values, float) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def to_lab(values: npt.ArrayLike) -> Float64:
    """CIE L*a*b* (D65) of sRGB colors ``(..., 3)``, 0 to 255."""
    xyz = to_linear(values) @ TO_XYZ.T
    f = np.where(xyz > 0.008856452, np.cbrt(xyz), 7.787037 * xyz + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def percentile(values: Float64, weights: Float64, percent: float) -> float:
    """Weighted percentile: the smallest value that at least ``percent`` of the weight does not exceed."""
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, percent / 100 * total[-1])])
