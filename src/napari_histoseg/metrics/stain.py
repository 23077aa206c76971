"""Scores of stain normalization: how close colors come to a target, and what is left of the source.

The first three are those of the paper (section 4.1: "L2 Euclidean distance", "color histogram correlation (averaged between
RGB channels)", "Hellinger distance between the color histograms"). It gives neither the number of bins nor any
normalization; what is chosen here is written at each. All take uint8 RGB pictures ``(h, w, 3)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.slide.stain.density import USUAL, stain_matrix, to_density
from napari_histoseg.slide.stain.glass import find_white
from napari_histoseg.slide.stain.histogram import count_colors
from napari_histoseg.slide.tissue import TISSUE_DENSITY, TISSUE_SPREAD

Picture = NDArray[np.uint8]
Vectors = Sequence[Sequence[float]]

BINS = 256
"""One bin for each gray level: no choice has to be made."""
WHITE = (255.0, 255.0, 255.0)
SSIM_WINDOW = 7
SSIM_RANGE = 1.0
"""Dynamic range of the similarity in optical density: that of a strongly stained nucleus. It is fixed, so that the scores of
different pictures compare, and that blank ones have one."""


def histograms(image: ArrayLike, bins: int = BINS) -> NDArray[np.float64]:
    """Relative frequencies of the values of each channel, ``(3, bins)``; each row sums to 1.

    Raises
    ------
    SettingsError
        If it is no uint8 RGB picture, or the bins are not from 2 to 256.
    """
    picture = _picture(image, "The picture")
    if not 2 <= bins <= BINS:
        raise SettingsError(f"A histogram has from 2 to {BINS} bins. Got {bins} instead.")
    levels = np.arange(BINS) * bins // BINS
    counts = [np.bincount(levels, np.bincount(channel, minlength=BINS), bins) for channel in picture.reshape(-1, 3).T]
    return np.asarray(np.stack(counts) / (picture.shape[0] * picture.shape[1]), np.float64)


def histogram_correlation(image: ArrayLike, target: ArrayLike, bins: int = BINS) -> float:
    """Correlation of the RGB histograms, mean over the channels: 1 is ideal.

    Pearson's coefficient of the frequencies over the bins, as OpenCV's ``HISTCMP_CORREL``. The pictures may differ in size.
    """
    return _correlation(histograms(image, bins), histograms(target, bins))


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    # A histogram that is the same in every bin correlates with nothing but its like.
    rows = np.where(size > 0, (a * b).sum(1) / np.where(size > 0, size, 1), (a == b).all(1))
    return float(np.clip(rows, -1, 1).mean())


def hellinger(image: ArrayLike, target: ArrayLike, bins: int = BINS) -> float:
    """Hellinger distance of the RGB histograms, mean over the channels: 0 is ideal, 1 says that no value is shared.

    ``sqrt(sum((sqrt(p) - sqrt(q))²) / 2)`` of the frequencies p and q, which equals ``sqrt(1 - sum(sqrt(p q)))``, OpenCV's
    ``HISTCMP_BHATTACHARYYA``. The pictures may differ in size.
    """
    return _hellinger(histograms(image, bins), histograms(target, bins))


def _hellinger(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    rows = np.sqrt(((np.sqrt(a) - np.sqrt(b)) ** 2).sum(1) / 2)
    return float(np.clip(rows, 0, 1).mean())


def euclidean(image: ArrayLike, target: ArrayLike) -> float:
    """Euclidean (L2) distance to the target, pixel by pixel: 0 is ideal.

    The paper does not say how it scales the distance. Here it is the root of the mean, over the pixels, of the squared
    distance of two colors with channels from 0 to 1, so it does not depend on the size and is at most √3 ≈ 1.73.

    Raises
    ------
    SettingsError
        If the shapes differ: then no pixel belongs to another.
    """
    a, b = _picture(image, "The picture"), _picture(target, "The target")
    _same_shape(a, b, "target")
    squared = np.square(a.astype(np.float32) - b).sum(-1, dtype=np.float64)
    return float(np.sqrt(squared.mean()) / 255)


def hematoxylin(image: ArrayLike, vectors: Vectors = USUAL) -> NDArray[np.float64]:
    """Optical density (base 10) of hematoxylin ``(h, w)``: the light it absorbs where eosin's is taken away.

    Parameters
    ----------
    image : (h, w, 3) uint8
    vectors : two triples
        Optical densities of red, green and blue for hematoxylin and eosin; Ruifrok & Johnston's (2001) when not given. The
        third direction is at right angles to both.
    """
    density = to_density(_picture(image, "The picture"), WHITE)
    return np.asarray(density @ np.linalg.inv(stain_matrix(vectors))[:, 0])


def hematoxylin_similarity(
    image: ArrayLike, source: ArrayLike, vectors: Vectors = USUAL, source_vectors: Vectors | None = None
) -> float:
    """Structural similarity (Wang et al., IEEE TIP 2004) of hematoxylin after and before: 1 is ideal.

    scikit-image's mean similarity with its 7 px window, on optical densities with a dynamic range of 1. A change of the
    amount of stain lowers it as well as a change of structure.

    Parameters
    ----------
    image, source : (h, w, 3) uint8
        The normalized picture and the one it was made from.
    vectors, source_vectors : two triples, optional
        Hematoxylin and eosin of each; the source's are the same as the picture's when not given.

    Raises
    ------
    SettingsError
        If the shapes differ, or a side is below 7 px.
    """
    from skimage.metrics import structural_similarity

    after, before = _picture(image, "The picture"), _picture(source, "The source")
    _same_shape(after, before, "source")
    if min(after.shape[:2]) < SSIM_WINDOW:
        raise SettingsError(
            f"Structural similarity needs at least {SSIM_WINDOW} × {SSIM_WINDOW} px. The picture has {after.shape[1]} × {after.shape[0]}."
        )
    pair = hematoxylin(after, vectors), hematoxylin(before, source_vectors or vectors)
    value = structural_similarity(*pair, win_size=SSIM_WINDOW, data_range=SSIM_RANGE)  # type: ignore[no-untyped-call]
    return float(value)


def find_glass(source: ArrayLike, white: Sequence[float] | None = None) -> NDArray[np.bool_]:
    """Pixels ``(h, w)`` of empty glass: as bright as it and without a hue, by the thresholds of the tissue mask.

    Parameters
    ----------
    source : (h, w, 3) uint8
    white : (float, float, float), optional
        RGB of the glass. When not given it is found in the picture; one without glass is better given its slide's.
    """
    picture = _picture(source, "The source")
    density = to_density(picture, find_white(count_colors([picture])) if white is None else white)
    return np.asarray((density.mean(-1) <= TISSUE_DENSITY) & (np.ptp(density, axis=-1) <= TISSUE_SPREAD))


def glass_change(image: ArrayLike, source: ArrayLike, glass: ArrayLike | None = None) -> float:
    """Mean absolute change of glass in gray levels: 0 is ideal; not a number where there is no glass.

    Parameters
    ----------
    image, source : (h, w, 3) uint8
    glass : (h, w) bool, optional
        Where the glass is; found in the source when not given.

    Raises
    ------
    SettingsError
        If the shapes differ.
    """
    after, before = _picture(image, "The picture"), _picture(source, "The source")
    _same_shape(after, before, "source")
    where = find_glass(before) if glass is None else np.asarray(glass, bool)
    if where.shape != after.shape[:2]:
        raise SettingsError(f"The picture has shape {after.shape} and the glass {where.shape}. Give one value a pixel.")
    return float(np.abs(after[where].astype(np.int16) - before[where]).mean()) if where.any() else float("nan")


def seam(image: ArrayLike, rows: Sequence[int], columns: Sequence[int], source: ArrayLike | None = None) -> float:
    """Mean step between neighboring pixels across the borders of tiles, over that inside them: 1 is ideal.

    Parameters
    ----------
    image : (h, w, 3) uint8
    rows, columns : sequence of int
        Where a tile begins, other than at the edge of the picture: the border lies before that row or column.
    source : (h, w, 3) uint8, optional
        The picture before; then the steps are those of the change, and what the tissue itself does there counts less.

    Returns
    -------
    float
        1 where there are no steps at all; infinite where there are some at the borders only.

    Raises
    ------
    SettingsError
        If a border is outside the picture, if there is none, or if the shapes differ.
    """
    values = _picture(image, "The picture").astype(np.int16)
    if source is not None:
        before = _picture(source, "The source")
        _same_shape(values, before, "source")
        values = values - before
    parts = [_steps(np.diff(values, axis=axis), axis, cuts) for axis, cuts in enumerate((rows, columns))]
    (across, n_across), (inside, n_inside) = (tuple(map(sum, zip(*part))) for part in zip(*parts))
    if not n_across or not n_inside:
        raise SettingsError("There are no steps to compare: give at least one border, and tiles of at least 2 px.")
    if not inside:
        return float("inf") if across else 1.0
    return float(across / n_across / (inside / n_inside))


def _steps(steps: NDArray[np.int16], axis: int, cuts: Sequence[int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sum and number of the absolute steps across the cuts, and of the others."""
    along = np.abs(steps).sum(axis=(1 - axis, 2), dtype=np.int64)
    wrong = [cut for cut in cuts if not 1 <= cut <= len(along)]
    if wrong:
        name = ("rows", "columns")[axis]
        raise SettingsError(f"Borders of tiles lie inside the picture, from 1 to {len(along)} for its {name}. Got {wrong[0]} instead.")
    border = np.zeros(len(along), bool)
    border[np.asarray(cuts, int) - 1] = True
    width = steps.size // max(len(along), 1)
    return (int(along[border].sum()), int(border.sum()) * width), (int(along[~border].sum()), int((~border).sum()) * width)


