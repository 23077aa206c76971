"""Nuclei without a network: blobs of hematoxylin, grown by a watershed.

The hematoxylin density is thresholded with one value for the whole slide (Otsu's, fitted on sampled tissue)
and a small share of its surroundings; its scale-space Laplacian of Gaussian, taken as a difference of
Gaussians (Lindeberg 1998), finds the blobs. Maps are 16-bit integers, which OpenCV filters exactly, so that a
tile comes out as it does within the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from napari_histoseg.errors import RegionError
from napari_histoseg.objects.measure import UInt8, stain_table
from napari_histoseg.objects.runs import Float32, Int32

from .decode import Decoded, distance, fill_holes, tidy
from .seeds import Mask, find_peaks, merge_peaks, watershed

UInt16 = npt.NDArray[np.uint16]

_UNIT = 16384
"""Optical density is kept as 1/16384; it saturates at 4."""

_STEP = 1.26
"""Ratio of two neighboring scales."""

_SMOOTH_UM = 0.25
_GLASS_OD = 0.05
_SURROUNDINGS_UM = 35.0
_SURROUNDINGS_SHARE = 0.2


@dataclass(frozen=True, slots=True)
class LogModel:
    """What is fitted once per slide.

    Attributes
    ----------
    threshold_od
        Hematoxylin density (base 10) that divides nuclei from the rest of the tissue.
    """

    threshold_od: float


def fit_log(samples: Iterable[UInt8], mpp: float) -> LogModel:
    """Fit the foreground threshold on sampled tissue: Otsu's, glass left out.

    Parameters
    ----------
    samples : iterable of uint8 (h, w, 3)
        RGB patches of tissue from all over the slide.
    mpp : float
        Pixel size of the samples, µm; that of the run.

    Raises
    ------
    RegionError
        No sample holds tissue.
    """
    histogram = np.zeros(65536, np.int64)
    for image in samples:
        values = _hematoxylin(image, mpp)[_tissue(image)]
        histogram += np.bincount(values.ravel(), minlength=65536)
    if np.count_nonzero(histogram) < 2:
        raise RegionError("The samples hold no tissue: every pixel is glass or of one color. Pass patches from within the tissue mask.")
    return LogModel(threshold_od=_otsu(histogram) / _UNIT)


def segment_log(
    image: UInt8,
    model: LogModel,
    *,
    mpp: float,
    min_radius_um: float = 1.5,
    max_radius_um: float = 4.0,
    sensitivity: float = 0.5,
    min_area_um2: float = 5.0,
    seed_radius_um: float = 2.0,
    merge_saddle: float = 0.7,
    min_seed: float = 0.05,
) -> tuple[Decoded, Float32]:
    """Segment nuclei by their hematoxylin.

    Parameters
    ----------
    image : uint8 (h, w, 3)
        RGB.
    model : LogModel
        From :func:`fit_log` on the same slide at the same pixel size.
    mpp : float
        Pixel size, µm.
    min_radius_um, max_radius_um
        Range of nuclear radii that the blob detection looks for.
    sensitivity
        0 to 1. At 0.5 the model's threshold holds; each 0.1 more lowers it by a tenth and finds paler nuclei.
    min_area_um2
        Smaller objects are dropped.
    seed_radius_um
        Least distance of two seeds.
    merge_saddle
        Seeds within ``max_radius_um`` merge if the seed map between them never falls below this share of the
        lower.
    min_seed
        Least height of a seed: its depth in the foreground (µm) times the square root of its blob response
        (density).

    Returns
    -------
    decoded : Decoded
        Labels, and the mean probability of each.
    probability : float32 (h, w)
        Density over twice the threshold at the pixel, at most 1: 0.5 is the threshold. A score, not
        calibrated.

    Raises
    ------
    ValueError
        The radii are not ascending and positive.
    """
    if not 0 < min_radius_um <= max_radius_um:
        raise ValueError(
            f"min_radius_um is {min_radius_um} and max_radius_um is {max_radius_um}; they must be positive, the first at most the second."
        )
    if image.size == 0:
        nothing = np.zeros(image.shape[:2], np.float32)
        return Decoded(nothing.astype(np.int32), np.zeros(0, np.float32)), nothing
    density = _hematoxylin(image, mpp)
    limit = _limit(density, model.threshold_od * (1.5 - sensitivity), mpp)
    mask = _clean(density > limit)
    blobs = _blobs(density, min_radius_um / mpp, max_radius_um / mpp)
    # 1/64 px times the root of 1/16384: both exact in every crop, unlike a power of a float.
    seeds = (distance(mask, 1.0) * np.sqrt(blobs.astype(np.float64)) / 16).astype(np.int32)
    unit = 64 * math.sqrt(_UNIT) / 16
    peaks = find_peaks(seeds, max(1, round(seed_radius_um / mpp)), max(0, int(min_seed / mpp * unit)))
    ids = merge_peaks(seeds, peaks, max_radius_um / mpp, merge_saddle)
    markers = np.zeros(mask.shape, np.int32)
    markers[peaks[:, 0], peaks[:, 1]] = ids
    labels = watershed(seeds.astype(np.float32), markers, mask, step=4.0)
    probability = np.minimum(density / (2 * limit.astype(np.float32)), np.float32(1))
    return tidy(labels, probability, min_area_px=math.ceil(min_area_um2 / mpp**2)), probability


def halo_um(max_radius_um: float = 4.0) -> float:
    """Margin (µm) around a tile beyond which no pixel matters to an object inside it."""
    return _SURROUNDINGS_UM / 2 + 8 * max_radius_um


def _hematoxylin(image: UInt8, mpp: float) -> UInt16:
    """Smoothed hematoxylin density in units of 1/16384."""
    table = np.rint(stain_table()[0] * _UNIT).astype(np.int32)
    density = table[0][image[..., 0]] + table[1][image[..., 1]] + table[2][image[..., 2]]
    return _blurred(np.clip(density, 0, 65535).astype(np.uint16), _SMOOTH_UM / mpp)


def _blurred(density: UInt16, sigma_px: float) -> UInt16:
    if density.size == 0 or sigma_px < 0.3:
        return density
    blurred: UInt16 = cv2.GaussianBlur(density, (0, 0), sigma_px).astype(np.uint16, copy=False)
    return blurred


def _tissue(image: UInt8) -> Mask:
    """Pixels whose mean optical density is above that of glass."""
    density = -np.log10(np.maximum(np.arange(256), 1) / 255).astype(np.float32)
    mean = (density[image[..., 0]] + density[image[..., 1]] + density[image[..., 2]]) / 3
    tissue: Mask = mean > _GLASS_OD
    return tissue


def _otsu(histogram: npt.NDArray[np.int64]) -> float:
    """Upper end of the lower class that makes the variance between the classes largest (Otsu 1979)."""
    values = np.arange(len(histogram), dtype=np.float64)
    below, total = np.cumsum(histogram), histogram.sum()
    sums = np.cumsum(histogram * values)
    above = total - below
    known = (below > 0) & (above > 0)
    low = np.divide(sums, below, out=np.zeros_like(sums), where=known)
    high = np.divide(sums[-1] - sums, above, out=np.zeros_like(sums), where=known)
    return float(np.argmax(np.where(known, below * (above * (high - low) ** 2), 0)))


def _limit(density: UInt16, threshold_od: float, mpp: float) -> UInt16:
    """Threshold at each pixel: the slide's, drawn a little toward the mean of the surroundings."""
    size = 2 * round(_SURROUNDINGS_UM / mpp / 2) + 1
    around = cv2.boxFilter(density, cv2.CV_64F, (size, size), borderType=cv2.BORDER_REFLECT)
    limit = (1 - _SURROUNDINGS_SHARE) * threshold_od * _UNIT + _SURROUNDINGS_SHARE * around
    quantized: UInt16 = np.clip(limit, 1, 65535).astype(np.uint16)
    return quantized


