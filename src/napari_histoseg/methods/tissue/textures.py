"""Tissue by its texture: which color words a place is made of, and how often each occurs.

A pixel's color and contrast make it one of some dozens of words, as *pale and flat* or *blue and grainy*. A place is described by how often
each word occurs around it, and places with like descriptions are a class. So an air space between septa, or nuclei in pale cytoplasm, is
one tissue, where clustering of single colors sees two. The words follow Leung and Malik's textons (Int. J. Computer Vision 43, 2001);
their histograms are compared by the Hellinger distance, that is the Euclidean distance of their square roots.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.glass import glass
from napari_histoseg.methods.tissue.clusterer import Seen
from napari_histoseg.slide.compiled import kernel

Float32 = NDArray[np.float32]
UInt8 = NDArray[np.uint8]

STRIDE_PX = 4
"""Side of the squares that words are counted in."""
COLOR_UM = 0.75
"""σ of the blur that colors are taken at."""
CONTRASTS_UM = (0.5, 1.0)
"""Contrast is how much lightness differs between a blur of this σ and one of twice that."""
WEIGHTS = np.array([0.5, 1.0, 1.0, 1.5, 1.5], np.float32)
"""Of lightness, the two colors of CIELAB (as 8 bits), and the contrasts."""
WORD_PIXELS = 60_000
PLACES = 40_000
"""Pixels and places that words and classes are learned from."""


@dataclass(frozen=True, eq=False)
class Textures:
    """Learned words and classes.

    Attributes
    ----------
    words : float32 (k, 5)
        Color and contrasts of each word.
    points : float64 (n_fine, k)
        Square roots of each class's frequencies.
    spread : float
        Mean squared distance of a place to its class's point.
    reach : float
        The distance that 99 of 100 places keep to their point.
    window_px : float
        σ of the window that words are counted in.
    mpp : float
    """

    words: Float32
    points: NDArray[np.float64]
    spread: float
    reach: float
    window_px: float
    mpp: float

    stride_px = STRIDE_PX

    @property
    def n_fine(self) -> int:
        """Classes that are told apart."""
        return len(self.points)

    @property
    def centers(self) -> NDArray[np.float64]:
        """The classes' points."""
        return self.points

    @cached_property
    def margin_px(self) -> int:
        """Four σ of the window, and what a word looks at."""
        return margin_px(self.window_px, self.mpp)

    def see(self, image: UInt8) -> Seen:
        """Probabilities and descriptions of squares of 4 pixels."""
        places = describe(image, self.words, self.window_px, self.mpp)
        flat = places.reshape(-1, places.shape[-1])
        points = self.points.astype(np.float32)
        apart = np.maximum((flat**2).sum(1)[:, None] + (points**2).sum(1) - 2 * flat @ points.T, 0)
        nearest = apart.min(1)
        chance = np.exp((nearest[:, None] - apart) / (2 * self.spread))
        chance /= chance.sum(1, keepdims=True)
        shape = places.shape[:2]
        return Seen(
            np.ascontiguousarray(chance.T.reshape(-1, *shape)),
            np.ascontiguousarray(places.transpose(2, 0, 1)),
            (np.sqrt(nearest) / self.reach).reshape(shape).astype(np.float32),
        )

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """Words, points, and the four numbers."""
        numbers = np.array([self.spread, self.reach, self.window_px, self.mpp])
        return {"words": self.words, "points": self.points, "numbers": numbers}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `arrays` gave."""
        spread, reach, window, mpp = (float(v) for v in arrays["numbers"])
        return cls(arrays["words"].astype(np.float32), arrays["points"].astype(np.float64), spread, reach, window, mpp)


def looks(image: UInt8, mpp: float) -> Float32:
    """Color and contrasts (h, w, 5) of each pixel, weighted."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(np.float32)
    light = np.ascontiguousarray(lab[..., 0])
    parts = [_blur(lab, COLOR_UM / mpp)]
    for scale in CONTRASTS_UM:
        sigma = scale / mpp
        contrast = np.abs(_blur(light, sigma) - _blur(light, 2 * sigma))
        parts.append(_blur(contrast, 2 * sigma)[..., None])
    return np.ascontiguousarray(np.concatenate(parts, 2) * WEIGHTS)


def _blur(image: Float32, sigma: float) -> Float32:
    return image if sigma < 0.3 else np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.float32)