def score_stain(pred: ArrayLike, target: ArrayLike, source: ArrayLike | None = None) -> dict[str, float]:
    """All scores of stain normalization for one picture.

    Parameters
    ----------
    pred : (h, w, 3) uint8
        The normalized picture.
    target : (h, w, 3) uint8
        A picture in the style that it should have.
    source : (h, w, 3) uint8, optional
        The picture that it was made from.

    Returns
    -------
    dict
        ``histogram_correlation``, ``hellinger``, ``euclidean`` (not a number where the shapes differ), and with a source
        ``hematoxylin_ssim`` (not a number below 7 px) and ``glass_change`` (not a number without glass).
    """
    image, wanted = _picture(pred, "The prediction"), _picture(target, "The target")
    ours, theirs = histograms(image), histograms(wanted)
    scores = {
        "histogram_correlation": _correlation(ours, theirs),
        "hellinger": _hellinger(ours, theirs),
        "euclidean": euclidean(image, wanted) if image.shape == wanted.shape else float("nan"),
    }
    if source is None:
        return scores
    scores["glass_change"] = glass_change(image, source)
    small = min(image.shape[:2]) < SSIM_WINDOW
    scores["hematoxylin_ssim"] = float("nan") if small else hematoxylin_similarity(image, source)
    return scores


def _picture(image: ArrayLike, what: str) -> Picture:
    picture = np.asarray(image)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise SettingsError(f"{what} has shape {picture.shape} and type {picture.dtype}. Give an RGB picture (height, width, 3) of uint8.")
    if not picture.size:
        raise SettingsError(f"{what} is empty: its shape is {picture.shape}. Give a picture with at least one pixel.")
    return picture


def _same_shape(a: NDArray[np.generic], b: NDArray[np.generic], name: str) -> None:
    if a.shape != b.shape:
        raise SettingsError(f"The picture has shape {a.shape} and the {name} {b.shape}. Give pictures of one shape.")