def _clean(mask: Mask) -> Mask:
    """Open by a small disc and fill holes."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    opened = cv2.morphologyEx(mask.view(np.uint8), cv2.MORPH_OPEN, cross)
    return fill_holes(opened.astype(np.int32)) > 0


def _blobs(density: UInt16, min_radius_px: float, max_radius_px: float) -> Int32:
    """Largest scale-normalized blob response over the radii, 0 and more, in units of density.

    The response of a scale σ, (G(σ) - G(1.26 σ)) / 0.26, is close to -σ² times the Laplacian of Gaussian,
    which is largest at σ = r / √2 in the middle of a disc of radius r.
    """
    sigma = max(min_radius_px / math.sqrt(2), 0.5)
    best = np.zeros(density.shape, np.int32)
    fine = _blurred(density, sigma).astype(np.int32)
    while True:
        # Blurring the blurred image keeps the kernels of all but the first scale small.
        more = sigma * math.sqrt(_STEP**2 - 1)
        coarse = _blurred(fine.astype(np.uint16), more).astype(np.int32)
        np.maximum(best, fine - coarse, out=best)
        fine, sigma = coarse, sigma * _STEP
        if sigma * math.sqrt(2) > max_radius_px:
            return (best / (_STEP - 1)).astype(np.int32)
