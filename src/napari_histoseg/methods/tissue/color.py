"""Tissue by the color of its pixels: k-means, and mean shift (Comaniciu and Meer, IEEE TPAMI 24(5), 2002).

Both learn colors, which are points of CIELAB, from pixels of all pictures together; a pixel is of the class whose color is nearest to its own.
Colors may be blurred before, so that a nucleus and what is around it are one place.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from napari_histoseg.errors import SettingsError
from napari_histoseg.methods.tissue.clusterer import Seen
from napari_histoseg.slide.compiled import kernel

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]

STRIDE_PX = 4
PLACE_UM = 4.0
"""σ of the window that describes a place, or that of the blur where it is wider."""
PIXELS = 60_000
"""Pixels that k-means looks at."""
SHIFTED_PIXELS = 5_000
"""Pixels that mean shift moves."""
NEIGHBORS = 0.05
"""The part of all pixels that the window of mean shift holds on average; the usual 0.3 finds one or two modes in H&E."""
LEAST_VARIANCE = 0.25
"""Colors of 8 bits tell no finer differences apart."""


class ColorSettings(Protocol):
    """What the baselines read of the settings; lengths in µm."""

    @property
    def n_classes(self) -> int:
        """Most classes."""

    @property
    def seed(self) -> int:
        """Of all that is drawn."""

    @property
    def smooth_um(self) -> float:
        """σ of the blur before colors are told apart; 0 for none."""

    @property
    def superpixel_um(self) -> float:
        """Mean side of a superpixel."""

    @property
    def fuzziness(self) -> float:
        """Exponent m of fuzzy c-means, above 1."""


@dataclass(frozen=True, eq=False)
class Colors:
    """Learned colors; a pixel's class is that of the nearest. Equal in every tile bit by bit, given the margin.

    Attributes
    ----------
    points : float64 (n_fine, 3)
        CIELAB; the color of the most pixels first.
    variance : float
        Mean squared distance of a pixel to its class's color along one axis.
    reach : float
        The distance that 99 of 100 pixels keep to their color.
    smooth_px : float
        σ of the blur; 0 for none.
    place_px : float
        σ of the window that describes a place.
    """

    points: Float64
    variance: float
    reach: float
    smooth_px: float
    place_px: float

    stride_px = STRIDE_PX

    @property
    def n_fine(self) -> int:
        """Classes that are told apart."""
        return len(self.points)

    @property
    def centers(self) -> Float64:
        """The classes' colors."""
        return self.points

    @cached_property
    def margin_px(self) -> int:
        """Four σ of the wider window, which is all that a blur reaches."""
        return STRIDE_PX * math.ceil((4 * max(self.smooth_px, self.place_px) + 1) / STRIDE_PX)

    def see(self, image: UInt8) -> Seen:
        """Probabilities of pixels: of a normal distribution around each color, all of one width.

        A place is described by the mean of its color, and by how much each of the three coordinates varies around it.
        """
        lab = lab_of(image)
        smooth = _blur(lab, self.smooth_px)
        probability, nearest = _soft(smooth, self.points.astype(np.float32), np.float32(0.5 / self.variance))
        mean = smooth if self.place_px == self.smooth_px else _blur(lab, self.place_px)
        mean, square = (v[::STRIDE_PX, ::STRIDE_PX] for v in (mean, _blur(lab * lab, self.place_px)))
        features = np.concatenate([mean, np.sqrt(np.maximum(square - mean * mean, 0))], 2)
        surprise = np.sqrt(nearest[::STRIDE_PX, ::STRIDE_PX]) / self.reach
        return Seen(probability, np.ascontiguousarray(features.transpose(2, 0, 1)), surprise.astype(np.float32))

    def arrays(self) -> Mapping[str, NDArray[Any]]:
        """The colors and the four numbers."""
        return {"points": self.points, "numbers": np.array([self.variance, self.reach, self.smooth_px, self.place_px])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """What `arrays` gave."""
        return cls(np.asarray(arrays["points"], np.float64), *(float(v) for v in arrays["numbers"]))


def fit_kmeans(pictures: Sequence[UInt8], settings: ColorSettings, mpp: float) -> Iterator[tuple[int, int] | str | Colors]:
    """Learn colors by k-means from pictures (h, w, 3); says how far it is, and gives what was learned at last.

    Raises
    ------
    SettingsError
        There is no picture, or one is not 8-bit RGB.
    """
    from sklearn.cluster import KMeans  # type: ignore[import-untyped]
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    pixels = yield from _sample(pictures, settings, mpp)
    kinds = different(pixels)
    if kinds < settings.n_classes:
        yield too_few(kinds)
    # Sums of several threads come in another order each time.
    with threadpool_limits(1):
        points = KMeans(min(settings.n_classes, kinds), n_init=4, random_state=settings.seed).fit(pixels).cluster_centers_
    yield _learned(points, pixels, settings, mpp)


def fit_mean_shift(pictures: Sequence[UInt8], settings: ColorSettings, mpp: float) -> Iterator[tuple[int, int] | str | Colors]:
    """Learn the modes of all colors by mean shift; the most frequent are kept, and colors of others join the nearest.

    The number of modes follows from the pictures; ``n_classes`` is the most that are kept. Yields and raises as `fit_kmeans`.
    """
    from sklearn.cluster import MeanShift, estimate_bandwidth
    from threadpoolctl import threadpool_limits

    pixels = yield from _sample(pictures, settings, mpp)
    moved = some(pixels, SHIFTED_PIXELS, np.random.default_rng(settings.seed))
    with threadpool_limits(1):
        width = estimate_bandwidth(moved, quantile=NEIGHBORS, n_samples=1000, random_state=settings.seed)
        # Bins of one or two pixels lead to no other modes, and take most of the time. Of few pixels each is a start.
        shift = MeanShift(
            bandwidth=max(float(width), 1.0),
            bin_seeding=len(moved) > 100,
            min_bin_freq=3 if len(moved) == SHIFTED_PIXELS else 1,
        )
        modes = shift.fit(moved).cluster_centers_
    yield _modes_said(len(modes), settings.n_classes)
    order = np.argsort(-np.bincount(_nearest(pixels, modes)[0], minlength=len(modes)), kind="stable")
    yield _learned(modes[order[: settings.n_classes]], pixels, settings, mpp)


def _modes_said(found: int, most: int) -> str:
    if found > most:
        return f"Mean shift found {found} kinds of color. The {most} most frequent are kept; the others join the one that is nearest."
    return f"Mean shift found {found} {'kind' if found == 1 else 'kinds'} of color, which are the classes; it tells their number itself."


def _sample(pictures: Sequence[UInt8], settings: ColorSettings, mpp: float) -> Generator[tuple[int, int], None, Float64]:
    """Blurred colors of some pixels of all pictures, (n, 3)."""
    check(pictures)
    rng = np.random.default_rng(settings.seed)
    share, found = math.ceil(PIXELS / len(pictures)), []
    for number, picture in enumerate(pictures, 1):
        found.append(some(_blur(lab_of(picture), settings.smooth_um / mpp).reshape(-1, 3), share, rng))
        yield number, len(pictures) + 1
    return np.concatenate(found).astype(np.float64)


def _learned(points: Float64, pixels: Float64, settings: ColorSettings, mpp: float) -> Colors:
    """Colors, the most frequent first; those that no pixel is nearest to are left out."""
    classes, _ = _nearest(pixels, points)
    count = np.bincount(classes, minlength=len(points))
    points = points[[c for c in np.argsort(-count, kind="stable") if count[c]]]
    _, apart = _nearest(pixels, points)
    reach = max(float(np.sqrt(np.quantile(apart, 0.99))), 1.0)
    smooth = settings.smooth_um / mpp
    return Colors(points, max(float(apart.mean() / 3), LEAST_VARIANCE), reach, smooth, max(smooth, PLACE_UM / mpp))


def _nearest(pixels: Float64, points: Float64) -> tuple[NDArray[np.intp], Float64]:
    """The nearest point of each pixel, and its squared distance."""
    apart = squares(pixels, points)
    nearest = apart.argmin(1)
    return nearest, apart[np.arange(len(pixels)), nearest]


@kernel
def _soft(lab: Float32, points: Float32, scale: np.float32) -> tuple[Float32, Float32]:
    """Probability (n, h, w) of each point, and squared distance (h, w) to the nearest; each pixel alone, for equal bits in every tile."""
    height, width, _ = lab.shape
    n = len(points)
    probability, nearest = np.empty((n, height, width), np.float32), np.empty((height, width), np.float32)
    apart = np.empty(n, np.float32)
    for y in range(height):
        for x in range(width):
            for k in range(n):
                light, green, blue = lab[y, x, 0] - points[k, 0], lab[y, x, 1] - points[k, 1], lab[y, x, 2] - points[k, 2]
                apart[k] = light * light + green * green + blue * blue
            least = apart.min()
            total = np.float32(0)
            for k in range(n):
                apart[k] = np.exp((least - apart[k]) * scale)
                total += apart[k]
            for k in range(n):
                probability[k, y, x] = apart[k] / total
            nearest[y, x] = least
    return probability, nearest


# -- for all that tell colors apart -------------------------------------------------------------------------------------


def lab_of(image: UInt8) -> Float32:
    """CIELAB of 8 bits (h, w, 3), which OpenCV computes in whole numbers, and so the same in every tile.

    Lightness goes from 0 to 255, so it counts more than in CIELAB itself. Clusters follow tissue better that way: k-means in 6 classes of
    mosaics of lung had a mean IoU of 0.56 instead of 0.51.
    """
    return cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2LAB).astype(np.float32)