def describe(image: UInt8, words: Float32, window_px: float, mpp: float) -> Float32:
    """Square roots of how often each word occurs around squares of 4 pixels: (ceil(h / 4), ceil(w / 4), k)."""
    counts = count_words(looks(image, mpp), words, STRIDE_PX)
    blurred = cv2.GaussianBlur(counts, (0, 0), window_px / STRIDE_PX, borderType=cv2.BORDER_REFLECT)
    # OpenCV drops the axis of a single word.
    return np.sqrt(np.maximum(blurred, 0)).reshape(counts.shape)


@kernel
def count_words(seen: Float32, words: Float32, stride: int) -> Float32:
    """Share of the pixels of each square that are nearest to each word: (ceil(h / stride), ceil(w / stride), k)."""
    height, width, n = seen.shape
    k = words.shape[0]
    counts = np.zeros(((height + stride - 1) // stride, (width + stride - 1) // stride, k), np.float32)
    for y in range(height):
        rows = min(stride, height - y // stride * stride)
        for x in range(width):
            best, least = 0, np.float32(np.inf)
            for j in range(k):
                apart = np.float32(0)
                for c in range(n):
                    difference = seen[y, x, c] - words[j, c]
                    apart += difference * difference
                if apart < least:
                    best, least = j, apart
            columns = min(stride, width - x // stride * stride)
            counts[y // stride, x // stride, best] += np.float32(1) / np.float32(rows * columns)
    return counts


def margin_px(window_px: float, mpp: float) -> int:
    """What has to be seen around a tile."""
    # OpenCV's kernels of 32-bit images reach 4 σ.
    words = 4 * max(COLOR_UM, 4 * CONTRASTS_UM[-1]) / mpp
    whole = 4 * window_px + words + STRIDE_PX
    return STRIDE_PX * math.ceil(whole / STRIDE_PX)


def fit_textures(
    pictures: Sequence[UInt8], *, n_fine: int, n_words: int, window_um: float, glass_um: float, mpp: float, seed: int
) -> Iterator[tuple[int, int] | str | Textures]:
    """Learn words and classes from pictures (h, w, 3), without their glass; says how far it is, and gives what was learned at last."""
    if not pictures:
        raise SettingsError("There is no picture to learn from. Give at least one.")
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    rng = np.random.default_rng(seed)
    stained = [_stained(picture, glass_um / mpp) for picture in pictures]
    total = 2 * len(pictures) + 2
    share, found = max(1, WORD_PIXELS // len(pictures)), []
    for number, picture in enumerate(pictures, 1):
        found.append(_some(looks(picture, mpp)[stained[number - 1]], share, rng))
        yield number, total
    pixels = np.concatenate(found)
    different = len(np.unique(pixels[:: max(1, len(pixels) // 5000)], axis=0))
    with threadpool_limits(1):
        words = KMeans(min(n_words, different), n_init=1, random_state=seed).fit(pixels).cluster_centers_.astype(np.float32)
    window, share, found = window_um / mpp, max(1, PLACES // len(pictures)), []
    for number, picture in enumerate(pictures, 1):
        places = describe(picture, words, window, mpp)
        found.append(_some(places[_shrunk(stained[number - 1])], share, rng))
        yield len(pictures) + 1 + number, total
    places = np.concatenate(found).astype(np.float64)
    different = len(np.unique(places[:: max(1, len(places) // 5000)].round(4), axis=0))
    with threadpool_limits(1):
        fit = KMeans(min(n_fine, different), n_init=3, random_state=seed).fit(places)
    apart = np.linalg.norm(places - fit.cluster_centers_[fit.labels_], axis=1)
    order = np.argsort(-np.bincount(fit.labels_, minlength=len(fit.cluster_centers_)), kind="stable")
    spread, reach = max(float((apart**2).mean()), 1e-6), max(float(np.quantile(apart, 0.99)), 1e-3)
    yield Textures(words, fit.cluster_centers_[order], spread, reach, window, mpp)


def _stained(picture: UInt8, reach_px: float) -> NDArray[np.bool_]:
    """Pixels (h, w) to learn from: those that are not glass, as far as there are any."""
    bare = glass(picture, max(1, round(reach_px))) if reach_px else np.zeros(picture.shape[:2], bool)
    return np.ones_like(bare) if bare.all() else ~bare


def _shrunk(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Whether the first pixel of each square is set."""
    return mask[::STRIDE_PX, ::STRIDE_PX]


def _some(rows: Float32, count: int, rng: np.random.Generator) -> Float32:
    return rows if len(rows) <= count else rows[np.sort(rng.choice(len(rows), count, replace=False))]
