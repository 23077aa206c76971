"""Stains apart, and stains shaken: separation into amounts, and augmentation for training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from napari_histoseg.slide.stain.density import USUAL, Float64, density_table, stain_matrix
from napari_histoseg.slide.stain.effect import fan_of
from napari_histoseg.slide.stain.histogram import check_pixels
from napari_histoseg.slide.stain.profile import StainProfile, StainVectors
from napari_histoseg.slide.stain.transform import factors_of

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Stains = StainProfile | StainVectors | None
WHITE = (255.0, 255.0, 255.0)


def _of(stains: Stains) -> tuple[Float64, tuple[float, float, float]]:
    """Stain matrix and white point; Ruifrok & Johnston's vectors and pure white where nothing is known."""
    if isinstance(stains, StainProfile):
        return stain_matrix(stains.macenko.vectors), stains.white
    return stain_matrix(USUAL if stains is None else stains.vectors), WHITE


def separate(pixels: npt.ArrayLike, profile_or_vectors: Stains = None) -> Float32:
    """Optical density (base 10) of each stain, by color deconvolution (Ruifrok & Johnston 2001).

    Parameters
    ----------
    pixels : uint8 (..., 3)
        RGB.
    profile_or_vectors : StainProfile or StainVectors, optional
        A profile gives its Macenko vectors and its white point; vectors alone, and Ruifrok & Johnston's when
        nothing is given, go with a white of 255.

    Returns
    -------
    float32 (3, ...)
        Hematoxylin, eosin, residual. A color that the two stains cannot mix has negative parts: the sum of
        ``part * vector`` is the pixel's density exactly.

    Raises
    ------
    SettingsError
        For anything but 8-bit RGB.
    """
    from napari_histoseg.slide.stain import kernels

    given = check_pixels(pixels)
    matrix, white = _of(profile_or_vectors)
    parts = np.linalg.inv(matrix).T[:, :, None] * density_table(white)[None]
    flat = np.ascontiguousarray(given).reshape(-1, 3)
    out = np.empty((3, len(flat)), np.float32)
    kernels.unmix(flat, np.ascontiguousarray(parts, dtype=np.float32), out)
    return out.reshape(3, *given.shape[:-1])


def jitter(
    rng: np.random.Generator, pixels: npt.ArrayLike, vectors: Stains = None, sigma1: float = 0.2, sigma2: float = 0.05
) -> UInt8:
    """The pixels with the amount of each stain scaled and shifted at random; glass stays glass.

    Each stain's amount ``c`` becomes ``alpha * c + beta`` (Tellez et al., IEEE Trans. Med. Imaging 37, 2018, on
    Macenko's vectors); the residual stays.

    Parameters
    ----------
    rng : numpy.random.Generator
    pixels : uint8 (..., 3)
    vectors : StainProfile or StainVectors, optional
        As for :func:`separate`.
    sigma1, sigma2 : float
        ``alpha`` is uniform in 1 ± ``sigma1``, ``beta`` in ± ``sigma2``.

    Raises
    ------
    SettingsError
        For anything but 8-bit RGB.
    """
    from napari_histoseg.slide.stain import kernels

    given = check_pixels(pixels)
    matrix, white = _of(vectors)
    alpha, beta = rng.uniform(1 - sigma1, 1 + sigma1, 2), rng.uniform(-sigma2, sigma2, 2)
    mix = np.linalg.inv(matrix) @ np.diag([*alpha, 1.0]) @ matrix
    density = density_table(white)
    factors = factors_of(density, mix, beta @ matrix[:2], np.asarray(white))
    flat = np.ascontiguousarray(given).reshape(-1, 3)
    out = np.empty_like(flat)
    kernels.recolor_density(flat, density.astype(np.float32), fan_of(None), factors, np.empty(0, np.uint32), out)
    return out.reshape(given.shape)