def check(pictures: Sequence[UInt8]) -> None:
    """Refuse what nothing can be learned from."""
    if not len(pictures):
        raise SettingsError("There is no picture to learn from. Give at least one.")
    for number, each in enumerate(pictures, 1):
        if not isinstance(each, np.ndarray) or each.dtype != np.uint8 or each.ndim != 3 or each.shape[2] != 3 or not each.size:
            got = f"{each.dtype} {each.shape}" if isinstance(each, np.ndarray) else type(each).__name__
            raise SettingsError(f"Pictures are 8-bit RGB of the shape (h, w, 3). Picture {number} is {got}; convert it first.")


def different(colors: NDArray[np.floating[Any]]) -> int:
    """Number of colors that differ by a tenth or more."""
    return len(np.unique(colors.round(1), axis=0))


def too_few(found: int) -> str:
    """Why there are fewer classes than were asked for."""
    if found == 1:
        return "Only 1 class was found, because all that was seen has one color. Choose a place with more than that."
    return f"Only {found} classes were found, because no more than {found} different colors were seen. Choose a place with more of them."


def some(rows: NDArray[Any], count: int, rng: np.random.Generator) -> NDArray[Any]:
    """At most ``count`` rows, drawn evenly."""
    return rows if len(rows) <= count else rows[np.sort(rng.choice(len(rows), count, replace=False))]


def squares(colors: Float64, points: Float64) -> Float64:
    """Squared distances (n, k) between colors (n, 3) and points (k, 3)."""
    return np.stack([((colors - p) ** 2).sum(1) for p in points], 1)


def _blur(lab: Float32, sigma: float) -> Float32:
    return lab if sigma < 0.3 else np.asarray(cv2.GaussianBlur(lab, (0, 0), sigma, borderType=cv2.BORDER_REFLECT), np.float32)
